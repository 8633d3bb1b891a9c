"""Records as a later release writes them: whole, under their own key, and in a format that this one does not read."""

from __future__ import annotations

from streams import partial

LATER = max(partial.READS) + 1
HEAD_BYTES = partial._SEAL.size


def later_release(value: bytes, key: bytes) -> bytes:
    """The record in the next format but one. A state, which is plain JSON today, is sealed then as all others are."""
    payload = value[HEAD_BYTES:] if partial.is_sealed(value) else value
    return partial._SEAL.pack(partial.MAGIC, LATER, partial._checksum(LATER, key, payload)) + payload
