"""Mergeable, serialisable summaries of a column: one sketch a file, one conformance suite over all.

A sketch has `merged(other)` (commutative, associative, changes neither side), `to_bytes()` and `from_bytes(data)`
(refuses what it did not write), and `==`.
"""
