"""Most frequent values that are no declared category: Apache DataSketches' frequent-items sketch over texts.

It keeps at most 48 values. What it reports differs from the truth by at most `error` counts; once more values have
passed than it keeps, the answer depends on their order within that bound. It explains an alarm; it never decides one.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

import datasketches

from streams.errors import SketchError

LG_SIZE = 6
MAX_TEXT = 64
"""Longer values are kept by their first 64 characters."""
_MAX_BYTES = 64 * (MAX_TEXT * 4 + 64)
_ERROR_TYPE = datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES


class HeavyValues:
    """Values with their estimated counts."""

    __slots__ = ("_sketch",)

    def __init__(self, sketch: datasketches.frequent_strings_sketch | None = None) -> None:
        self._sketch = sketch or datasketches.frequent_strings_sketch(LG_SIZE)

    def update(self, values: Iterable[str]) -> None:
        for value, count in Tally(values).items():
            self._sketch.update(value[:MAX_TEXT], count)

    @property
    def error(self) -> float:
        """The largest difference between an estimate and the true count."""
        return float(self._sketch.epsilon * self._sketch.total_weight)

    @property
    def total(self) -> int:
        return int(self._sketch.total_weight)

    def top(self, k: int) -> list[tuple[str, int]]:
        """At most `k` values with the highest estimates, ties in the order of their text."""
        items = [(str(item[0]), int(item[1])) for item in self._sketch.get_frequent_items(_ERROR_TYPE)]
        return sorted(items, key=lambda item: (-item[1], item[0]))[:k]

    def merged(self, other: HeavyValues) -> HeavyValues:
        both = HeavyValues.from_bytes(self.to_bytes())
        both._sketch.merge(other._sketch)
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeavyValues) and (self.total, self.top(64)) == (other.total, other.top(64))

    __hash__ = None  # type: ignore[assignment]

    def to_bytes(self) -> bytes:
        return bytes(self._sketch.serialize())

    @classmethod
    def from_bytes(cls, data: bytes) -> HeavyValues:
        if not 8 <= len(data) <= _MAX_BYTES:
            raise SketchError(seen=f"a heavy-values sketch of {len(data)} bytes", expected=f"8 to {_MAX_BYTES}")
        try:
            sketch = datasketches.frequent_strings_sketch.deserialize(data)
        except (RuntimeError, ValueError, IndexError, UnicodeDecodeError) as error:
            raise SketchError(seen=f"heavy values that do not open ({error})", expected="frequent items") from None
        return cls(sketch)
