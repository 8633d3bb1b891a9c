"""A bucket of models → what can be shown of each: frozen records, for metrics and pages.

The records hold counts, times and results only. Whoever shows them needs to know nothing of how a bucket works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from streams.action import Reason
from streams.baseline import SegmentKey
from streams.calibrate import Calibration, standard_errors
from streams.judge import BucketJudge
from streams.judge_model import ModelJudge
from streams.ledger import Ledger, rows_of
from streams.ledger_rows import LedgerRows
from streams.merge import BucketMerge, ModelMerge
from streams.model_panes import FINAL_MARK, ModelBooks
from streams.partial import Books, LabelBooks, sum_of
from streams.plan import Facts, model_of
from streams.signals.result import CellResult, Result
from streams.sketch.layout import ERROR_SLOT

SideInputBooks = Mapping[Facts, Books]


@dataclass(frozen=True, slots=True)
class CellSnapshot:
    """The results of one version and segment in its last window. `version` is None for the model as a whole."""

    version: str | None
    segment: SegmentKey
    events: int
    results: tuple[Result, ...]
    errors: int | None = None
    """Requests in error among the events, where events are judged and `version` is None."""


@dataclass(frozen=True, slots=True)
class WindowsSnapshot:
    """The last windows of a model."""

    events: tuple[CellSnapshot, ...]
    labels: tuple[CellSnapshot, ...]
    kpis: tuple[CellSnapshot, ...]
    calibration: Mapping[tuple[str, str], float]
    """By version and term, intercept and slope, and the standard errors of both where the labels give them."""


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """How far a declared model has been evaluated, and what holds it up."""

    parked: bool
    foreign_partials: int
    watermark_ms: int | None
    """None: not known yet, or the stream has ended."""
    judged_until_ms: int | None
    labels_judged_until_ms: int | None
    awaited_topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IncidentCounts:
    """Incidents of the rules with one response, since the model's state began."""

    firing: int = 0
    resolved: int = 0
    suppressed: int = 0


@dataclass(frozen=True, slots=True)
class DecisionsSnapshot:
    """What was decided of a model since its state began, and what is open."""

    firing: tuple[tuple[str, str, str, str, str, str], ...]
    """Version, segment, rule, response, severity and layer of every open incident."""
    incidents: Mapping[str, IncidentCounts]
    """By response."""
    shadow_incidents: int
    reasons: Mapping[Reason, int]
    """Decisions by reason: every reason has a number."""
    ledger: LedgerRows | None
    """None of a model that was parked before it had one."""


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """What is counted under one name; of a name that no configuration declares, nothing but records."""

    model: str
    books: Books | None
    """None: no record has the name, and none is awaited."""
    labels: LabelBooks | None
    side_inputs: SideInputBooks
    progress: ProgressSnapshot | None = None
    windows: WindowsSnapshot | None = None
    """None of a parked model: its last windows are out of date."""
    decisions: DecisionsSnapshot | None = None
    """None of a model that was parked before anything was restored."""


def snapshots(bucket: BucketJudge) -> Iterator[ModelSnapshot]:
    """A record for every declared model of the bucket, then one for every other name that records have.

    Each is made when it is asked for. Between two of them the bucket may go on.
    """
    merge, side_inputs = bucket.merge, _side_inputs(bucket)
    others = [*merge.others]
    labels: dict[str, list[LabelBooks]] = {}
    for (_, name), books in merge.other_labels.items():
        labels.setdefault(name, []).append(books)
    for name, model in merge.models.items():
        judge = bucket.judges.get(name)
        yield ModelSnapshot(
            name,
            model.books,
            model.outcomes.total() if model.plan.outcomes is not None else None,
            _merged(side_inputs.get(name, ())),
            _progress(bucket, model),
            _windows(judge) if judge is not None and name not in bucket.parking else None,
            _decisions(judge, bucket.ledgers.get(name)) if judge is not None else None,
        )
    for name in dict.fromkeys([*others, *labels, *side_inputs]):
        if name not in merge.models:
            found = _undeclared(merge, name, labels.get(name, ()), side_inputs.get(name, ()))
            if found.books or found.labels or found.side_inputs:
                yield found


