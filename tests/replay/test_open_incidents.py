"""At every moment of a run, the state alone names the incidents that the published actions have left open."""

from __future__ import annotations

import msgspec

from agents.alertmanager import OpenIncidents, alert
from streams.backtest import Backtest
from streams.config import Model
from streams.open_incidents import open_actions
from streams.plan import Facts
from streams.state import ModelState, pack_state, unpack_state
from tests.replay.test_labelled_streams import MODEL, START_MS
from tests.scenario import plan, stream


def restored(state: ModelState, config: Model) -> OpenIncidents:
    """What a bridge knows that starts now, when the log of actions has expired."""
    incidents = OpenIncidents()
    for action in open_actions(MODEL, config, unpack_state(pack_state(state), ModelState)):
        incidents.restore(action)
    return incidents


def test_open_incidents_by_state_are_those_of_the_log_of_actions() -> None:
    known, opened, compared = OpenIncidents(), set(), 0
    prepared = plan()
    config = prepared.models[MODEL].config
    for outcome in Backtest(prepared, START_MS + 10**9, labelled=True, told=Facts).run(*stream()):
        values = [msgspec.json.encode(action) for action in outcome.actions]
        for value in values:
            known.take(value)
        if outcome.state is None:
            continue
        found = restored(outcome.state, config)
        assert {key: action.id for key, action in found.firing.items()} == {
            key: action.id for key, action in known.firing.items()
        }
        for key, action in found.firing.items():
            mine, published = alert(action, ""), alert(known.firing[key], "")
            assert (mine["labels"], mine["startsAt"]) == (published["labels"], published["startsAt"])
            opened.add(key)
            compared += 1
    assert len(opened) >= 3 and compared > 20


def test_what_is_left_of_the_log_corrects_what_state_says() -> None:
    """Every suffix of the log of actions, read after the state, gives the same as the whole log."""
    prepared = plan()
    config = prepared.models[MODEL].config
    log: list[bytes] = []
    states: list[tuple[int, ModelState]] = []
    for outcome in Backtest(prepared, START_MS + 10**9, labelled=True, told=Facts).run(*stream()):
        log += [msgspec.json.encode(action) for action in outcome.actions]
        if outcome.state is not None and outcome.actions:
            states.append((len(log), msgspec.structs.replace(outcome.state, rules=dict(outcome.state.rules))))
    for written, state in states[:: max(1, len(states) // 6)]:
        for ahead in range(3):  # actions that were published after the state, until the bridge reads them
            end = min(written + ahead, len(log))
            whole = OpenIncidents()
            for value in log[:end]:
                whole.take(value)
            for begin in range(end + 1):
                found = restored(state, config)
                for value in log[min(begin, written) : end]:
                    found.take(value)
                assert found.firing.keys() == whole.firing.keys()
