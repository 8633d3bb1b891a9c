"""A label meets its prediction: what counts as an outcome, and what goes into the label books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from streams.config import OTHER
from streams.join.cells import OutcomeCells
from streams.join.histories import Entry
from streams.join.recovery import JoinMeta
from streams.partial import LabelBooks
from streams.plan import ModelPlan
from streams.sketch.outcomes import Prediction, class_text


class Terms(NamedTuple):
    """What of a model's plan every label asks for."""

    pane_ms: int
    lateness_ms: int
    horizon_ms: int
    cohort_ms: int
    version: str
    """The cell of what is received: the first one declared."""

    @classmethod
    def of(cls, plan: ModelPlan) -> Terms:
        config = plan.config
        version = next(iter(config.versions), "")
        return cls(config.pane_ms, config.lateness_ms, plan.horizon_ms, plan.cohort_ms, version)


class Matcher:
    """Adds the outcomes of a partition to its cells, and every label to the books of its model."""

    def __init__(self, models: Mapping[str, ModelPlan], meta: JoinMeta, cells: OutcomeCells) -> None:
        self.terms = {name: Terms.of(model) for name, model in models.items()}
        self.sole = next(iter(models)) if len(models) == 1 else ""
        """The model of a label that names none."""
        self.touched: set[str] = set()
        """Models of which books or mark have changed since they were published."""
        self._models, self._meta, self._cells = models, meta, cells

    def books(self, model: str) -> LabelBooks:
        """The label books of a model, to be changed."""
        self.touched.add(model)
        books = self._meta.books.get(model)
        if books is None:
            books = self._meta.books[model] = LabelBooks()
        return books

    def books_for(self, model: str) -> LabelBooks:
        """The label books in which a label for `model` is counted, as the label names it."""
        if model and model not in self._models:
            return self.books(OTHER)
        return self.books(model or self.sole)

    def is_new(self, given: Prediction, entry: Entry) -> bool:
        """Whether a pair, by its offsets, is none of what was published before the store was lost."""
        base = self._meta.base
        return given.offset >= base.inference or entry.offset >= base.labels

    def current(self, terms: Terms, given: Prediction, entries: Iterable[Entry]) -> Entry | None:
        """The label that holds after these: the first of those that say the same."""
        current: Entry | None = None
        for entry in entries:
            if belongs(terms, given, entry):
                current = current if _same(current and current.label, entry.label) else entry
        return current

    def join(self, terms: Terms, given: Prediction, before: Entry | None, entry: Entry) -> Entry | None:
        """Joins a label to its prediction. `before`: the label that held until now. Returns the one that holds now."""
        same = _same(before.label if before else None, entry.label)  # what may raise comes before what is counted
        if not self.is_new(given, entry):
            return before if same else entry
        arrival_ms, ts_ms = entry.arrival_ms, given.ts_ms
        cohort_ms = ts_ms // terms.cohort_ms * terms.cohort_ms
        pane_ms = arrival_ms // terms.pane_ms * terms.pane_ms
        # A prediction that is read after its label's pane may have been judged has no part in the judgement.
        in_time = given.on_time and ts_ms < pane_ms + terms.pane_ms
        stands = ts_ms - arrival_ms <= terms.lateness_ms
        where = self._cells.where(given, cohort_ms, pane_ms, stands=stands, in_time=in_time)
        where.joined += in_time
        books = self.books(given.model)
        books.read += 1
        if same:
            books.duplicate += 1
            return before
        books.matched += 1
        if before is not None and before.label is not None:
            books.corrected += 1
            then_ms = before.arrival_ms // terms.pane_ms * terms.pane_ms
            stood = max(arrival_ms, ts_ms) - before.arrival_ms <= terms.lateness_ms  # else it was never counted there
            there = self._cells.where(given, cohort_ms, then_ms, stands=stood, in_time=False)
            there.outcomes.append((given, before.label, max(0, before.arrival_ms - ts_ms), -1))
        if entry.label is not None:
            where.outcomes.append((given, entry.label, max(0, arrival_ms - ts_ms), 1))
        return entry


def belongs(terms: Terms, given: Prediction, entry: Entry) -> bool:
    """Whether a label is for this prediction. One further than the horizon from it is not, whatever is remembered."""
    return entry.model in ("", given.model) and abs(entry.arrival_ms - given.ts_ms) <= terms.horizon_ms


def _same(left: Any, right: Any) -> bool:
    return left is right if left is None or right is None else class_text(left) == class_text(right)
