"""Reference events through their own configuration → how often its rules fire, beside the budget.

The same events set the limits, so expect at least this rate; more than the budget means that the reference contradicts
itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, takewhile

from streams.action import BEGINNINGS
from streams.backtest import Backtest
from streams.duration import HOUR_MS, WEEK_MS
from streams.events import Invalid, read_event
from streams.labels import label_time_ms
from streams.parking import check_none
from streams.plan import Plan
from streams.survey import MAX_EVENTS

MOST_PANES = 1_000
"""Of a longer reference the first panes are replayed."""
COUNTED_SHARE = 0.99
"""With a smaller share of the events counted (others came late, or are of another model) a replay means nothing."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Result of a replay of the reference: incidents by rule, its span, and the budget a week."""

    incidents: Mapping[str, int]
    span_ms: int
    budget: float

    @property
    def line(self) -> str:
        """One line for a person; less than a week gives no rate.

        >>> Rehearsal({"calibration-off": 2}, 8 * WEEK_MS, 1.0).line
        '2 incidents in 8.0 weeks (calibration-off 2), 0.25 a week; the budget is 1 a week'
        >>> Rehearsal({}, WEEK_MS // 7, 0.5).line
        '0 incidents in 24.0 hours; the budget is 0.5 a week'
        """
        count, weeks = sum(self.incidents.values()), self.span_ms / WEEK_MS
        rules = ", ".join(f"{name} {number}" for name, number in sorted(self.incidents.items()))
        span = f"{weeks:.1f} weeks" if weeks >= 1 else f"{self.span_ms / HOUR_MS:.1f} hours"
        told = f"{count} incident{'' if count == 1 else 's'} in {span}" + (f" ({rules})" if rules else "")
        rate = f", {count / weeks:.2g} a week" if weeks >= 1 else ""
        return f"{told}{rate}; the budget is {self.budget:g} a week"


def rehearse(
    plan: Plan, model: str, values: Iterable[bytes], labels: Iterable[bytes] | None, now_ms: int
) -> Rehearsal | None:
    """Replays the events of a reference, in order of time, and its labels; None if that would mean nothing.

    Parameters:
        now_ms: the time of the run.
    """
    known = plan.models[model]
    if known.baseline is None or not known.baseline.pane_ms:
        return None
    start_ms, end_ms = known.baseline.start_ms, known.baseline.end_ms
    until_ms = min(end_ms, start_ms + MOST_PANES * known.config.pane_ms)
    values = islice(values, MAX_EVENTS)
    if until_ms < end_ms:
        values = _before(values, until_ms)
        labels = labels and takewhile(lambda label: label_time_ms(label) < until_ms, labels)
    run = Backtest(plan, now_ms, labelled=labels is not None)
    actions = (action for outcome in run.run(values, labels or ()) for action in outcome.actions)
    incidents = Counter(action.data.rule for action in actions if action.data.reason in BEGINNINGS)
    check_none(run.parked.values())
    summary = run.summary()
    if summary.models[model].counted < COUNTED_SHARE * summary.read:
        return None
    return Rehearsal(incidents, until_ms - start_ms, known.config.false_alarms_per_week)


def _before(values: Iterable[bytes], until_ms: int) -> Iterator[bytes]:
    """Events up to the first that is of that time or later, those left out that are none."""
    for value in values:
        try:
            if read_event(value).ts_ms >= until_ms:
                return
        except Invalid:
            continue
        yield value
