"""Actions of made-up incidents, for what reads them."""

from __future__ import annotations

from streams.action import Action, Reason
from streams.action_of import action_of
from streams.baseline import WHOLE, SegmentKey
from streams.config import Model, Response, Rule
from streams.decide import Decision
from streams.rule_state import RuleState
from streams.signals.result import Window

HOUR_MS = 3_600_000
BEGINNINGS = {"f": Reason.FIRED, "s": Reason.SUPPRESSED, "l": Reason.RELEASED, "w": Reason.WIDENED}


def action(letter: str, hour: int, rule: str = "nulls", segment: SegmentKey = WHOLE, since: int = 0) -> Action:
    """f fired, s suppressed, l released, w widened, r resolved; in the window that ends at an hour.
    `since`: the hour in which the incident began, which all of its actions name."""
    reason = BEGINNINGS.get(letter, Reason.RESOLVED)
    window = Window((hour - 1) * HOUR_MS, hour * HOUR_MS, HOUR_MS, {})
    of = Rule(name=rule, signals=("null_rate",), response=Response.DATA_INCIDENT)
    state = RuleState(firing=letter != "r", since_ms=since * HOUR_MS, suppressed_by="x" if letter == "s" else "")
    return action_of("m", Model(), Decision(of, "1", segment, window, reason, state, ()))
