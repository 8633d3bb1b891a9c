"""What was gathered → the three reports, as records: the page and the JSON are two forms of the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from streams.config import Response
from streams.duration import DAY_MS, WEEK_MS
from streams.ledger_rows import LedgerRows, ProxyRow, Realised, RuleRow
from streams.reports.gather import Cell, Gathered
from streams.reports.incidents import Incident
from streams.reports.lines import (
    DATA,
    ERROR_RATE,
    HEALTH,
    LABEL_FLOW,
    MODEL,
    DayPoint,
    MeasureLine,
    SignalLine,
    as_error_rate,
    cells,
    day_points,
    effect_of,
    is_lower,
    is_two_sided,
    measure_line,
    measures,
    signal_lines,
)
from streams.reports.periods import Cadence, day_of
from streams.reports.phrases import count_text, measure_title, number_text, segment_phrase
from streams.reports.pool import corrected_z, pooled
from streams.reports.recommend import Facts, Recommendation, recommend
from streams.signals.names import SIGNALS
from streams.signals.result import CONFIDENT

SEGMENT_MEASURES = ("segment_error_rate", "mae", "calibration_intercept")


class Standing(StrEnum):
    """What a report comes to, in a word."""

    ALL_WELL = "all well"
    WATCH = "watch"
    ACT = "act"
    NO_DATA = "no data"


class DayCount(msgspec.Struct, frozen=True, kw_only=True):
    """What came on a day."""

    day: str
    events: int
    errors: int
    labels: int | None


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """Of a whole run: read = counted + late + rejected + duplicate."""

    read: int
    counted: int
    late: int
    rejected: int
    duplicate: int


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What all reports begin with. `first` and `last` are days, both included."""

    model: str
    cadence: Cadence
    first: str
    last: str
    standing: Standing
    verdict: str


class Maturity(msgspec.Struct, frozen=True, kw_only=True):
    """How much is known of the period's predictions."""

    predictions: int
    labels: int

    @property
    def share(self) -> float | None:
        return self.labels / self.predictions if self.predictions else None


class Daily(msgspec.Struct, frozen=True, kw_only=True):
    """System and data check."""

    head: Head
    traffic: tuple[DayCount, ...]
    health: tuple[SignalLine, ...]
    data: tuple[SignalLine, ...]
    labels: tuple[SignalLine, ...]
    other: tuple[SignalLine, ...]
    incidents: tuple[Incident, ...]
    books: Books | None


class Weekly(msgspec.Struct, frozen=True, kw_only=True):
    """Segment review. `compared`: lines that were looked at together, by which all intervals are widened."""

    head: Head
    maturity: Maturity
    compared: int
    segments: tuple[MeasureLine, ...]
    moves_compared: int
    moved: tuple[MeasureLine, ...]
    drift: tuple[SignalLine, ...]
    other: tuple[SignalLine, ...]
    incidents: tuple[Incident, ...]


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """A labelled number of a version, day by day."""

    name: str
    version: str | None
    reference: float | None
    points: tuple[DayPoint, ...]


class Monthly(msgspec.Struct, frozen=True, kw_only=True):
    """Retraining review."""

    head: Head
    recommendation: Recommendation
    maturity: Maturity
    performance: tuple[MeasureLine, ...]
    calibration: tuple[MeasureLine, ...]
    estimated: tuple[Trend, ...]
    intercepts: tuple[Trend, ...]
    online: dict[str, float | str | None]
    drift: tuple[SignalLine, ...]
    other: tuple[SignalLine, ...]
    proxies: tuple[ProxyRow, ...]
    rules: tuple[RuleRow, ...]
    realised: Realised | None
    incidents: tuple[Incident, ...]


Report = Daily | Weekly | Monthly


def report_of(gathered: Gathered, ledger: LedgerRows | None = None, books: Books | None = None) -> Report:
    """The report of the cadence that was gathered for."""
    cadence = gathered.period.cadence
    if cadence is Cadence.DAILY:
        return daily(gathered, books)
    return weekly(gathered) if cadence is Cadence.WEEKLY else monthly(gathered, ledger)


