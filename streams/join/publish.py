"""What is published of a join: the cells that have changed, and the label books by bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.chunk import FULL_BEATS
from streams.config import bucket_of
from streams.join.cells import OutcomeCells, Place, View
from streams.join.recovery import JoinMeta, Published
from streams.panes import NO_MARK
from streams.partial import LabelBooks, LabelBooksPart, LabelBooksPartial, OutcomePartial
from streams.plan import ModelPlan


@dataclass(frozen=True, slots=True)
class Reading:
    """How far labels have been read. `clock_ms`: stage 1's clock when that was so."""

    clock_ms: int
    seen_at_ms: int
    """Stage 1's clock when a label came."""
    label_mark_ms: int | None
    caught_up: bool
    final: bool


class JoinPublisher:
    """Publishes one source partition's join, and drops the cells that nothing can change any more."""

    def __init__(
        self,
        topic: str,
        partition: int,
        models: Mapping[str, ModelPlan],
        buckets: int,
        meta: JoinMeta,
        cells: OutcomeCells,
    ) -> None:
        self._topic, self._partition, self._meta, self._cells = topic, partition, meta, cells
        self._models, self._buckets = models, buckets
        self._beats = 0
        self._published_marks: dict[str, int | None] = {}

    @property
    def _covered(self) -> tuple[int, int]:
        return self._meta.covered.inference, self._meta.covered.labels

    def outcomes(self, over_before_ms: int) -> list[Published]:
        """Sketches that changed since the last publication. `over_before_ms`: what no later record can change."""
        cells, models = self._cells, self._models
        changed, cells.unpublished = cells.unpublished & cells.vectors.keys(), set()
        records = {(view is View.COHORT, start_ms, self._bucket(model)) for view, model, start_ms in changed}
        partials: list[Published] = [
            OutcomePartial(
                self._topic,
                self._partition,
                cohort,
                self._covered,
                bucket,
                start_ms,
                # All models of the bucket: the record replaces the one before as a whole.
                [part for m in models if self._bucket(m) == bucket and (part := cells.part(m, cohort, start_ms))],
            )
            for cohort, start_ms, bucket in sorted(records)
        ]
        self._drop(over_before_ms)
        return partials

    def _drop(self, over_before_ms: int) -> None:
        """Drops the cells that nothing can change any more; all of them are published.

        A record has the cells of all models of its bucket and replaces the one before as a whole, so they go together.
        """
        over: dict[tuple[bool, int, int], list[Place]] = {}
        kept: set[tuple[bool, int, int]] = set()
        for place in self._cells.vectors:
            view, model, start_ms = place
            record = view is View.COHORT, start_ms, self._bucket(model)
            if self._is_over(place, over_before_ms):
                over.setdefault(record, []).append(place)
            else:
                kept.add(record)
        for record in over.keys() - kept:
            for place in over[record]:
                self._cells.drop(place)

    def _is_over(self, place: Place, over_before_ms: int) -> bool:
        view, model, start_ms = place
        plan, mark = self._models[model], self._meta.marks_ms.get(model, NO_MARK)
        reach_ms = plan.horizon_ms + plan.cohort_ms if view is View.COHORT else 2 * plan.config.lateness_ms
        return start_ms + reach_ms < min(over_before_ms, mark - plan.horizon_ms)

    def books(
        self, reading: Reading, read_until_ms: Mapping[str, int], touched: set[str], *, everywhere: bool
    ) -> list[LabelBooksPartial]:
        """Label books of the buckets in which something is new.

        As in `ChunkFold._books`, but a record with models has all of its bucket: it is the only one of its key.

        Parameters
        ----------
        read_until_ms
            Per model what the fold of its events publishes as its mark.
        touched
            Models of which the books or the mark have changed since they were published.
        everywhere
            A heartbeat: of every bucket with a model.
        """
        full = reading.final or (everywhere and self._beats % FULL_BEATS == 0)
        self._beats += everywhere
        names = dict.fromkeys([*self._models, *self._meta.books])
        marks = {model: read_until_ms.get(model, self._meta.marks_ms.get(model)) for model in names}
        moved = {model for model, mark_ms in marks.items() if mark_ms != self._published_marks.get(model)}
        news = {self._bucket(model) for model in touched | moved}
        self._published_marks = marks
        buckets: dict[int, list[LabelBooksPart]] = {}
        for model in names:
            bucket = self._bucket(model)
            if full or bucket in news:
                part = LabelBooksPart(model, self._meta.books.get(model, LabelBooks()), marks[model])
                buckets.setdefault(bucket, []).append(part)
            elif everywhere:
                buckets.setdefault(bucket, [])
        return [self._books_partial(reading, bucket, parts) for bucket, parts in buckets.items()]

    def _books_partial(self, reading: Reading, bucket: int, parts: list[LabelBooksPart]) -> LabelBooksPartial:
        return LabelBooksPartial(
            self._topic,
            self._partition,
            self._covered,
            bucket,
            reading.clock_ms,
            reading.seen_at_ms,
            reading.label_mark_ms,
            reading.caught_up,
            reading.final,
            parts,
        )

    def _bucket(self, model: str) -> int:
        return bucket_of(model, self._buckets)
