"""Most frequent values that are no declared category: the summary of Misra and Gries over texts.

Misra and Gries, "Finding repeated elements" (1982), merged as in Agarwal et al., "Mergeable summaries" (2012): counts
are added; if more than 48 values are left, the 49th largest count is taken off each, and what is not above zero goes.
What it reports is never below the truth and differs from it by at most `error` counts, a 49th of the total. Up to 48
different values it is exact; beyond, the answer depends on their order within that bound. It explains an alarm; it
never decides one. (The sketch of Apache DataSketches forgets its total when it drops all its values, and its reader
reads beyond the end of damaged bytes.)
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping

import msgspec

from streams.errors import UNREADABLE, SketchError

MOST = 48
MAX_TEXT = 64
"""Longer values are kept by their first 64 characters."""


class _Packed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    kept: dict[str, int]
    error: int
    total: int


_DECODER = msgspec.msgpack.Decoder(_Packed)


class HeavyValues:
    """Values with their estimated counts. `error`: the largest difference between an estimate and the true count."""

    __slots__ = ("_kept", "error", "total")

    def __init__(self, counts: Mapping[str, int] | None = None, error: int = 0, total: int | None = None) -> None:
        self._kept = dict(counts or {})
        self.error = error
        self.total = sum(self._kept.values()) if total is None else total
        if len(self._kept) > MOST:
            shared = sorted(self._kept.values(), reverse=True)[MOST]
            self.error += shared
            self._kept = {value: count - shared for value, count in self._kept.items() if count > shared}

    def update(self, values: Iterable[str]) -> None:
        both = self.merged(HeavyValues(Tally(value[:MAX_TEXT] for value in values)))
        self._kept, self.error, self.total = both._kept, both.error, both.total

    def top(self, k: int) -> list[tuple[str, int]]:
        """At most `k` values with the highest estimates, ties in the order of their text."""
        items = ((value, count + self.error) for value, count in self._kept.items())
        return sorted(items, key=lambda item: (-item[1], item[0]))[:k]

    def merged(self, other: HeavyValues) -> HeavyValues:
        counts = dict(self._kept)
        for value, count in other._kept.items():
            counts[value] = counts.get(value, 0) + count
        return HeavyValues(counts, self.error + other.error, self.total + other.total)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeavyValues) and self._state == other._state

    __hash__ = None  # type: ignore[assignment]

    @property
    def _state(self) -> tuple[dict[str, int], int, int]:
        return self._kept, self.error, self.total

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(_Packed(*self._state))

    @classmethod
    def from_bytes(cls, data: bytes) -> HeavyValues:
        try:
            packed = _DECODER.decode(data)
        except UNREADABLE as error:
            raise SketchError(seen=f"heavy values that do not open ({error})", expected="a map of counts") from None
        kept = packed.kept
        sound = len(kept) <= MOST and min(kept.values(), default=1) > 0 and max(map(len, kept), default=0) <= MAX_TEXT
        if not sound or packed.error < 0 or packed.total < sum(kept.values()) + (MOST + 1) * packed.error:
            raise SketchError(seen="heavy values that do not add up", expected=f"at most {MOST} counts and their total")
        return cls(kept, packed.error, packed.total)
