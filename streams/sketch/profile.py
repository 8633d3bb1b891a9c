"""All sketches of one cell: one model, version and segment over some span of time.

`Profile` is what partials carry and what windows are unions of. Its exact part is one `Counts` vector; the others exist
only where there is something to count (a value outside the declared categories, a numeric column without a baseline, an
undeclared field).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

import msgspec

from streams.errors import UNREADABLE, SketchError
from streams.sketch.counts import Counts
from streams.sketch.distinct import Distinct
from streams.sketch.heavy import HeavyValues
from streams.sketch.names import Names
from streams.sketch.quantiles import Quantiles

MAX_COLUMNS = 100_000


class Sketch(Protocol):
    """The protocol that the conformance suite checks for every sketch."""

    def merged(self, other: Self) -> Self: ...
    def to_bytes(self) -> bytes: ...
    @classmethod
    def from_bytes(cls, data: bytes) -> Self: ...


S = TypeVar("S", bound=Sketch)


class _Packed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    counts: bytes
    distinct: dict[int, bytes]
    heavy: dict[int, bytes]
    quantiles: dict[int, bytes]
    extras: bytes


_DECODER = msgspec.msgpack.Decoder(_Packed)


@dataclass(slots=True)
class Profile:
    """Sketches of a cell; the keys of the mappings are column numbers of the model's layout."""

    counts: Counts
    distinct: dict[int, Distinct] = field(default_factory=dict)
    heavy: dict[int, HeavyValues] = field(default_factory=dict)
    quantiles: dict[int, Quantiles] = field(default_factory=dict)
    extras: Names = field(default_factory=Names)

    @classmethod
    def empty(cls, length: int) -> Profile:
        return cls(Counts(length))

    def merged(self, other: Profile) -> Profile:
        return Profile(
            self.counts.merged(other.counts),
            _merged_maps(self.distinct, other.distinct),
            _merged_maps(self.heavy, other.heavy),
            _merged_maps(self.quantiles, other.quantiles),
            self.extras.merged(other.extras),
        )

    def to_bytes(self) -> bytes:
        packed = _Packed(
            self.counts.to_bytes(),
            {column: sketch.to_bytes() for column, sketch in self.distinct.items()},
            {column: sketch.to_bytes() for column, sketch in self.heavy.items()},
            {column: sketch.to_bytes() for column, sketch in self.quantiles.items()},
            self.extras.to_bytes() if self.extras.counts or self.extras.folded else b"",
        )
        return msgspec.msgpack.encode(packed)

    @classmethod
    def from_bytes(cls, data: bytes) -> Profile:
        try:
            packed = _DECODER.decode(data)
        except UNREADABLE as error:
            raise SketchError(seen=f"a profile that does not open ({error})", expected="a packed profile") from None
        return cls(
            Counts.from_bytes(packed.counts),
            _opened(Distinct, packed.distinct),
            _opened(HeavyValues, packed.heavy),
            _opened(Quantiles, packed.quantiles),
            Names.from_bytes(packed.extras) if packed.extras else Names(),
        )


def _merged_maps(left: Mapping[int, S], right: Mapping[int, S]) -> dict[int, S]:
    both = dict(left)
    for column, sketch in right.items():
        both[column] = both[column].merged(sketch) if column in both else sketch
    return both


def _opened(kind: type[S], packed: Mapping[int, bytes]) -> dict[int, S]:
    if packed and not 0 <= min(packed) <= max(packed) < MAX_COLUMNS:
        raise SketchError(seen="a column number out of range", expected=f"0 to {MAX_COLUMNS - 1}")
    return {column: kind.from_bytes(data) for column, data in packed.items()}
