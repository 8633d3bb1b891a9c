"""Outcomes of a backtest → one self-contained page: what was decided when, and the signals behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from streams.action import Action
from streams.action_of import layer_of
from streams.backtest import Summary
from streams.compare import Spell, Spells
from streams.judge_model import Outcome
from streams.plan import Plan
from streams.reports.html import Column, Markup, figure, page, paragraph, section, table, tag, when
from streams.reports.phrases import measure_title, number_text, segment_phrase
from streams.reports.svg import Mark, Series
from streams.window import Clock, SignalRecord, WindowRecord

MAX_ROWS = 500
MAX_CHARTS = 12
SHOWN_MEASURES = ("brier", "bias")

SignalKey = tuple[str, str | None, str, str | None]
"""Model, version, signal and feature."""
Trace = list[tuple[str, float, float]]
"""Window end, value, threshold."""


class BacktestPage:
    """Collects what the page shows; memory is bounded by the windows of the signals that fired."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.dropped = 0
        self._spells = Spells()
        self._traces: dict[SignalKey, Trace] = {}
        self._breaches: Counter[SignalKey] = Counter()
        self._cohorts: dict[tuple[str, str, str], WindowRecord] = {}

    def add(self, outcome: Outcome) -> None:
        for action in outcome.actions:
            self._spells.take(action)
        self.actions += outcome.actions
        if len(self.actions) > 2 * MAX_ROWS:
            self._order()
        for window in outcome.windows:
            if window.clock is Clock.COHORT and window.segment is None:
                self._keep(window)
            elif window.segment is None and window.version is not None and not window.revision:
                self._note(window)

    def _order(self) -> None:
        """Puts the actions in the order of their times, and keeps the first ones."""
        self.actions.sort(key=lambda action: (action.data.window.end, action.data.model, action.data.rule, action.id))
        self.dropped += max(0, len(self.actions) - MAX_ROWS)
        del self.actions[MAX_ROWS:]

    @property
    def incidents(self) -> list[Spell]:
        """In the order of their beginnings."""
        return self._spells.all()

    def _keep(self, cohort: WindowRecord) -> None:
        """The last revision of each cohort, the latest ones only."""
        key = (cohort.start, cohort.model, cohort.version or "")
        known = self._cohorts.get(key)
        if known is None or known.revision <= cohort.revision:
            self._cohorts[key] = cohort
        if len(self._cohorts) > MAX_ROWS:
            del self._cohorts[min(self._cohorts)]

    def _note(self, window: WindowRecord) -> None:
        for signal in window.signals:
            if signal.value is not None and signal.threshold is not None:
                key = (window.model, window.version, signal.name, signal.feature)
                self._traces.setdefault(key, []).append((window.end, signal.value, signal.threshold))
                self._breaches[key] += signal.breached

    def html(self, plan: Plan, summary: Summary) -> str:
        return page("Foreshock backtest", self._body(plan, summary))

    def _body(self, plan: Plan, summary: Summary) -> Iterator[str]:
        yield "<main>"
        yield tag("h1", "Backtest")
        yield from section("Records", _books(summary))
        yield from section("Incidents", self._incidents())
        yield from section("Actions", self._actions())
        yield from section("Signals that crossed their threshold most often", self._charts())
        if self._cohorts:
            yield from section("Cohorts: performance of the predictions", [self._cohort_table()])
        yield from section("Rules", [_rules(plan)])
        yield "</main>"

    def _charts(self) -> Iterator[str]:
        charts = [key for key, count in self._breaches.most_common(MAX_CHARTS) if count]
        yield from (_chart(key, self._traces[key], self._breaches[key]) for key in charts)
        if not charts:
            yield paragraph("None did.")

    def _incidents(self) -> Iterator[str]:
        found = self.incidents
        if not found:
            yield paragraph("There was none.")
            return
        head = ("began", "ended", "response", "model", "version", "segment", "rule")
        yield table("Incidents in the order of their beginnings", head, map(_incident_cells, found[:MAX_ROWS]))
        if len(found) > MAX_ROWS:
            yield paragraph(f"{len(found) - MAX_ROWS:,} more follow from actions.ndjson.")

    def _actions(self) -> Iterator[str]:
        self._order()
        if not self.actions:
            yield paragraph("No rule fired.")
            return
        head = ("window ends", "state", "action", "layer", "model", "version", "segment", "rule", "evidence")
        yield table("Actions in the order of their times", head, (_action_cells(action) for action in self.actions))
        if self.dropped:
            yield paragraph(f"{self.dropped:,} more are in actions.ndjson.")

    def _cohort_table(self) -> Markup:
        """The truth as far as it is known: each number with its 95 % interval, its labels and how mature they are."""
        cohorts = [cohort for _, cohort in sorted(self._cohorts.items())]
        names = dict.fromkeys((signal.name, signal.feature) for cohort in cohorts for signal in cohort.signals)
        measures = [name for name in SHOWN_MEASURES if any(name in cohort.measures for cohort in cohorts)]
        numbers = ["labels", "maturity", *(measure_title(*name) for name in names), *measures]
        head: list[Column | str] = ["cohort", "model", "version", *(Column(title, True) for title in numbers)]
        return table("Cohorts, the latest revision of each", head, (_cells(c, list(names), measures) for c in cohorts))


