"""Undeclared names of payloads, with counts: a bounded set that is a function of what was counted.

Kept are the `MOST` names with the smallest hash; the counts of all others are one number. The smallest of a union are
among the smallest of its parts, so any split and any order of merging gives the same names and the same counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from streams.errors import UNREADABLE, SketchError

MOST = 32
MAX_TEXT = 128
_DECODER = msgspec.msgpack.Decoder(tuple[dict[str, int], int])


def rank(name: str) -> bytes:
    """Sort key of a name: a capped set keeps the names with the lowest keys and folds the rest."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Names:
    """Counts by name, at most `MOST` of them, and the count of the folded rest."""

    __slots__ = ("counts", "folded")

    def __init__(self, counts: Mapping[str, int] | None = None, folded: int = 0) -> None:
        self.counts = dict(counts or {})
        self.folded = folded
        for name in sorted(self.counts, key=rank)[MOST:]:
            self.folded += self.counts.pop(name)

    def merged(self, other: Names) -> Names:
        counts = dict(self.counts)
        for name, count in other.counts.items():
            counts[name] = counts.get(name, 0) + count
        return Names(counts, self.folded + other.folded)

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        counts: dict[str, int] = {}
        for name in names:
            key = name[:MAX_TEXT]
            counts[key] = counts.get(key, 0) + 1
        return cls(counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and (self.counts, self.folded) == (other.counts, other.folded)

    __hash__ = None  # type: ignore[assignment]

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode((self.counts, self.folded))

    @classmethod
    def from_bytes(cls, data: bytes) -> Names:
        try:
            counts, folded = _DECODER.decode(data)
        except UNREADABLE as error:
            raise SketchError(seen=f"names that do not open ({error})", expected="a map of counts") from None
        if len(counts) > MOST or folded < 0 or min(counts.values(), default=1) < 1:
            raise SketchError(seen="names beyond their cap or without a count", expected=f"at most {MOST} names")
        return cls(counts, folded)
