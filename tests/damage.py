"""Sound bytes, and what damage makes of them: other values, broken structure, bombs."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import strategies as st

from streams.seal import seal

LIMIT = 1 << 20
HUGE = (
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
)
"""Lengths of arrays, maps and binaries of MessagePack among them."""


@st.composite
def damaged(draw: st.DrawFn, sound: st.SearchStrategy[bytes]) -> bytes:
    """Sound bytes with some flipped, cut out, repeated, or replaced by lengths that are too large."""
    found = bytearray(draw(sound))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        how = draw(st.sampled_from(("flip", "byte", "huge", "cut", "repeat")))
        if how == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "byte" and found:
            found[at] = draw(st.integers(0, 255))
        elif how == "huge":
            found[at : at + draw(st.sampled_from((0, 1, 5)))] = draw(st.sampled_from(HUGE))
        elif how == "cut":
            del found[at : at + draw(st.integers(1, 16))]
        else:
            found[at:at] = found[at : at + draw(st.integers(1, 64))] * draw(st.sampled_from((1, 50)))
    return bytes(found)


def sealed(sound: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Damage with a repaired checksum, and damage to the seal itself."""
    return st.one_of(damaged(sound.map(lambda data: data[9:])).map(seal), damaged(sound), st.binary(max_size=64))


def deep(brackets: tuple[str, str], depth: int) -> bytes:
    return (brackets[0] * depth + brackets[1] * depth).encode()


BOMBS = (
    deep(("[", "]"), 100_000),
    deep(('{"a":', "}"), 50_000),
    b"[" * 1_000_000,
    b'{"features": {' + b",".join(b'"f%d": 1' % i for i in range(50_000)) + b"}}",
    b'{"ts": ' + b"9" * 100_000 + b"}",
    b'{"event_id": "' + b"x" * 900_000 + b'"}',
)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, 2**64, -(2**70), 1e308, 0, -1]))
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def records(draw: st.DrawFn, kind: Callable[[], list[bytes]]) -> bytes:
    """A record of a topic: damaged, with fields of strange values, wrapped in CloudEvents, or a bomb."""
    sound = st.sampled_from(kind())
    how = draw(st.sampled_from(("damaged", "damaged", "fields", "fields", "noise", "bomb")))
    if how == "bomb":
        return draw(st.sampled_from(BOMBS))
    if how == "noise":
        return draw(st.one_of(st.binary(max_size=64), plain.map(_json)))
    if how == "damaged":
        return draw(damaged(sound))
    row = json.loads(draw(sound))
    for name in draw(st.lists(st.sampled_from([*row, "segments", "score", "strange"]), max_size=3)):
        row[name] = draw(plain)
    if draw(st.booleans()):
        row = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": draw(plain), "data": row}
    return _json(row)


def _json(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


headers = st.lists(
    st.tuples(st.sampled_from(["ce_id", "ce_time", "ce_specversion", "x"]), st.binary(max_size=12)), max_size=3
)
