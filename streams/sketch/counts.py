"""Integer vector of exact counts: sparse while it holds a handful of events, dense after.

`merged` is addition, so it is exact, commutative and associative.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from streams.arrays import CountVector, Ints
from streams.errors import SketchError

_HEADER = struct.Struct("<BBII")  # form, bytes per value, length, entries
_DENSE, _SPARSE = 0, 1
_WIDTHS: dict[int, np.dtype[Any]] = {
    width: np.dtype(name) for width, name in ((1, "<u1"), (2, "<u2"), (4, "<u4"), (8, "<i8"))
}
_MAX_LENGTH = 1 << 22

DENSE_SHARE = 4
"""A vector goes dense when more than one slot in this many is in use."""


class Counts:
    """Counts in `length` slots. Values are never negative."""

    __slots__ = ("_slots", "_values", "length")

    def __init__(self, length: int, slots: Ints | None = None, values: CountVector | None = None) -> None:
        self.length = length
        self._slots = np.empty(0, np.int64) if slots is None and values is None else slots  # None: dense
        self._values: CountVector = np.empty(0, np.int64) if values is None else values

    @classmethod
    def of(cls, dense: CountVector) -> Counts:
        """From a dense vector, which is used without a copy."""
        slots = np.flatnonzero(dense)
        if len(slots) * DENSE_SHARE > len(dense):
            return cls(len(dense), None, dense)
        return cls(len(dense), slots, dense[slots])

    def dense(self) -> CountVector:
        """The whole vector. Treat it as read-only: it may be the sketch's own."""
        if self._slots is None:
            return self._values
        vector = np.zeros(self.length, np.int64)
        vector[self._slots] = self._values
        return vector

    @property
    def highest(self) -> int:
        return int(self._values.max(initial=0))

    def merged(self, other: Counts) -> Counts:
        if self.length != other.length:
            raise SketchError(seen=f"{other.length} slots", expected=f"{self.length} slots")
        if self._slots is not None and len(self._values) < len(other._values):
            return other.merged(self)
        vector = self.dense()
        vector = vector.copy() if self._slots is None else vector
        if other._slots is None:
            vector += other._values
        else:
            vector[other._slots] += other._values
        return Counts.of(vector)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and np.array_equal(self.dense(), other.dense())

    def __hash__(self) -> int:
        return hash((self.length, self.dense().tobytes()))

    def to_bytes(self) -> bytes:
        top = self.highest
        width = 1 if top < 1 << 8 else 2 if top < 1 << 16 else 4 if top < 1 << 32 else 8
        values = self._values.astype(_WIDTHS[width]).tobytes()
        form, slots = (_DENSE, b"") if self._slots is None else (_SPARSE, self._slots.astype("<u4").tobytes())
        return _HEADER.pack(form, width, self.length, len(self._values)) + slots + values

    @classmethod
    def from_bytes(cls, data: bytes) -> Counts:
        if len(data) < _HEADER.size:
            raise SketchError(seen=f"{len(data)} bytes of counts", expected=f"at least {_HEADER.size}")
        form, width, length, entries = _HEADER.unpack_from(data)
        slot_bytes = 4 * entries if form == _SPARSE else 0
        expected = _HEADER.size + slot_bytes + width * entries
        sound = form in (_DENSE, _SPARSE) and width in _WIDTHS and length <= _MAX_LENGTH and len(data) == expected
        if not sound or (form == _DENSE and entries != length):
            raise SketchError(seen="counts with an unsound header", expected="what this version of Foreshock writes")
        values = np.frombuffer(data, _WIDTHS[width], entries, _HEADER.size + slot_bytes).astype(np.int64)
        if values.min(initial=0) < 0:
            raise SketchError(seen="a negative count", expected="counts from 0 up")
        if form == _DENSE:
            return cls(length, None, values)
        slots = np.frombuffer(data, "<u4", entries, _HEADER.size).astype(np.int64)
        if entries and (int(slots[-1]) >= length or (np.diff(slots) <= 0).any()):
            raise SketchError(seen="slots out of order or out of range", expected=f"rising slots below {length}")
        return cls(length, slots, values)
