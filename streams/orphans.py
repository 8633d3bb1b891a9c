"""Topic `actions` and kept states → the ends of incidents that are open on the topic and unknown to the states.

Stage 2 publishes an action before the state that contains it. After a process that is killed in between, the next one
evaluates the pane again and opens the same incident; unless its configuration no longer has the rule or the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from streams.action import Action, Reason, State, action_id
from streams.baseline import WHOLE
from streams.fingerprint import Made
from streams.incident_log import LatestIncidents, subject_of
from streams.plan import ModelPlan
from streams.restore import why_gone
from streams.rule_state import RuleCell, RuleState
from streams.state import ModelState
from streams.times import instant_ms

MAX_INCIDENTS = 100_000
"""Incidents that are kept in memory while the topic is read; of further ones nothing is closed."""


class LoggedIncidents:
    """The latest action of each incident of some models, in whatever order the actions are read."""

    def __init__(self, is_wanted: Callable[[str], bool]) -> None:
        """An empty log.

        Parameters:
            is_wanted: whether the incidents of a model of this name are kept.
        """
        self._is_wanted = is_wanted
        self._latest = LatestIncidents()
        self.left_out = 0
        """Actions that were not kept as there are too many incidents."""

    def take(self, action: Action) -> None:
        """Keeps the action if it is the latest of its incident: a later incident replaces an earlier one."""
        if action.data.model != action.subject or not self._is_wanted(action.data.model):
            return
        if len(self._latest) >= MAX_INCIDENTS and self._latest.of(subject_of(action)) is None:
            self.left_out += 1
        else:
            self._latest.take(action)

    def open(self) -> list[Action]:
        """The latest actions of the incidents that are not resolved, in the order of their keys."""
        latest = sorted(self._latest, key=lambda incident: incident.key.subject.order)
        return [incident.news for incident in latest if incident.news is not None and incident.ended is None]


def is_suspect(state: ModelState | None, plan: ModelPlan | None, made: Made | None) -> bool:
    """Whether incidents may be open that the state does not have and that nothing evaluates again.

    Parameters:
        plan: of the model; None: the configuration does not name it.
        made: `made_of(plan)`.
    """
    return plan is None or state is None or state.made != made


def retirements(
    logged: Iterable[Action], states: Mapping[str, ModelState], plans: Mapping[str, ModelPlan]
) -> Iterator[Action]:
    """The actions that close the open incidents that no state has and no plan names: the same for the same incidents.

    Parameters:
        states: as they were kept, before they were restored under these plans.
    """
    for action in logged:
        data, segment = action.data, next(iter((action.data.segment or {}).items()), WHOLE)
        cell, since_ms = RuleCell(data.rule, data.model_version, *segment), instant_ms(data.since)
        kept = states[data.model].rules.get(cell.text) if data.model in states else None
        is_known = kept is not None and kept.firing and kept.since_ms >= since_ms
        if not is_known and _is_gone(action, cell, plans.get(data.model)):
            yield _retirement(action, cell, since_ms)


def _is_gone(action: Action, cell: RuleCell, plan: ModelPlan | None) -> bool:
    if plan is None:
        return True
    rule = next((rule for rule in plan.config.rules if rule.name == cell.rule), None)
    evidence = {f"{signal.name}:{signal.feature}": 0.0 for signal in action.data.signals}
    return bool(why_gone(cell, RuleState(firing=True, told=evidence), rule, None, plan))


def _retirement(action: Action, cell: RuleCell, since_ms: int) -> Action:
    data = action.data
    number = action_id(cell.rule, data.model, cell.version, cell.segment, since_ms, State.RESOLVED, data.revision)
    ended = msgspec.structs.replace(data, state=State.RESOLVED, reason=Reason.RETIRED, signals=())
    return msgspec.structs.replace(action, id=number, time=data.window.end, data=ended)
