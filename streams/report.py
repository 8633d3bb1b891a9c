"""Outcomes of a backtest → one self-contained page: what was decided when, and the signals behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape

from streams.action import Action, layer_of
from streams.backtest import Summary
from streams.judge import Outcome
from streams.plan import Plan
from streams.window import Clock, WindowRecord

MAX_ROWS = 500
MAX_CHARTS = 12
WIDTH, HEIGHT, PAD = 640, 120, 8
SHOWN_MEASURES = ("brier", "bias")

Series = list[tuple[str, float, float | None]]
"""Window end, value, threshold."""

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4;
vertical-align:top}th{font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums}.firing{color:#a40e26}
.resolved{color:#1a7f37}figure{margin:1.5rem 0}figcaption{font-weight:600}svg{width:100%;height:auto;background:#f6f8fa}
.wide{overflow-x:auto}.when{white-space:nowrap}
"""


class Report:
    """Collects what the page shows; memory is bounded by the windows of the signals that fired."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.dropped = 0
        self._series: dict[tuple[str, str, str | None], Series] = {}
        self._breaches: Counter[tuple[str, str, str | None]] = Counter()
        self._cohorts: dict[tuple[str, str, str], WindowRecord] = {}

    def add(self, outcome: Outcome) -> None:
        room = MAX_ROWS - len(self.actions)
        self.actions += outcome.actions[:room]
        self.dropped += max(0, len(outcome.actions) - room)
        for window in outcome.windows:
            if window.clock is Clock.COHORT and window.segment is None:
                self._keep(window)
            elif window.segment is None and window.version is not None and not window.revision:
                self._note(window)

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
                key = (window.model, signal.name, signal.feature)
                self._series.setdefault(key, []).append((window.end, signal.value, signal.threshold))
                self._breaches[key] += signal.breached

    def html(self, plan: Plan, summary: Summary) -> str:
        return "\n".join(self._page(plan, summary))

    def _page(self, plan: Plan, summary: Summary) -> Iterator[str]:
        yield '<!doctype html><html lang="en"><meta charset="utf-8"><title>Foreshock backtest</title>'
        yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
        yield f"<style>{STYLE}</style><h1>Backtest</h1>"
        yield from _books(summary)
        yield "<h2>Actions</h2>"
        yield from self._action_rows()
        yield "<h2>Signals that crossed their threshold most often</h2>"
        charts = [key for key, count in self._breaches.most_common(MAX_CHARTS) if count]
        yield from (_chart(key, self._series[key]) for key in charts)
        if not charts:
            yield "<p>None did.</p>"
        if self._cohorts:
            yield "<h2>Cohorts: what the predictions were worth</h2>"
            yield from self._cohort_rows()
        yield "<h2>Rules</h2>"
        yield from _rules(plan)
        yield "</html>"

    def _action_rows(self) -> Iterator[str]:
        if not self.actions:
            yield "<p>No rule fired.</p>"
            return
        head = ("window ends", "state", "action", "layer", "model", "segment", "rule", "evidence")
        yield from _table(head, (_action_cells(action) for action in self.actions))
        if self.dropped:
            yield f"<p>{self.dropped:,} more are in actions.ndjson.</p>"

    def _cohort_rows(self) -> Iterator[str]:
        """The truth as far as it is known: each number with its 95 % interval, its labels and how mature they are."""
        names = dict.fromkeys(
            (signal.name, signal.feature) for cohort in self._cohorts.values() for signal in cohort.signals
        )
        measures = [m for m in SHOWN_MEASURES if any(m in cohort.measures for cohort in self._cohorts.values())]
        head = (
            "cohort",
            "model",
            "version",
            "labels",
            "maturity",
            *(_signal_title(*name) for name in names),
            *measures,
        )
        yield from _table(head, (_cohort_cells(cohort, names, measures) for _, cohort in sorted(self._cohorts.items())))


def _signal_title(name: str, feature: str | None) -> str:
    return escape(f"{name} of {feature}" if feature else name)


def _cohort_cells(
    cohort: WindowRecord, names: Iterable[tuple[str, str | None]], measures: Iterable[str]
) -> Iterator[str]:
    found = {(signal.name, signal.feature): signal for signal in cohort.signals}
    maturity = "" if cohort.maturity is None else f"{cohort.maturity:.0%}"
    yield _moment(cohort.start)
    yield from map(escape, (cohort.model, cohort.version or "", f"{cohort.counts['labels']:,}", maturity))
    for name in names:
        signal = found.get(name)
        if signal is None or signal.value is None:
            yield ""
            continue
        low, high = signal.interval or (None, None)
        around = "" if low is None or high is None else f" <small>[{low:.3f}, {high:.3f}]</small>"
        yield f"{signal.value:.3f}{around}"
    for measure in measures:
        yield f"{cohort.measures[measure]:.3f}" if measure in cohort.measures else ""


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _moment(text: str) -> str:
    """Date and minute, on one line."""
    return f'<span class="when">{escape(text[:16].replace("T", " "))}</span>'


def _action_cells(action: Action) -> tuple[str, ...]:
    data = action.data
    segment = ", ".join(f"{name} = {value}" for name, value in (data.segment or {}).items())
    evidence = "; ".join(
        f"{item.name}{f' of {item.feature}' if item.feature else ''} {_short(item.value)} "
        f"(limit {_short(item.threshold)}, n {item.n})"
        for item in data.signals[:4]
    )
    state = f'<span class="{data.state}">{data.state}</span>'
    cells = (data.action, str(data.layer), data.model, segment, data.rule, evidence or data.reason)
    return (_moment(data.window.end), state, *map(escape, cells))


def _books(summary: Summary) -> Iterator[str]:
    rows = (
        (escape(name), *(f"{number:,}" for number in (m.read, m.counted, m.late, m.rejected, m.duplicate, m.windows)))
        for name, m in summary.models.items()
    )
    yield from _table(("model", "read", "counted", "late", "rejected", "duplicate", "windows"), rows)
    labelled = [(name, m.labels) for name, m in summary.models.items() if m.labels]
    if labelled:
        head = ("labels of", *labelled[0][1])
        yield from _table(head, ((escape(name), *(f"{n:,}" for n in found.values())) for name, found in labelled))
    if summary.rejected:
        yield f"<p>{summary.rejected:,} records were rejected before a model could be read.</p>"


def _rules(plan: Plan) -> Iterator[str]:
    rows = (
        (escape(name), str(layer_of(rule)), escape(rule.name), escape(", ".join(rule.signals)), rule.response)
        for name, model in plan.models.items()
        for rule in model.config.rules
    )
    yield from _table(("model", "layer", "rule", "signals", "response"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield '<div class="wide"><table><tr>' + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</table></div>"


def _chart(key: tuple[str, str, str | None], series: Series) -> str:
    model, signal, feature = key
    title = escape(f"{model}: {signal}{f' of {feature}' if feature else ''}")
    both = [number for _, value, limit in series for number in (value, limit or 0)]
    low, top = min(0.0, *both), max(0.0, *both) or 1.0
    lines = [
        _polyline([value for _, value, _ in series], low, top, "#0969da", ""),
        _polyline([limit or 0 for _, _, limit in series], low, top, "#a40e26", ' stroke-dasharray="4 3"'),
    ]
    span = f"{escape(series[0][0])} to {escape(series[-1][0])}, {low:.3g} to {top:.3g}; dashed: the threshold"
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}">{"".join(lines)}</svg><small>{span}</small></figure>'
    )


def _polyline(values: list[float], low: float, top: float, colour: str, dash: str) -> str:
    step = (WIDTH - 2 * PAD) / max(1, len(values) - 1)
    points = " ".join(
        f"{PAD + i * step:.1f},{HEIGHT - PAD - (value - low) / (top - low) * (HEIGHT - 2 * PAD):.1f}"
        for i, value in enumerate(values)
    )
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5"{dash} points="{points}"/>'