def _head(gathered: Gathered, standing: Standing, verdict: str) -> Head:
    period = gathered.period
    return Head(
        model=gathered.model,
        cadence=period.cadence,
        first=day_of(period.start_ms).isoformat(),
        last=day_of(period.end_ms - 1).isoformat(),
        standing=standing,
        verdict=verdict,
    )


def maturity_of(gathered: Gathered) -> Maturity:
    whole = [
        spans
        for (cell, _), spans in gathered.matured().items()
        if not cell.segment and gathered.period.holds(spans.end_ms - 1)
    ]
    return Maturity(predictions=sum(s.predictions for s in whole), labels=sum(s.labels for s in whole))


# Daily


def daily(gathered: Gathered, books: Books | None = None) -> Daily:
    traffic, arrived = gathered.traffic(), gathered.arrived()
    days = tuple(
        DayCount(day=day_of(at).isoformat(), events=found[0], errors=found[1], labels=arrived.get(at))
        for at in gathered.period.shown_ms
        if (found := traffic.get(at)) is not None
    )
    incidents = gathered.told()
    events = traffic.get(gathered.period.start_ms, (0, 0))[0]
    standing, verdict = _daily_verdict(gathered, incidents, events, traffic)
    return Daily(
        head=_head(gathered, standing, verdict),
        traffic=days,
        health=tuple(signal_lines(gathered, HEALTH)),
        data=tuple(signal_lines(gathered, DATA)),
        labels=tuple(signal_lines(gathered, LABEL_FLOW)),
        other=tuple(signal_lines(gathered, None)),
        incidents=tuple(incidents),
        books=books,
    )


def _daily_verdict(
    gathered: Gathered, incidents: list[Incident], events: int, traffic: Mapping[int, tuple[int, int]]
) -> tuple[Standing, str]:
    if not events:
        return Standing.NO_DATA, "No request was counted on this day, so nothing can be said of it."
    open_ = [found for found in incidents if _is_due(found) and found.is_open(gathered.period)]
    before = traffic.get(gathered.period.before_ms, (0, 0))[0]
    change = f", {events / before - 1:+.0%} on the day before" if before else ""
    served = f"{count_text(events, 'request')} came{change}"
    broken = [found for found in open_ if found.response == Response.DATA_INCIDENT]
    if broken:
        rules = _names(broken)
        return Standing.ACT, f"The system or the data is broken: {rules}. {served}."
    if open_:
        verb = "is" if len(open_) == 1 else "are"
        return Standing.WATCH, (
            f"{served}; system and data are in order, but {count_text(len(open_), 'incident')} of the model "
            f"{verb} open: {_names(open_)}."
        )
    ended = [found for found in incidents if _is_due(found) and found.ended_in(gathered.period)]
    over = f" {_names(ended)} ended." if ended else ""
    return Standing.ALL_WELL, f"{served}; no incident is open.{over}"


def _is_due(incident: Incident) -> bool:
    """Whether somebody was to act on it."""
    return not incident.shadow and not incident.only_held_back


def _names(incidents: Iterable[Incident]) -> str:
    return ", ".join(dict.fromkeys(found.rule + segment_phrase(found.segment, " in ") for found in incidents))


# Weekly


def weekly(gathered: Gathered) -> Weekly:
    wanted = list(_segment_measures(gathered))
    z = corrected_z(len(wanted))
    found = [line for item in wanted if (line := _segment_line(gathered, *item, z)) is not None]
    segments = sorted(found, key=lambda line: (-line.excess, line.name, str(line.segment)))
    everything = [(cell, *measure) for cell in cells(gathered) for measure in measures(gathered, cell)]
    wide = corrected_z(len(everything))
    lines = [line for item in everything if (line := measure_line(gathered, *item, wide)) is not None]
    moves = [line for line in lines if line.moved is not None]
    moved = [line for line in moves if line.turned in ("worse", "better")]
    incidents = gathered.told()
    maturity = maturity_of(gathered)
    return Weekly(
        head=_head(gathered, *_weekly_verdict(gathered, maturity, segments, moved, incidents)),
        maturity=maturity,
        compared=len(wanted),
        segments=tuple(segments),
        moves_compared=len(moves),
        moved=tuple(sorted(moved, key=lambda line: (line.turned == "better", -_size(line)))),
        drift=tuple(signal_lines(gathered, MODEL)),
        other=tuple(signal_lines(gathered, None)),
        incidents=tuple(incidents),
    )


