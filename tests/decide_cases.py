"""Rules, cells and stories that the tests of decisions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from streams import config
from streams.action import Reason
from streams.baseline import WHOLE, SegmentKey
from streams.config import Response, Rule
from streams.decide import Decision, decide
from streams.inhibit import Incident, Incidents
from streams.rule_state import RuleCell, RuleState, states_by_cell, states_by_text
from streams.signals.names import SIGNALS
from streams.signals.result import CellResult, Result, Window
from streams.situation import Judged, Situation
from streams.sketch.counts import Counts
from streams.sketch.layout import OK_SLOT
from streams.sketch.profile import Profile

M = 60_000
LIMIT = 0.1
NORTH: SegmentKey = ("region", "north")
SOUTH: SegmentKey = ("region", "south")


def rule_of(**options: Any) -> Rule:
    return Rule(
        **{"name": "nulls", "signals": ("null_rate",), "response": Response.DATA_INCIDENT, "min_n": 50, **options}
    )


def cell(
    values: dict[str, float] | float,
    *,
    n: int = 100,
    segment: SegmentKey = WHOLE,
    version: str | None = "1",
    signal: str = "null_rate",
    limit: float = LIMIT,
) -> CellResult:
    """A cell with one signal: its values by column."""
    by_column: dict[Any, float] = values if isinstance(values, dict) else {"x": values}
    dense = np.zeros(3, np.int64)
    dense[OK_SLOT] = n
    size = len(by_column)
    result = Result(
        SIGNALS[signal],
        tuple(by_column),
        np.array(list(by_column.values()), float),
        np.full(size, 0.01),
        np.full(size, limit),
        np.full(size, float(n)),
    )
    return CellResult(version, segment, Profile(Counts.of(dense)), (result,), n)


class Model:
    """Runs rules over one pane after another, through the state's own JSON, as a restart would."""

    def __init__(self, *rules: Rule, over_ms: int = M, **options: Any) -> None:
        self.rules, self.over_ms = rules, over_ms
        self.config = config.Model(pane=f"{over_ms // M}m", rules=rules, **options)
        self.states: dict[RuleCell, RuleState] = {}
        self.incidents: tuple[Incident, ...] = ()
        self.panes = 0

    def pane(
        self, *cells: CellResult, start_ms: int | None = None, longer: Sequence[CellResult] = ()
    ) -> list[Decision]:
        """`longer`: the cells of the window of an hour."""
        self.panes += 1
        end_ms = self.panes * M
        window = Window(end_ms - self.over_ms if start_ms is None else start_ms, end_ms, self.over_ms, {})
        hour = Judged(Window(end_ms - 60 * M, end_ms, 60 * M, {}), longer)
        situation = Situation("m", self.config, Incidents(self.incidents))
        found = list(decide(self.rules, {self.over_ms: Judged(window, cells), 60 * M: hour}, self.states, situation))
        kept_states = msgspec.json.encode(states_by_text(self.states))
        self.states = states_by_cell(msgspec.json.decode(kept_states, type=dict[str, RuleState]))
        kept = msgspec.json.encode(situation.incidents.kept())
        self.incidents = msgspec.json.decode(kept, type=tuple[Incident, ...])
        return found

    def reasons(self, *panes: Sequence[CellResult]) -> list[list[str]]:
        return [[decision.reason for decision in self.pane(*cells)] for cells in panes]


QUIET, BREACH, FEW = [cell(0.05)], [cell(0.5)], [cell(0.5, n=49)]


def story(rule: Rule, panes: str) -> str:
    """Panes as letters (q quiet, b breached, f too few, . no cell) → the reasons' initials, capitals if published."""
    letters = {
        Reason.QUIET: "q",
        Reason.PENDING: "p",
        Reason.FIRED: "F",
        Reason.HOLDS: "h",
        Reason.RESOLVED: "R",
        Reason.NO_TRAFFIC: "N",
        Reason.TOO_FEW: "t",
        Reason.WIDENED: "W",
        Reason.COVERED: "c",
    }
    model = Model(rule)
    told = []
    for letter in panes:
        found = model.pane(*{"q": QUIET, "b": BREACH, "f": FEW, ".": []}[letter])
        assert len(found) <= 1
        told += [letters[decision.reason] for decision in found] or ["-"]
        assert all(decision.published == letters[decision.reason].isupper() for decision in found)
    return "".join(told)


def found_of(decisions: Sequence[Decision]) -> dict[str, str]:
    """Reasons by rule."""
    return {decision.rule.name: str(decision.reason) for decision in decisions}


def both(nulls: float, scores: float, **options: Any) -> list[CellResult]:
    """A cell with a signal of layer 2 and one of layer 3."""
    low, high = cell({"age": nulls}, **options), cell({"score": scores}, signal="score_drift", **options)
    return [replace(low, results=(*low.results, *high.results))]


def shift(**options: Any) -> Rule:
    return rule_of(**{"name": "scores", "signals": ("score_drift",), "response": Response.RETRAIN, **options})


def worse(errors: float, segment_errors: float) -> list[CellResult]:
    """The whole model's accuracy and a segment's error rate; usual is an error rate of 0.01."""
    whole = cell({"": 1 - errors}, signal="accuracy", limit=0.9)
    (result,) = whole.results
    right = replace(whole, results=(replace(result, baseline=np.array([0.99])),))
    return [right, cell({"": segment_errors}, signal="segment_error_rate", segment=NORTH)]
