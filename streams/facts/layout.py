"""Feedback and KPI values → slots of one integer vector, which merges by addition.

A KPI's sum and sum of squares are kept in fixed point, exactly: a sum of floats depends on the order of its parts.
Slots hold no more than 64 bits, so a number is written in limbs of 30 bits, each of which is summed on its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property

import msgspec
import numpy as np

from streams.arrays import CountVector
from streams.config import OTHER, Feedback

EVENTS = 0
"""Inference events of the same time: stage 2 adds them, so that a rate has its denominator."""
SCORE_BINS = 20
"""Of the scores that were overridden, evenly from 0 to 1; one more for a prediction without a score or not found."""

OBSERVED = 1
_LIMB_BITS = 30
_LIMB = (1 << _LIMB_BITS) - 1
_ABOVE, _BELOW, _SQUARES, KPI_LENGTH = 2, 5, 8, 12
_UNIT_BITS, _ROOT_BITS = 30, 20
"""A sum is in units of 2^-30, a square is that of a value in units of 2^-20."""
KPI_DIGEST = "kpi/1"
RUNS_DIGEST, RUNS_LENGTH = "runs/1", 1


class FeedbackLayout(msgspec.Struct, frozen=True, dict=True):
    """The declared kinds, each with the values that are counted apart."""

    kinds: tuple[tuple[Feedback, tuple[str, ...]], ...]

    @cached_property
    def slots(self) -> Mapping[tuple[Feedback, str | None], int]:
        """Of each kind the total (None), then its declared values, then any other."""
        names: list[tuple[Feedback, str | None]] = []
        for kind, values in self.kinds:
            names += [(kind, None), *((kind, value) for value in ((*values, OTHER) if values else ()))]
        return {name: EVENTS + 1 + at for at, name in enumerate(names)}

    @cached_property
    def bins_at(self) -> int:
        return EVENTS + 1 + len(self.slots)

    @cached_property
    def length(self) -> int:
        return self.bins_at + SCORE_BINS + 1

    @cached_property
    def digest(self) -> str:
        """Two layouts with one digest mean the same by every slot."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=8).hexdigest()

    def told(self, kind: Feedback, value: str) -> Iterator[int]:
        """The slots of one piece of feedback."""
        yield self.slots[kind, None]
        if (kind, OTHER) in self.slots:
            yield self.slots.get((kind, value), self.slots[kind, OTHER])


def score_bin(score: float | None) -> int:
    """
    >>> score_bin(0.0), score_bin(0.999), score_bin(1.0), score_bin(None)
    (0, 19, 19, 20)
    """
    if score is None or not 0 <= score <= 1:
        return SCORE_BINS
    return min(SCORE_BINS - 1, int(score * SCORE_BINS))


def kpi_vector(value: float) -> CountVector:
    """One observation. |value| is at most 1e12.

    >>> total(kpi_vector(-2.5) + kpi_vector(0.5)), squares(kpi_vector(-2.5))
    (-2.0, 6.25)
    """
    vector = np.zeros(KPI_LENGTH, np.int64)
    vector[OBSERVED] = 1
    _write(vector, _ABOVE if value > 0 else _BELOW, 3, round(abs(value) * (1 << _UNIT_BITS)))
    _write(vector, _SQUARES, 4, round(abs(value) * (1 << _ROOT_BITS)) ** 2)
    return vector


def total(vector: CountVector) -> float:
    """Sum of the observations."""
    return (_read(vector, _ABOVE, 3) - _read(vector, _BELOW, 3)) / (1 << _UNIT_BITS)


def squares(vector: CountVector) -> float:
    """Sum of their squares."""
    return _read(vector, _SQUARES, 4) / (1 << 2 * _ROOT_BITS)


def _write(vector: CountVector, at: int, limbs: int, number: int) -> None:
    for limb in range(limbs):
        vector[at + limb] = number >> limb * _LIMB_BITS & _LIMB


def _read(vector: CountVector, at: int, limbs: int) -> int:
    return sum(int(vector[at + limb]) << limb * _LIMB_BITS for limb in range(limbs))
