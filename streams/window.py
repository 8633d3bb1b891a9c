"""Evaluated cell → the record of a closed window, as `windows` and `windows.ndjson` carry it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

import msgspec
import numpy as np

from streams.action import segment_object
from streams.baseline import WHOLE
from streams.calibrate import Online
from streams.evidence import number
from streams.plan import ModelPlan
from streams.signals.result import CellResult, Result, Window
from streams.sketch.layout import ERROR_SLOT
from streams.sketch.outcomes import PREDICTIONS, UNUSABLE
from streams.times import rfc3339

TOP_VALUES = 5
QUANTILE_LEVELS = (0.01, 0.25, 0.5, 0.75, 0.99)


class Clock(StrEnum):
    """What a window's span is about: events by their own time, labels by their arrival, predictions of a cohort as far
    as they are known, predictions of a span that is long enough to be evaluated when its labels have come, or
    observations of a KPI."""

    EVENT = "event"
    ARRIVAL = "arrival"
    COHORT = "cohort"
    TRUTH = "truth"
    KPI = "kpi"


class SignalRecord(msgspec.Struct, frozen=True):
    family: str
    name: str
    feature: str | None
    value: float | None
    baseline: float | None
    threshold: float | None
    n: int | None
    breached: bool
    interval: tuple[float | None, float | None] | None = None
    """The 95 % interval of a labelled number."""


class WindowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A closed window of one cell. A later record of the same cell and span replaces it if its revision is higher.

    `revision` 0 is what was evaluated. Later ones include late, admitted records; they are numbered by the events that
    they include, so that a repeat has the same number.
    """

    model: str
    version: str | None
    segment: dict[str, str] | None
    start: str
    end: str
    revision: int
    counts: dict[str, int]
    top_unseen: dict[str, list[tuple[str, int]]]
    quantiles: dict[str, dict[str, float]]
    signals: tuple[SignalRecord, ...]
    clock: Clock = Clock.EVENT
    kpi: str | None = None
    """The KPI of a window on the clock of KPIs."""
    maturity: float | None = None
    """Share of the predictions of a cohort, or of a span of truth, that have a label."""
    settled: str | None = None
    """When the labels of a span of truth had come, by their own clock."""
    expected: dict[str, float] = {}
    """Performance that the scores lead to expect before the labels come: valid under covariate shift only. In a window
    of arrivals it is that of the predictions of its pane, by the online recalibration."""
    measures: dict[str, float] = {}
    """Numbers without a threshold: of labelled outcomes the Brier score and its parts, or a regression's bias; of
    events the mean score of the overridden predictions."""
    online: dict[str, float | str | None] = {}
    """State after the labels so far: the online recalibration, and since when its detectors see a difference."""

    @property
    def key(self) -> bytes:
        segment = "/".join(f"{name}={value}" for name, value in (self.segment or {}).items())
        clock = "" if self.clock is Clock.EVENT else f"/{self.clock}{self.kpi or ''}"
        return f"{self.model}/{self.version}/{segment}/{self.start}/{self.end}{clock}".encode()


def outcome_record(
    plan: ModelPlan, window: Window, cell: CellResult, clock: Clock, revision: int, online: Online | None = None
) -> WindowRecord:
    """A window of labelled outcomes."""
    vector = cell.profile.counts.dense()
    counts = {"labels": cell.events}
    if clock in (Clock.COHORT, Clock.TRUTH):
        counts["predictions"] = int(vector[PREDICTIONS])
    if cell.version is not None:
        counts["unusable"] = int(vector[UNUSABLE])
    share = cell.events / counts["predictions"] if counts.get("predictions") else None
    return msgspec.structs.replace(
        _record_of(plan, window, cell, revision, counts),
        clock=clock,
        maturity=None if share is None else number(min(1.0, share)),
        online=_online(online) if online else {},
        expected=_rounded(cell.expected),
        measures=_rounded(cell.measures),
    )


def told_record(plan: ModelPlan, window: Window, cell: CellResult, kpi: str, revision: int) -> WindowRecord:
    """A window of a KPI's observations."""
    counts = {"observations": cell.events}
    return msgspec.structs.replace(_record_of(plan, window, cell, revision, counts), clock=Clock.KPI, kpi=kpi)


def _online(found: Online) -> dict[str, float | str | None]:
    since = {"adwin": found.adwin_since_ms, "page_hinkley": found.page_hinkley_since_ms}
    errors = found.errors or (None, None)
    return {
        "intercept": number(found.intercept),
        "intercept_error": None if errors[0] is None else number(errors[0]),
        "slope": number(found.slope),
        "slope_error": None if errors[1] is None else number(errors[1]),
        **{f"{name}_since": None if at is None else rfc3339(at) for name, at in since.items()},
    }


def _record_of(
    plan: ModelPlan, window: Window, cell: CellResult, revision: int, counts: dict[str, int]
) -> WindowRecord:
    """What the records of all clocks have."""
    return WindowRecord(
        model=plan.name,
        version=cell.version,
        segment=segment_object(cell.segment),
        start=rfc3339(window.start_ms),
        end=rfc3339(window.end_ms),
        revision=revision,
        counts=counts,
        top_unseen={},
        quantiles={},
        signals=tuple(_records(cell)),
    )


def window_record(plan: ModelPlan, window: Window, cell: CellResult, revision: int) -> WindowRecord:
    profile = cell.profile
    columns = plan.layout.columns
    counts = {"events": cell.events, "errors": int(profile.counts.dense()[ERROR_SLOT])}
    return msgspec.structs.replace(
        _record_of(plan, window, cell, revision, counts),
        top_unseen={columns[i].name: heavy.top(TOP_VALUES) for i, heavy in sorted(profile.heavy.items())},
        quantiles={columns[i].name: _quantiles(sketch.at(QUANTILE_LEVELS)) for i, sketch in profile.quantiles.items()},
        expected=_rounded(cell.expected),
        measures=_rounded(cell.measures),
    )


def _rounded(found: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def _quantiles(values: list[float]) -> dict[str, float]:
    return {f"p{level * 100:g}": value for level, value in zip(QUANTILE_LEVELS, values, strict=True)}


def _records(cell: CellResult) -> Iterator[SignalRecord]:
    for result in cell.results:
        breached = result.breached
        for i, column in enumerate(result.columns):
            if cell.segment == WHOLE or breached[i] or result.value[i] > 0 or not result.signal.per_column:
                yield _record(result, i, column, bool(breached[i]))


def _record(result: Result, i: int, column: str | None, breached: bool) -> SignalRecord:
    signal, n = result.signal, result.n[i]
    return SignalRecord(
        family=signal.family,
        name=signal.name,
        feature=column,
        value=number(result.value[i]),
        baseline=number(result.baseline[i]),
        threshold=number(result.threshold[i]),
        n=None if np.isnan(n) else int(n),
        breached=breached,
        interval=(number(result.interval[0]), number(result.interval[1])) if result.interval else None,
    )