def lost_records(bucket: BucketJudge) -> dict[str, int]:
    """By topic, records that were gone before they were counted, as far as this bucket knows of them."""
    lost = {merge.topic: merge.lost for merge in bucket.facts.topics.values()}
    lost[bucket.merge.plan.config.kafka.inference] = bucket.merge.lost
    return {topic: sum(by_partition.values()) for topic, by_partition in lost.items()}


_Part = tuple[Facts, ModelBooks, bool]
"""A side input, a model's books of it, and whether the model declares it."""


def _side_inputs(bucket: BucketJudge) -> dict[str, list[_Part]]:
    """By model, the books of its side inputs; those of a KPI are its model's."""
    found: dict[str, list[_Part]] = {}
    for kind, merge in bucket.facts.topics.items():
        everyone: dict[str, ModelBooks] = {**merge.models, **merge.others}
        for name, books in everyone.items():
            found.setdefault(model_of(name), []).append((kind, books, name in merge.models))
    return found


def _merged(parts: Iterable[_Part]) -> dict[Facts, Books]:
    """By side input, the sum of its books: of those that are declared or have records."""
    by_kind: dict[Facts, list[Books]] = {}
    for kind, part, is_declared in parts:
        books = part.books
        if is_declared or books.read:
            by_kind.setdefault(kind, []).append(books)
    return {kind: sum_of(books) for kind, books in by_kind.items()}


def _undeclared(
    merge: BucketMerge, name: str, labels: Iterable[LabelBooks], side_inputs: Iterable[_Part]
) -> ModelSnapshot:
    books = merge.others[name].books if name in merge.others else Books()
    total = LabelBooks()
    for part in labels:
        total = total.merged(part)
    return ModelSnapshot(name, books if books.read else None, total if total.read else None, _merged(side_inputs))


def _progress(bucket: BucketJudge, model: ModelMerge) -> ProgressSnapshot:
    name, watermark_ms = model.plan.name, bucket.merge.watermark_ms(model)
    return ProgressSnapshot(
        parked=name in bucket.parking,
        foreign_partials=model.foreign,
        watermark_ms=None if watermark_ms is None or watermark_ms >= FINAL_MARK else watermark_ms,
        judged_until_ms=model.judged_until_ms,
        labels_judged_until_ms=model.outcomes.judged_until_ms,
        awaited_topics=bucket.awaited.get(name, ()),
    )


def _windows(judge: ModelJudge) -> WindowsSnapshot:
    labels = judge.labelled.latest if judge.labelled else []
    calibrations = judge.labelled.calibrations if judge.labelled else {}
    return WindowsSnapshot(
        events=tuple(_cell(cell, _errors(cell)) for cell in judge.events.latest),
        labels=tuple(map(_cell, labels)),
        kpis=tuple(_cell(cell) for clock in judge.kpis.values() for cell in clock.latest),
        calibration={
            (version, term): value for version, state in calibrations.items() for term, value in _terms(state)
        },
    )


def _cell(cell: CellResult, errors: int | None = None) -> CellSnapshot:
    return CellSnapshot(cell.version, cell.segment, cell.events, cell.results, errors)


def _errors(cell: CellResult) -> int | None:
    return int(cell.profile.counts.dense()[ERROR_SLOT]) if cell.version is None else None


def _terms(state: Calibration) -> Iterator[tuple[str, float]]:
    yield from (("intercept", state.intercept), ("slope", state.slope))
    yield from zip(("intercept_error", "slope_error"), standard_errors(state.information) or (), strict=False)


def _decisions(judge: ModelJudge, ledger: Ledger | None) -> DecisionsSnapshot:
    state = judge.state
    began, resolved, suppressed = (state.actions, state.resolved, state.suppressed) if state else ({}, {}, {})
    return DecisionsSnapshot(
        firing=tuple(judge.firing()),
        incidents={
            response: IncidentCounts(began.get(response, 0), resolved.get(response, 0), suppressed.get(response, 0))
            for response in dict.fromkeys(rule.response for rule in judge.plan.config.rules)
        },
        shadow_incidents=sum(state.shadow.values()) if state else 0,
        reasons={reason: state.decisions.get(reason, 0) if state else 0 for reason in Reason},
        ledger=rows_of([ledger]) if ledger is not None else None,
    )
