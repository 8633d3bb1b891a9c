"""State of a model → the actions of its open incidents, whether or not the topic `actions` still has them."""

from __future__ import annotations

from collections.abc import Iterator

from streams.action import Action, Reason
from streams.action_of import action_of
from streams.config import Model
from streams.decide import Decision
from streams.rule_state import RuleState, rule_cell
from streams.signals.result import Window
from streams.state import ModelState


def open_actions(model: str, config: Model, state: ModelState) -> Iterator[Action]:
    """The latest action of every incident that is open and published: the same id as on the topic, without evidence.

    Leaves out rules that `config` does not have, and shadow rules: the worker retires their incidents.
    """
    rules = {rule.name: rule for rule in config.rules if not rule.shadow}
    for key, kept in state.rules.items():
        cell = rule_cell(key)
        if cell.rule in rules and kept.firing and not kept.suppressed_by:
            rule = rules[cell.rule]
            over_ms = config.overs_ms(rule)[0]
            window = Window(kept.since_ms, kept.since_ms + over_ms, over_ms, {})
            yield action_of(model, config, Decision(rule, cell.version, cell.segment, window, _reason(kept), kept, ()))


def _reason(kept: RuleState) -> Reason:
    return Reason.WIDENED if kept.revision else Reason.FIRED
