"""Labelled predictions → slots of one integer vector: addition merges outcomes, and subtraction takes them back.

A labelled prediction adds a few integers to the vector of its cell. Sums of real numbers are kept in fixed point:
integer addition is exact, so neither the order of the labels nor a correction leaves a trace in the sums.

Classification: a confusion matrix; reliability bins of the score, by class; sums of log loss and of the squared error
(Brier 1950). For two classes the score is the probability of the second one. For more it is that of the predicted
class, and the outcome is whether the prediction was right ("top-label calibration", Gupta and Ramdas 2022, ICLR).
Regression: sums of the errors above and below 0, and of their squares, in units of the reference's spread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from streams.arrays import Floats, Ints

PREDICTIONS, CHANGES, LABELLED, UNUSABLE, RECEIVED, JOINED = range(6)
"""Slots. Of a cohort: predictions made. Of both clocks: outcomes added or taken back, which number the revisions;
predictions that have a label; labels that fit no class or no number. Of an arrival pane: labels received, all of them
in the cell of the first version, and those that met a prediction."""
FIRST_DELAY = 6
DELAY_EDGES_MS = np.rint(1000 * 2 ** (np.arange(89) / 4)).astype(np.int64)
"""Edges of a label's delay after its prediction: four an octave, from a second to 48 days."""
DELAYS = len(DELAY_EDGES_MS) + 1
_HEAD = FIRST_DELAY + DELAYS

SCORE_UNIT, LOSS_UNIT, BRIER_UNIT, ERROR_UNIT, SQUARE_UNIT = 2.0**30, 2.0**24, 2.0**30, 2.0**20, 2.0**12
LEAST_PROBABILITY = 1e-12
MOST_ERROR = 1e4
"""Cap of a regression error, in spreads of the reference."""
MAX_CLASSES = 50


