"""Outcomes of predictions, summed by view, span and cell: in memory, and in a store for the next start.

Two clocks: a *cohort* is the predictions of one span, as their labels come and are corrected. An *arrival* pane is the
labels that came in one pane, and has two views: what had come when it was evaluated, and what still stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from streams.arrays import Ints, Mask
from streams.cells import numbered
from streams.fingerprint import outcomes_print
from streams.parking import Parking, Phase
from streams.partial import Cell, CellKey, PanePart
from streams.plan import ModelPlan
from streams.sketch.counts import Counts
from streams.sketch.outcomes import CHANGES, JOINED, PREDICTIONS, OutcomeLayout, Prediction
from streams.sketch.profile import Profile
from streams.store import Changes, Store

_CELLS = b"c"


class View(IntEnum):
    """Which sum of outcomes a cell belongs to."""

    COHORT = 0
    ARRIVED = 1
    STANDING = 2

    __hash__ = int.__hash__  # an Enum's own is a Python function: a microsecond a label


Place = tuple[View, str, int]
"""View, model, and start of the cohort or the pane."""
Group = tuple[View, str, int, str, tuple[int, ...]]
"""Span, version, and indices of the segments' values: what determines the cells of a prediction."""


@dataclass(slots=True, eq=False)
class Where:
    """Where labels count that came in one pane, and whose predictions have everything in common."""

    arrived: Group
    groups: Sequence[Group]
    """Of their outcomes."""
    joined: int = 0
    """Labels that met their prediction."""
    outcomes: list[tuple[Prediction, Any, int, int]] = field(default_factory=list)
    """Prediction, label, delay, and +1; or -1 for one that is taken back."""


_pack = msgspec.msgpack.Encoder().encode
_cells = msgspec.msgpack.Decoder(list[Cell]).decode
_place = msgspec.msgpack.Decoder(tuple[int, str, int]).decode