def _size(line: MeasureLine) -> float:
    """Of a move, in half widths of its interval."""
    return 0.0 if line.moved is None else abs(line.moved[0]) / ((line.moved[2] - line.moved[1]) / 2 or 1.0)


def _segment_measures(gathered: Gathered) -> Iterable[tuple[Cell, str, str | None]]:
    for cell in cells(gathered):
        wanted = SEGMENT_MEASURES if cell.segment else ("accuracy", *SEGMENT_MEASURES[1:])
        yield from ((cell, name, feature) for name, feature in measures(gathered, cell) if name in wanted)


def _segment_line(gathered: Gathered, cell: Cell, name: str, feature: str | None, z: float) -> MeasureLine | None:
    line = measure_line(gathered, cell, name, feature, z)
    if line is None:
        return None
    if name == "accuracy":
        return as_error_rate(line)
    return msgspec.structs.replace(line, name=ERROR_RATE) if name == "segment_error_rate" else line


def _weekly_verdict(
    gathered: Gathered,
    maturity: Maturity,
    segments: list[MeasureLine],
    moved: list[MeasureLine],
    incidents: list[Incident],
) -> tuple[Standing, str]:
    due = [found for found in incidents if _is_due(found) and found.is_open(gathered.period)]
    unanswered = [found for found in due if not found.acks]
    after = f" {count_text(len(due), 'incident')} stayed open at its end" if due else " No incident stayed open"
    after += f", {_unanswered(len(unanswered), len(due))}." if due else "."
    if not maturity.labels:
        return (Standing.WATCH if due else Standing.NO_DATA), (
            "No label of this week's predictions has come yet, so no segment can be judged." + after
        )
    worse = [line for line in segments if line.verdict == "worse"]
    if not worse:
        said = "No segment is worse than its reference beyond chance."
        return (Standing.WATCH if due else Standing.ALL_WELL), said + after
    line = worse[0]
    where = segment_phrase(line.segment) or "the model as a whole"
    turned = [found for found in moved if found.turned == "worse"]
    how = (
        f"its {measure_title(line.name, line.feature)} is {number_text(line.name, line.now.value)}, "
        f"against {number_text(line.name, line.reference)} in the reference"
    )
    news = " It moved on the week before." if any(_same(line, found) for found in turned) else ""
    of = f"{len(worse)} of {len(segments)} comparisons are worse than the reference. "
    return Standing.ACT, f"{of}The worst is {where}: {how}.{news}{after}"


def _unanswered(number: int, of: int) -> str:
    if number == of:
        return "not answered by anybody"
    return f"{number} of them not answered by anybody" if number else "all of them answered"


def _same(line: MeasureLine, other: MeasureLine) -> bool:
    known = {ERROR_RATE: ("accuracy", "segment_error_rate")}
    return other.name in known.get(line.name, (line.name,)) and (line.segment, line.version) == (
        other.segment,
        other.version,
    )


# Monthly