class Task(StrEnum):
    """What the model predicts."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class Prediction(msgspec.Struct, array_like=True, gc=False):
    """What the join stores of a prediction until its label comes."""

    model: str
    offset: int
    ts_ms: int
    on_time: bool
    version: str
    segments: tuple[int, ...]
    """Per declared dimension the position of the value; the number of values for any other."""
    score: float | dict[str, float] | None
    value: float | str | bool | None


def class_text(value: Any) -> str:
    """The class that a label or a prediction names: 1, 1.0 and true are one.

    >>> class_text(True), class_text(1.0), class_text("fraud")
    ('1', '1', 'fraud')
    """
    if value.__class__ is bool:
        return "1" if value else "0"
    if value.__class__ is float and value.is_integer():
        return str(int(value))
    return str(value)


class OutcomeLayout(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The slots of a model's outcomes. `edges` of the score's bins; `spread`: the unit of a regression's errors."""

    task: Task
    classes: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    threshold: float = 0.5
    """The score from which a binary model without predictions decides for the second class."""
    spread: float = 1.0

    @cached_property
    def confusion_at(self) -> int:
        return _HEAD

    @cached_property
    def bins(self) -> int:
        return len(self.edges) + 1

    @cached_property
    def side(self) -> int:
        """Number of classes, and one for any other value."""
        return len(self.classes) + 1

    @cached_property
    def bins_at(self) -> int:
        """First slot of the score bins; each has outcomes 0, outcomes 1, and the sum of the scores."""
        return self.confusion_at + self.side**2

    @cached_property
    def sums_at(self) -> int:
        """First slot of the sums of log loss and Brier; for a regression the sums above 0, below 0, and of squares."""
        return _HEAD if self.task is Task.REGRESSION else self.bins_at + 3 * self.bins

    @cached_property
    def length(self) -> int:
        return self.sums_at + (3 if self.task is Task.REGRESSION else 2)

    @cached_property
    def digest(self) -> str:
        """Two layouts with one digest give every slot the same meaning."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=8).hexdigest()

    @cached_property
    def _class_of(self) -> dict[Any, int]:
        """By the class's text, and by its number: 1, 1.0 and true are one key."""
        texts = {name: i for i, name in enumerate(self.classes)}
        return {number: i for name, i in texts.items() if class_text(number := _number_of(name)) == name} | texts

    def class_of(self, value: Any) -> int:
        """The index of a class; the number of classes for any other value."""
        return self._class_of.get(value, len(self.classes))

    def contributions(self, given: Sequence[Prediction], labels: Sequence[Any], delays_ms: Ints) -> tuple[Ints, Ints]:
        """Slots and amounts, (k, n) each, of n labelled predictions; an amount of 0 changes nothing."""
        parts = self._regression if self.task is Task.REGRESSION else self._classification
        slots, amounts = parts(given, labels)
        n = len(given)
        delay = FIRST_DELAY + np.searchsorted(DELAY_EDGES_MS, delays_ms, "right")
        slots = np.vstack([np.full(n, LABELLED), delay, slots])
        amounts = np.vstack([np.ones((2, n), np.int64), amounts])
        return slots, amounts

    def _classification(self, given: Sequence[Prediction], labels: Sequence[Any]) -> tuple[Ints, Ints]:
        n, other = len(given), len(self.classes)
        truth = np.fromiter((self.class_of(label) for label in labels), np.int64, n)
        chosen = np.fromiter(map(self._chosen, given), np.int64, n)
        confusion = self.confusion_at + chosen * self.side + truth
        if self.task is Task.BINARY:
            score = np.array([p.score if p.score.__class__ is float else np.nan for p in given], float)
            outcome, of_truth = truth, np.where(truth == 1, score, 1 - score)
            square = (score - truth) ** 2
        else:
            tables = [p.score if p.score.__class__ is dict else {} for p in given]
            names = (*self.classes, "")
            score = np.array([t.get(names[c], np.nan) for t, c in zip(tables, chosen.tolist(), strict=True)], float)
            outcome = (chosen == truth).astype(np.int64)
            of_truth = np.array([t.get(names[c], np.nan) for t, c in zip(tables, truth.tolist(), strict=True)], float)
            total = np.array([sum(v * v for v in t.values() if v == v and abs(v) <= 1) for t in tables], float)
            square = (total - 2 * of_truth + 1) / 2
        scored = (truth < other) & (score >= 0) & (score <= 1) & (of_truth == of_truth)
        score, of_truth, square = (np.where(scored, part, 0.0) for part in (score, of_truth, square))
        place = self.bins_at + 3 * np.searchsorted(np.array(self.edges), score, "right")
        loss = -np.log(np.clip(of_truth, LEAST_PROBABILITY, 1.0))
        one = scored.astype(np.int64)
        slots = np.vstack(
            [
                np.where(truth < other, confusion, UNUSABLE),
                place + np.minimum(outcome, 1),
                place + 2,
                np.full(n, self.sums_at),
                np.full(n, self.sums_at + 1),
            ]
        )
        amounts = np.vstack(
            [
                np.ones(n, np.int64),
                one,
                _fixed(score, SCORE_UNIT) * one,
                _fixed(loss, LOSS_UNIT) * one,
                _fixed(np.clip(square, 0, 1), BRIER_UNIT) * one,
            ]
        )
        return slots, amounts

    def _chosen(self, given: Prediction) -> int:
        """The class that was predicted."""
        if given.value is not None:
            return self.class_of(given.value)
        if self.task is Task.BINARY and given.score.__class__ is float:
            return int(given.score >= self.threshold)
        if given.score.__class__ is dict and given.score:
            return self.class_of(max(given.score, key=given.score.__getitem__))
        return len(self.classes)

    def _regression(self, given: Sequence[Prediction], labels: Sequence[Any]) -> tuple[Ints, Ints]:
        n = len(given)
        answer = np.array([_number(p.value if p.value is not None else p.score) for p in given], float)
        error = (answer - np.array(list(map(_number, labels)), float)) / self.spread
        usable = np.isfinite(error)
        error = np.clip(np.where(usable, error, 0.0), -MOST_ERROR, MOST_ERROR)
        slots = np.vstack([np.full(n, UNUSABLE), *(np.full(n, self.sums_at + i) for i in range(3))])
        amounts = np.vstack(
            [
                (~usable).astype(np.int64),
                _fixed(np.maximum(error, 0.0), ERROR_UNIT),
                _fixed(np.maximum(-error, 0.0), ERROR_UNIT),
                _fixed(error**2, SQUARE_UNIT),
            ]
        )
        return slots, amounts

    # Parts of vectors (…, length)

    def confusion(self, vectors: Ints) -> Ints:
        """(…, classes + 1, classes + 1): predicted × true."""
        block = vectors[..., self.confusion_at : self.bins_at]
        return block.reshape(*vectors.shape[:-1], self.side, self.side)

    def reliability(self, vectors: Ints) -> tuple[Floats, Floats, Floats]:
        """(…, bins): labelled scores, outcomes, and sum of the scores."""
        block = vectors[..., self.bins_at : self.sums_at].reshape(*vectors.shape[:-1], self.bins, 3)
        return (
            (block[..., 0] + block[..., 1]).astype(float),
            block[..., 1].astype(float),
            block[..., 2] / SCORE_UNIT,
        )

    def sums(self, vectors: Ints) -> Floats:
        """(…, 2): sums of log loss and of the squared error; for a regression (…, 3) in units of the labels."""
        block = vectors[..., self.sums_at :].astype(float)
        if self.task is Task.REGRESSION:
            in_labels: Floats = block * np.array(
                [self.spread / ERROR_UNIT, self.spread / ERROR_UNIT, self.spread**2 / SQUARE_UNIT]
            )
            return in_labels
        means: Floats = block / np.array([LOSS_UNIT, BRIER_UNIT])
        return means

    def usable(self, vectors: Ints) -> Floats:
        """(…,) labelled predictions whose label fits."""
        return (vectors[..., LABELLED] - vectors[..., UNUSABLE]).astype(float)


def delays(vectors: Ints) -> Ints:
    """(…, DELAYS) labels by their delay."""
    return vectors[..., FIRST_DELAY : FIRST_DELAY + DELAYS]


def _number_of(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _fixed(values: Floats, unit: float) -> Ints:
    return np.rint(values * unit).astype(np.int64)


def _number(value: Any) -> float:
    if value.__class__ is bool or value is None or value.__class__ in (str, dict):
        return np.nan
    return float(value)
