"""One clock of a model: closed panes → windows of every length that end with them, their records, and decisions.

Events, labels and KPIs are evaluated by the same steps. What differs is a strategy for each closed pane.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from streams.config import Rule
from streams.decide import Decision, decide
from streams.plan import ModelPlan
from streams.rule_state import RuleCell, RuleState
from streams.signals.result import CellResult, Window
from streams.situation import Judged, Situation
from streams.window import WindowRecord


class PaneStrategy(ABC):
    """How one closed pane is evaluated by its clock. Windows are asked for from the shortest to the longest."""

    @abstractmethod
    def window(self, length_ms: int) -> Window:
        """The window of about this length that ends with the pane."""

    @abstractmethod
    def results(self, window: Window) -> list[CellResult]:
        """The signals of every cell of a window."""

    @abstractmethod
    def records(self, window: Window, results: Iterable[CellResult]) -> Iterable[WindowRecord]:
        """What is published of a window."""

    def is_whole(self, window: Window) -> bool:
        """Whether enough of a window is known to publish it and to decide by it."""
        return True


class ClockEvaluator:
    """Evaluates the closed panes of one clock of a model, in event-time order, and revises them."""

    def __init__(self, plan: ModelPlan, rules: Iterable[Rule]) -> None:
        """`rules`: those that decide by the windows of this clock."""
        self.plan, self.rules = plan, tuple(rules)
        overs_ms = (ms for rule in self.rules for ms in plan.config.overs_ms(rule))
        self.overs_ms = tuple(sorted({plan.config.pane_ms, *overs_ms}))
        """Lengths of the windows, the shortest first."""
        self.published: dict[int, int] = {}
        """Per evaluated pane the number of records that its last window was made of, while late ones may still come."""
        self.latest: list[CellResult] = []
        """The last evaluated window of the pane's length, for the metrics."""

    def evaluate(
        self, pane: PaneStrategy, states: dict[RuleCell, RuleState], situation: Situation
    ) -> tuple[list[WindowRecord], list[Decision]]:
        """The records of all windows that end with a pane, and the decisions by them; `states` are replaced."""
        windows: list[WindowRecord] = []
        judged: dict[int, Judged] = {}
        for length_ms in self.overs_ms:
            window = pane.window(length_ms)
            results = pane.results(window)
            if length_ms == self.plan.config.pane_ms:
                self.latest = results
            if pane.is_whole(window):
                windows += pane.records(window, results)
                judged[length_ms] = Judged(window, results)
        rules = [rule for rule in self.rules if judged.keys() >= set(self.plan.config.overs_ms(rule))]
        return windows, list(decide(rules, judged, states, situation))

    def revise(
        self, start_ms: int, count: int, revision: Callable[[], list[WindowRecord]], unrevised: int | None = None
    ) -> list[WindowRecord]:
        """The revision of a pane; empty if its last window was made of just as many records.

        Parameters
        ----------
        count
            Number of records that are known of the pane by now.
        unrevised
            Number that it was evaluated by, where `published` does not hold it.
        """
        if count == self.published.get(start_ms, unrevised):
            return []
        self.published[start_ms] = count
        return revision()

    def forget_published(self, before_ms: int) -> None:
        """Evicts the counts of panes that nothing late can be part of any more."""
        for start_ms in [start_ms for start_ms in self.published if start_ms < before_ms]:
            del self.published[start_ms]