class OutcomeCells:
    """The cells of one source partition. What is added waits for `changes`."""

    def __init__(self, models: Mapping[str, ModelPlan], store: Store, parking: Parking) -> None:
        self._models, self._parking = models, parking
        self._prints = {(n, c): outcomes_print(plan, cohort=c) for n, plan in models.items() for c in (True, False)}
        self.vectors: dict[Place, dict[CellKey, Ints]] = {}
        for key, value in store.scan(_CELLS):
            view, model, start_ms = _place(key[1:])
            opened = {cell.key: Profile.from_bytes(cell.profile).counts.dense().copy() for cell in _cells(value)}
            self.vectors[View(view), model, start_ms] = opened
        self.unpublished: set[Place] = set(self.vectors)
        self._dropped: set[Place] = set()
        """They were published and can't change any more: the next changes take them out of the store."""
        self._where: dict[tuple[Any, ...], Where] = {}
        self._sums: Counter[tuple[Group, int]] = Counter()
        """By group and slot how much has come."""

    def seed(self, part: PanePart, cohort: bool, start_ms: int) -> set[str]:
        """Takes published cells for what has been counted; the versions that they have."""
        views = {View.COHORT: part.welcome} if cohort else {View.ARRIVED: part.on_time, View.STANDING: part.welcome}
        for view, cells in views.items():
            vectors = {cell.key: Profile.from_bytes(cell.profile).counts.dense().copy() for cell in cells}
            self.vectors[view, part.model, start_ms] = vectors
        return {cell.version for cells in views.values() for cell in cells}

    def seeded(self) -> Changes:
        """What to write after `seed`."""
        return {_key(place): self._packed(place) for place in self.vectors}

    def count(self, group: Group, slot: int, amount: int = 1) -> None:
        self._sums[group, slot] += amount

    def count_predictions(
        self, plan: ModelPlan, times_ms: Ints, versions: Sequence[str], positions: Sequence[Ints], counted: Mask
    ) -> None:
        """Adds predictions to the size of their cohorts.

        Parameters
        ----------
        times_ms, versions
            (n,) of the predictions.
        positions
            Per segment dimension (n,) the position of the value.
        counted
            (n,) which of them count.
        """
        if not counted.any():
            return
        starts_ms = times_ms // plan.cohort_ms * plan.cohort_ms
        groups = _alike(starts_ms, versions, positions)[counted]
        _, firsts, counts = np.unique(groups, return_index=True, return_counts=True)
        for at, n in zip(np.flatnonzero(counted)[firsts].tolist(), counts.tolist(), strict=True):
            segments = tuple(int(each[at]) for each in positions)
            self.count((View.COHORT, plan.name, int(starts_ms[at]), versions[at], segments), PREDICTIONS, n)

    def where(self, given: Prediction, cohort_ms: int, pane_ms: int, *, stands: bool, in_time: bool) -> Where:
        """Where a label counts: with its prediction's cohort; with the pane in which it came, if it `stands` there; and
        with what had come when that pane was judged, if the prediction was there `in_time`."""
        key = given.model, given.version, given.segments, cohort_ms, pane_ms, stands, in_time
        found = self._where.get(key)
        if found is None:
            rest = given.version, given.segments
            cohort: Group = (View.COHORT, given.model, cohort_ms, *rest)
            standing: Group = (View.STANDING, given.model, pane_ms, *rest)
            arrived: Group = (View.ARRIVED, given.model, pane_ms, *rest)
            groups = [cohort, *([standing] if stands else []), *([arrived] if stands and in_time else [])]
            found = self._where[key] = Where(arrived, groups)
        return found

    def changes(self) -> Changes:
        """Adds what has come; gives what to write."""
        changed = self._summed()
        self.unpublished |= changed
        dropped, self._dropped = self._dropped, set()
        return {_key(place): self._packed(place) for place in changed | dropped}

    def _packed(self, place: Place) -> bytes | None:
        return _pack(_to_cells(self.vectors[place])) if place in self.vectors else None

    def _summed(self) -> set[Place]:
        changed: set[Place] = set()
        for (group, slot), amount in self._sums.items():
            for vector in self._of(group, changed):
                vector[slot] += amount
        labelled: dict[str, list[Where]] = {}
        for where in self._where.values():
            if where.joined:
                for vector in self._of(where.arrived, changed):
                    vector[JOINED] += where.joined
            if where.outcomes:
                labelled.setdefault(where.arrived[1], []).append(where)
        for model, places in labelled.items():
            with self._parking.guard(model, Phase.JOIN):
                self._add_outcomes(model, places, changed)
        self._sums, self._where = Counter(), {}
        return changed

    def _add_outcomes(self, model: str, places: Sequence[Where], changed: set[Place]) -> None:
        outcomes = chain.from_iterable(where.outcomes for where in places)
        given, labels, delays_ms, signs = zip(*outcomes, strict=True)
        layout = layout_of(self._models[model])
        slots, amounts = layout.contributions(given, labels, np.array(delays_ms))
        amounts = amounts * np.array(signs, np.int64)
        end = 0
        for where in places:
            start, end = end, end + len(where.outcomes)
            change = np.zeros(layout.length, np.int64)
            np.add.at(change, slots[:, start:end], amounts[:, start:end])
            change[CHANGES] += end - start
            for group in where.groups:
                for vector in self._of(group, changed):
                    vector += change

    def _of(self, group: Group, changed: set[Place]) -> Iterator[Ints]:
        """The vector of every cell that a prediction of the group falls in."""
        view, model, start_ms, version, segments = group
        plan, place = self._models[model], (view, model, start_ms)
        changed.add(place)
        vectors = self.vectors.setdefault(place, {})
        for key in plan.segmentation.keys_at(version, segments):
            vector = vectors.get(key)
            if vector is None:
                vector = vectors[key] = np.zeros(layout_of(plan).length, np.int64)
            yield vector

    def part(self, model: str, cohort: bool, start_ms: int) -> PanePart | None:
        """What is published of a cohort, or of an arrival pane; None where the model has nothing there (any more)."""
        views = (View.COHORT,) if cohort else (View.ARRIVED, View.STANDING)
        places: list[Place] = [(view, model, start_ms) for view in views]
        if not any(place in self.vectors for place in places):
            return None
        cells = [_to_cells(self.vectors.get(place, {})) for place in places]
        return self._prints[model, cohort].part(model, cells[0], cells[-1])

    def drop(self, place: Place) -> None:
        del self.vectors[place]
        self._dropped.add(place)


def layout_of(plan: ModelPlan) -> OutcomeLayout:
    assert plan.outcomes is not None
    return plan.outcomes


def _alike(starts_ms: Ints, versions: Sequence[str], segments: Sequence[Ints]) -> Ints:
    """(n,) a number for each row: the same for rows that have everything in common."""
    _, numbers = numbered(starts_ms)
    names = {version: number for number, version in enumerate(dict.fromkeys(versions))}
    if len(names) > 1:
        numbers = numbers * len(names) + np.fromiter(map(names.__getitem__, versions), np.int64, len(versions))
    for positions in segments:
        _, numbers = numbered(numbers * (int(positions.max()) + 1) + positions)
    return numbers


def _key(place: Place) -> bytes:
    view, model, start_ms = place
    return _CELLS + _pack((int(view), model, start_ms))


def _to_cells(vectors: Mapping[CellKey, Ints]) -> list[Cell]:
    return [Cell(*key, Profile(Counts.of(vector.copy())).to_bytes()) for key, vector in vectors.items()]
