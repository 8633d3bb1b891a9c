"""What the property tests draw: values of columns, configurations, and streams of records."""

from __future__ import annotations

from hypothesis import strategies as st

SLOTS = 61
"""Length of the vectors in the sketch suite."""

_unicode = st.text(st.characters(codec="utf-8"), max_size=12)
_common = st.sampled_from(["", "a", "ab", "GB", "München", "\0", "東京", "😀", "x" * 70, "x" * 70 + "y"])
_many = st.integers(0, 400).map("value {}".format)
texts = st.one_of(_common, _many, _unicode)
"""Category values: a few that repeat, many that do not, and any unicode."""

splits = st.lists(st.floats(0, 1), max_size=4)
"""Places at which a sequence is cut, as shares of its length."""


def values_of(one: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Up to some hundred values: enough to leave the sparse forms of every sketch behind."""
    few = st.lists(one, max_size=30)
    run = st.builds(lambda start, size: [f"value {i}" for i in range(start, start + size)], st.integers(0, 300), st.integers(0, 350))
    return st.one_of(few, st.builds(lambda left, right: left + right, few, run))