def monthly(gathered: Gathered, ledger: LedgerRows | None = None) -> Monthly:
    wholes = [cell for cell in cells(gathered) if not cell.segment]
    wanted = [(cell, *measure) for cell in wholes for measure in measures(gathered, cell)]
    z = corrected_z(len(wanted))
    lines = [line for item in wanted if (line := measure_line(gathered, *item, z)) is not None]
    performance = [line for line in lines if SIGNALS[line.name].family == "performance"]
    calibration = [line for line in lines if SIGNALS[line.name].family == "calibration"]
    drift, incidents, maturity = signal_lines(gathered, MODEL), gathered.told(), maturity_of(gathered)
    rows = ledger or LedgerRows(proxies=(), rules=(), realised=())
    found = recommend(_facts(gathered, lines, drift, incidents, maturity))
    return Monthly(
        head=_head(gathered, Standing(found.standing), found.because),
        recommendation=found,
        maturity=maturity,
        performance=tuple(performance),
        calibration=tuple(calibration),
        estimated=tuple(_trends(gathered, wholes, "accuracy")),
        intercepts=tuple(_trends(gathered, wholes, "calibration_intercept")),
        online=gathered.online[1],
        drift=tuple(line for line in drift if line.segment is None),
        other=tuple(signal_lines(gathered, None)),
        proxies=tuple(row for row in rows.proxies if row.model == gathered.model),
        rules=tuple(row for row in rows.rules if row.model == gathered.model),
        realised=next((row for row in rows.realised if row.model == gathered.model), None),
        incidents=tuple(incidents),
    )


def _trends(gathered: Gathered, wholes: Iterable[Cell], name: str) -> Iterable[Trend]:
    for cell in wholes:
        points = tuple(day_points(gathered, cell, name))
        if points:
            reference = next((line for line in [measure_line(gathered, cell, name, None, CONFIDENT)] if line), None)
            yield Trend(
                name=name,
                version=cell.version,
                reference=reference.reference if reference else None,
                points=points,
            )


def _facts(
    gathered: Gathered,
    lines: list[MeasureLine],
    drift: list[SignalLine],
    incidents: list[Incident],
    maturity: Maturity,
) -> Facts:
    period = gathered.period
    due = [found for found in incidents if _is_due(found)]
    broken = [found for found in due if found.response == Response.DATA_INCIDENT]
    return Facts(
        days=len(period.days_ms),
        labels=maturity.labels,
        maturity=maturity.share,
        broken_now=tuple(dict.fromkeys(found.rule for found in broken if found.is_open(period))),
        broken_days=sum(any(_open_on(found, day) for found in broken) for day in period.days_ms),
        fell=tuple(f"{measure_title(line.name, line.feature)}: {_against(line)}" for line in lines if _matters(line)),
        lasts=any(_lasts(gathered, line) for line in lines if _matters(line)),
        retrain=tuple(dict.fromkeys(found.rule for found in due if found.response == Response.RETRAIN)),
        retrain_open=any(found.response == Response.RETRAIN and found.is_open(period) for found in due),
        drifted=tuple(dict.fromkeys(_drift_title(line) for line in drift if line.segment is None and line.breached)),
    )


def _drift_title(line: SignalLine) -> str:
    return line.feature or measure_title(line.name)


def _open_on(incident: Incident, day_ms: int) -> bool:
    """Whether it was open at some time of a day; an action stands at the end of its window."""
    return incident.began_ms <= day_ms + DAY_MS and (incident.ended_ms is None or incident.ended_ms > day_ms)


def _against(line: MeasureLine) -> str:
    reference = number_text(line.name, line.reference)
    now, low, high = (number_text(line.name, value) for value in (line.now.value, line.now.low, line.now.high))
    return f"{now} [{low}, {high}] against {reference}"


def _matters(line: MeasureLine) -> bool:
    """Worse than the reference beyond chance, and by at least the smallest effect that justifies a decision."""
    if line.verdict != "worse" or line.reference is None:
        return False
    return _is_large(line.name, line.now.value, line.reference)


def _is_large(name: str, value: float, reference: float) -> bool:
    off = value - reference
    worse = abs(off) if is_two_sided(name) else -off if is_lower(name) else off
    return worse >= effect_of(name, reference)


def _lasts(gathered: Gathered, line: MeasureLine) -> bool:
    """Whether it still is so in the last seven days of the month."""
    period, cell = gathered.period, Cell(line.version)
    points = gathered.points(cell, line.name, line.feature, period.end_ms - WEEK_MS, period.end_ms)
    late = pooled(line.name, points)
    return late is not None and line.reference is not None and _is_large(line.name, late.value, line.reference)
