"""State of a model → the actions of its open incidents, whether or not the topic `actions` still has them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from streams.action import Action, action_of
from streams.baseline import WHOLE
from streams.config import Model
from streams.decide import Decision, Reason, RuleState
from streams.errors import UNREADABLE
from streams.signals.evaluate import Window
from streams.state import ModelState


def open_actions(model: str, config: Model, state: ModelState) -> Iterator[Action]:
    """The latest action of every incident that is open and published: the same id as on the topic, without evidence.

    Leaves out rules that `config` does not have, and shadow rules: the worker retires their incidents.
    """
    rules = {rule.name: rule for rule in config.rules if not rule.shadow}
    for key, kept in state.rules.items():
        try:
            name, version, dimension, value = msgspec.json.decode(key, type=tuple[str, str | None, str, str])
        except UNREADABLE:
            continue
        if name in rules and kept.firing and not kept.suppressed_by:
            rule, segment = rules[name], (dimension, value) if dimension else WHOLE
            over_ms = config.overs_ms(rule)[0]
            window = Window(kept.since_ms, kept.since_ms + over_ms, over_ms, {})
            yield action_of(model, config, Decision(rule, version, segment, window, _reason(kept), kept, ()))


def _reason(kept: RuleState) -> Reason:
    return Reason.WIDENED if kept.revision else Reason.FIRED
