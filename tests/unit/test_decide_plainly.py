"""A rule does what is stated of it: its behaviour once more, in plain loops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.config import Rule
from streams.rule_state import NO_TRAFFIC_PANES
from tests.decide_cases import (
    BREACH,
    FEW,
    QUIET,
    M,
    Model,
    rule_of,
)


class Plain:
    """A rule of one cell whose evidence is always the same, stated once more."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.known = self.firing = False
        self.run = self.quiet = self.starved = self.since = 0
        self.ended: int | None = None

    def pane(self, number: int, letter: str) -> str | None:
        """What is said of a pane; `number`: its end, in minutes."""
        if letter == "." and not self.known:
            return None
        self.known = True
        cools = self.ended is not None and number * M < self.ended * M + self.rule.cool_down_ms
        if letter in "f.":
            self.starved += 1
            if self.firing and self.starved >= NO_TRAFFIC_PANES:
                return self.end(number, "no_traffic", quiet=0)
            if letter == "." and not self.firing and self.starved > NO_TRAFFIC_PANES and not cools:
                self.__init__(self.rule)  # type: ignore[misc]
            return "holds" if self.firing else "too_few_samples"
        self.starved = 0
        if letter == "q":
            self.quiet, self.run = self.quiet + 1, 0
            if not self.firing:
                return "quiet"
            return self.end(number, "resolved", self.quiet) if self.quiet >= self.rule.clear_panes else "holds"
        self.run, self.quiet = self.run + 1, 0
        if self.firing:
            return "holds"
        if self.run < self.rule.for_panes:
            return "pending"
        if cools:
            return "cooling_down"
        self.firing, self.since = True, (number - 1) * M
        return "fired"

    def end(self, number: int, reason: str, quiet: int) -> str:
        self.firing, self.ended, self.run, self.quiet = False, number, 0, quiet
        return reason


stretches = st.tuples(st.sampled_from("qbf."), st.one_of(st.integers(1, 4), st.integers(22, 27)))


@given(
    st.lists(stretches, max_size=9), st.integers(1, 3), st.integers(1, 3), st.sampled_from([None, "2m", "7m", "30m"])
)
def test_a_rule_does_what_is_stated_of_it(
    drawn: list[tuple[str, int]], for_panes: int, clear_panes: int, cool_down: str | None
) -> None:
    rule = rule_of(for_panes=for_panes, clear_panes=clear_panes, **({"cool_down": cool_down} if cool_down else {}))
    model, plain = Model(rule), Plain(rule)
    for end, letter in enumerate("".join(letter * count for letter, count in drawn), 1):
        found = model.pane(*{"q": QUIET, "b": BREACH, "f": FEW, ".": []}[letter])
        expected = plain.pane(end, letter)
        assert [decision.reason for decision in found] == ([expected] if expected else []), end
        assert bool(model.states) == plain.known
        for decision in found:
            state = decision.state
            assert state.firing == plain.firing
            assert not plain.known or state.resolved_ms == (plain.ended and plain.ended * M)
            if expected in ("fired", "holds", "resolved", "no_traffic") and plain.since:
                assert (state.since_ms, state.revision, state.suppressed_by) == (plain.since, 0, "")
            assert decision.published == (expected in ("fired", "resolved", "no_traffic"))