def _cells(cohort: WindowRecord, names: Sequence[tuple[str, str | None]], measures: Iterable[str]) -> tuple[str, ...]:
    found = {(signal.name, signal.feature): signal for signal in cohort.signals}
    maturity = "" if cohort.maturity is None else f"{cohort.maturity:.0%}"
    return (
        when(cohort.start),
        cohort.model,
        cohort.version or "",
        f"{cohort.counts['labels']:,}",
        maturity,
        *(_estimate(found.get(name)) for name in names),
        *(number_text(name, cohort.measures[name]) if name in cohort.measures else "" for name in measures),
    )


def _estimate(signal: SignalRecord | None) -> str:
    if signal is None or signal.value is None:
        return ""
    low, high = signal.interval or (None, None)
    around = "" if low is None or high is None else f" <small>[{low:.3f}, {high:.3f}]</small>"
    return Markup(f"{signal.value:.3f}{around}")


def _action_cells(action: Action) -> tuple[str, ...]:
    data = action.data
    evidence = "; ".join(
        f"{measure_title(item.name, item.feature)} {number_text(item.name, item.value)} "
        f"(limit {number_text(item.name, item.threshold)}, n {item.n})"
        for item in data.signals[:4]
    )
    state = tag("span", data.state, class_=data.state)
    segment = segment_phrase(data.segment)
    return (
        when(data.window.end),
        state,
        data.action,
        str(data.layer),
        data.model,
        data.model_version or "",
        segment,
        data.rule,
        evidence or data.reason,
    )


def _incident_cells(spell: Spell) -> tuple[str, ...]:
    return (
        when(spell.start),
        "open" if spell.end is None else when(spell.end),
        f"{spell.action} (held back)" if spell.suppressed else spell.action,
        spell.model,
        spell.version or "",
        segment_phrase(spell.segment),
        spell.rule,
    )


def incident_line(spell: Spell) -> str:
    """An incident for a terminal."""
    about = [
        *([f"version {spell.version}"] if spell.version is not None else []),
        *([segment_phrase(spell.segment)] if spell.segment else []),
    ]
    where = f", {', '.join(about)}" if about else ""
    response = f"{spell.action}, held back" if spell.suppressed else spell.action
    return f"{spell.start} to {spell.end or 'the end'}: {spell.rule} ({response}){where}"


def _books(summary: Summary) -> Iterator[str]:
    rows = (
        (name, *(f"{number:,}" for number in (m.read, m.counted, m.late, m.rejected, m.duplicate, m.windows)))
        for name, m in summary.models.items()
    )
    counts = ("read", "counted", "late", "rejected", "duplicate", "windows")
    yield table("Events", ["model", *(Column(name, True) for name in counts)], rows)
    labelled = [(name, m.labels) for name, m in summary.models.items() if m.labels]
    if labelled:
        head: list[Column | str] = ["labels of", *(Column(name, True) for name in labelled[0][1])]
        yield table("Labels", head, ((name, *(f"{n:,}" for n in found.values())) for name, found in labelled))
    if summary.rejected:
        yield paragraph(f"{summary.rejected:,} records were rejected before a model could be read.")


def _rules(plan: Plan) -> Markup:
    rows = (
        (rule.name, name, str(layer_of(rule)), ", ".join(rule.signals), rule.response)
        for name, model in plan.models.items()
        for rule in model.config.rules
    )
    return table("Rules of the configuration", ("rule", "model", "layer", "signals", "response"), rows)


def _chart(key: SignalKey, trace: Trace, breaches: int) -> Markup:
    model, version, signal, feature = key
    name = f"{model}, version {version}" if version else model
    ends = [end[:16].replace("T", " ").removesuffix(" 00:00") for end, _, _ in trace]
    said = f"Beyond its threshold in {breaches:,} of {len(trace):,} windows."
    series = [
        Series("value", [value for _, value, _ in trace]),
        Series("threshold", [limit for _, _, limit in trace], Mark.DASHED),
    ]
    return figure(f"{name}: {measure_title(signal, feature)}", said, ends, series)
