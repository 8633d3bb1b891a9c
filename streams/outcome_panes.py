"""Outcomes of labels of one model: by cohort of the predictions, and by the pane in which the labels arrived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.cells import Cells, Segmentation
from streams.evaluation_progress import EvaluationProgress
from streams.fingerprint import PartPrint
from streams.join.cells import View
from streams.model_panes import open_cells
from streams.panes import NO_MARK
from streams.partial import Covered, LabelBooks, OutcomePartial, PanePart
from streams.rollup import merged_cells

VIEWS = (View.COHORT, View.ARRIVED)
"""What outcomes are summed by on the way to a bucket."""


def view_of(partial: OutcomePartial) -> View:
    """What the panes of a publication are: cohorts of predictions, or panes in which labels arrived."""
    return View.COHORT if partial.cohort else View.ARRIVED


@dataclass(slots=True)
class OutcomePane:
    """A cohort, or the labels that arrived in a pane: per source partition the latest publication."""

    segmentation: Segmentation
    parts: dict[int, tuple[Covered, PanePart]] = field(default_factory=dict)
    _cells: tuple[Cells, Cells] | None = None

    def apply(self, partition: int, covered: Covered, part: PanePart) -> bool:
        """Whether this changed what is there."""
        known = self.parts.get(partition)
        if known is not None and covered < known[0]:
            return False
        self.parts[partition] = (covered, part)
        self._cells = None if known is None or known[1] != part else self._cells
        return self._cells is None

    def cells(self) -> tuple[Cells, Cells]:
        """What had come when it was judged, and what stands; of a cohort both are what stands."""
        if self._cells is None:
            opened = [open_cells(part) for _, part in self.parts.values()]
            self._cells = (
                merged_cells((on_time for on_time, _ in opened), self.segmentation),
                merged_cells((welcome for _, welcome in opened), self.segmentation),
            )
        return self._cells


@dataclass(slots=True)
class ModelOutcomes:
    """Outcomes of one model, on both clocks."""

    segmentation: Segmentation
    prints: Mapping[View, PartPrint]
    """Of cohorts and of panes of arrival."""
    progress: EvaluationProgress
    """How far the model has been evaluated: its evaluator moves it."""
    has_foreign: bool = False
    """Whether something came that was counted under another configuration."""
    cohorts: dict[int, OutcomePane] = field(default_factory=dict)
    arrivals: dict[int, OutcomePane] = field(default_factory=dict)
    books: dict[int, LabelBooks] = field(default_factory=dict)
    marks_ms: dict[int, int | None] = field(default_factory=dict)
    """Per source partition how far its join has read the model's predictions."""
    holds_up: int = 0
    """The source partition that was last the one whose labels were waited for."""
    changed_cohorts: set[int] = field(default_factory=set)
    changed_arrivals: set[int] = field(default_factory=set)
    expired_before_ms: dict[View, int] = field(default_factory=lambda: dict.fromkeys(VIEWS, NO_MARK))

    @property
    def judged_until_ms(self) -> int | None:
        """Panes of arrival up to here have been evaluated; None: none has."""
        return self.progress.labels_until_ms

    def apply(self, partial: OutcomePartial, part: PanePart) -> None:
        panes = self.cohorts if partial.cohort else self.arrivals
        pane = panes.setdefault(partial.pane_ms, OutcomePane(self.segmentation))
        if not pane.apply(partial.partition, partial.covered, part):
            return
        if partial.cohort:
            self.changed_cohorts.add(partial.pane_ms)
        elif self.judged_until_ms is not None and partial.pane_ms < self.judged_until_ms:
            self.changed_arrivals.add(partial.pane_ms)

    def total(self) -> LabelBooks:
        total = LabelBooks()
        for books in self.books.values():
            total = total.merged(books)
        return total

    def union(self, start_ms: int, end_ms: int) -> Cells:
        """What stands of the predictions of a span of whole cohorts."""
        panes = (self.cohorts[at] for at in sorted(self.cohorts) if start_ms <= at < end_ms)
        return merged_cells((pane.cells()[1] for pane in panes), self.segmentation)

    def forget(self, cohorts_before_ms: int, arrivals_before_ms: int) -> None:
        self.expired_before_ms = {View.COHORT: cohorts_before_ms, View.ARRIVED: arrivals_before_ms}
        self.cohorts = {at: pane for at, pane in self.cohorts.items() if at >= cohorts_before_ms}
        self.arrivals = {at: pane for at, pane in self.arrivals.items() if at >= arrivals_before_ms}
