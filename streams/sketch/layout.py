"""Model description → slots of one integer vector: the slot of each exact count of a model.

Everything that is counted exactly (nulls, types, histogram bins, categories, errors) is one vector of 64-bit integers
per cell, so a merge is an addition, a window is a sum, and signals are array expressions over all columns.

Slots of a column: absent · null · wrong type · then its bins. A numeric column with E edges has E + 1 bins (below the
first edge … from the last edge on). A categorical column has one bin a category, then one for all other values.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import msgspec

from streams.arrays import CountVector

ABSENT, NULL, WRONG, BINS = 0, 1, 2, 3
"""Offsets inside a column's block: the three classes without a usable value, then the first bin."""

OK_SLOT, ERROR_SLOT, FIRST_COLUMN_SLOT = 0, 1, 2
"""Answered requests and requests in error: their sum is the number of events of a cell."""

LATENCY_EDGES_MS = tuple(float(f"{10 ** (exponent / 10):.3g}") for exponent in range(-10, 61))
"""Ten latency bins a decade from 0.1 ms to 1,000 s: a quantile is known to within 26 %."""


SCORE, PREDICTION, LATENCY = "score", "prediction", "latency_ms"
"""Names of the columns that are not features; a class's score is the column `score.CLASS`."""


class Role(StrEnum):
    """What a column is to the model."""

    FEATURE = "feature"
    SCORE = "score"
    PREDICTION = "prediction"
    LATENCY = "latency"


class Kind(StrEnum):
    """The JSON type that a column's values have."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    BOOLEAN = "boolean"
    CODE = "code"  # a category written as a JSON integer


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column: its name, its role, and its bins. A score of a multi-class model has one column per class."""

    name: str
    role: Role
    kind: Kind
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def bins(self) -> int:
        return len(self.edges) + 1 if self.kind is Kind.NUMERIC else len(self.categories) + 1

    @property
    def size(self) -> int:
        return BINS + self.bins


@dataclass(frozen=True)
class Layout:
    """The columns of a model in order, and the slot at which each begins."""

    columns: tuple[Column, ...]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        starts, at = [], FIRST_COLUMN_SLOT
        for column in self.columns:
            starts.append(at)
            at += column.size
        return tuple(starts)

    @cached_property
    def length(self) -> int:
        return FIRST_COLUMN_SLOT + sum(column.size for column in self.columns)

    @cached_property
    def digest(self) -> str:
        """Two layouts with one digest give every slot the same meaning: only then may their counts be added."""
        return hashlib.blake2b(msgspec.json.encode(self.columns), digest_size=8).hexdigest()

    def indices(self, *roles: Role) -> tuple[int, ...]:
        return tuple(i for i, column in enumerate(self.columns) if column.role in roles)

    def block(self, counts: CountVector, column: int) -> CountVector:
        """The slots of one column; `counts` may have leading dimensions."""
        start = self.starts[column]
        return counts[..., start : start + self.columns[column].size]


def requests(counts: CountVector) -> CountVector:
    """Events of a cell (leading dimensions kept)."""
    total: CountVector = counts[..., OK_SLOT] + counts[..., ERROR_SLOT]
    return total


def numeric_edges(quantiles: Iterable[float], low: float, high: float) -> tuple[float, ...]:
    """Edges with the range's ends outermost, so that the first and the last bin count what is out of range.

    The upper end is moved up by one representable step: bins are half open to the right, and the largest
    reference value itself is in range.
    """
    top = math.nextafter(high, math.inf)
    inner = sorted({float(q) for q in quantiles if low < q < top})
    return (float(low), *inner, top)
