"""Outcomes of a backtest → one self-contained page: what was decided when, and the signals behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape

from streams.action import Action, layer_of
from streams.backtest import Summary
from streams.judge import Outcome
from streams.plan import Plan
from streams.window import WindowRecord

MAX_ROWS = 500
MAX_CHARTS = 12
WIDTH, HEIGHT, PAD = 640, 120, 8

Series = list[tuple[str, float, float | None]]
"""Window end, value, threshold."""

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4;
vertical-align:top}th{font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums}.firing{color:#a40e26}
.resolved{color:#1a7f37}figure{margin:1.5rem 0}figcaption{font-weight:600}svg{width:100%;height:auto;background:#f6f8fa}
.wide{overflow-x:auto}
"""


class Report:
    """Collects what the page shows; memory is bounded by the windows of the signals that fired."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.dropped = 0
        self._series: dict[tuple[str, str, str | None], Series] = {}
        self._breaches: Counter[tuple[str, str, str | None]] = Counter()

    def add(self, outcome: Outcome) -> None:
        room = MAX_ROWS - len(self.actions)
        self.actions += outcome.actions[:room]
        self.dropped += max(0, len(outcome.actions) - room)
        for window in outcome.windows:
            if window.segment is None and window.version is not None and not window.revision:
                self._note(window)

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
        yield "<h2>Rules</h2>"
        yield from _rules(plan)
        yield "</html>"

    def _action_rows(self) -> Iterator[str]:
        if not self.actions:
            yield "<p>No rule fired.</p>"
            return
        head = ("window ends", "state", "action", "model", "segment", "rule", "evidence")
        yield from _table(head, (_action_cells(action) for action in self.actions))
        if self.dropped:
            yield f"<p>{self.dropped:,} more are in actions.ndjson.</p>"


def _action_cells(action: Action) -> tuple[str, ...]:
    data = action.data
    segment = ", ".join(f"{name} = {value}" for name, value in (data.segment or {}).items())
    evidence = "; ".join(
        f"{item.name}{f' of {item.feature}' if item.feature else ''} {item.value} (limit {item.threshold}, n {item.n})"
        for item in data.signals[:4]
    )
    state = f'<span class="{data.state}">{data.state}</span>'
    cells = (data.action, data.model, segment, data.rule, evidence or data.reason)
    return (escape(data.window.end), state, *map(escape, cells))


def _books(summary: Summary) -> Iterator[str]:
    rows = (
        (escape(name), *(f"{number:,}" for number in (m.read, m.counted, m.late, m.rejected, m.duplicate, m.windows)))
        for name, m in summary.models.items()
    )
    yield from _table(("model", "read", "counted", "late", "rejected", "duplicate", "windows"), rows)
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
    top = max(max(value, limit or 0) for _, value, limit in series) or 1.0
    lines = [
        _polyline([value for _, value, _ in series], top, "#0969da", ""),
        _polyline([limit or 0 for _, _, limit in series], top, "#a40e26", ' stroke-dasharray="4 3"'),
    ]
    span = f"{escape(series[0][0])} to {escape(series[-1][0])}, 0 to {top:.3g}; dashed: the threshold"
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}">{"".join(lines)}</svg><small>{span}</small></figure>'
    )


def _polyline(values: list[float], top: float, colour: str, dash: str) -> str:
    step = (WIDTH - 2 * PAD) / max(1, len(values) - 1)
    points = " ".join(
        f"{PAD + i * step:.1f},{HEIGHT - PAD - value / top * (HEIGHT - 2 * PAD):.1f}" for i, value in enumerate(values)
    )
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5"{dash} points="{points}"/>'
