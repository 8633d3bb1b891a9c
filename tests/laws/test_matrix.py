"""Every kind of model through the whole pipeline: packed at every pane, and rebuilt midway from what was packed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import streams.backtest
from streams.backtest import Backtest
from streams.configure import load
from streams.plan import compile_plan
from streams.window import WindowRecord
from tests.matrix import CASES, MINUTES, START_MS, Case, Restarting, reference, side_inputs, stream, text

NOW_MS = START_MS + 86_400_000


def ran(case: Case, restarts: frozenset[int] | None = None) -> tuple[dict[bytes, Any], dict[str, Any], Backtest]:
    """The final windows, the actions by id, and the run."""
    plan = compile_plan(load(text(case)), {case.name: reference(case).baseline})
    (events, labels), told = stream(case, 2), side_inputs(case, 3)
    one = (
        Backtest(plan, NOW_MS, labelled=bool(labels), told=told)
        if restarts is None
        else Restarting(plan, NOW_MS, labelled=bool(labels), told=told, restarts=restarts)
    )
    windows: dict[bytes, WindowRecord] = {}
    actions: dict[str, Any] = {}
    for outcome in one.run(events, labels, told):
        for window in outcome.windows:
            if window.key not in windows or window.revision >= windows[window.key].revision:
                windows[window.key] = window
        actions |= {action.id: msgspec.to_builtins(action) for action in outcome.actions}
    return {key: msgspec.to_builtins(window) for key, window in windows.items()}, actions, one


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_restart_from_the_packed_state_leaves_no_trace(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.backtest, "BATCH", 256)
    windows, actions, run = ran(case)
    again = ran(case, frozenset({4, 9, 10, 13}))
    assert again[1] == actions and actions
    assert again[0].keys() == windows.keys()
    assert {key: again[0][key] for key in windows if again[0][key] != windows[key]} == {}
    assert len(windows) >= MINUTES
    model = run.summary().models[case.name]
    assert model.read == model.counted == len(stream(case, 2)[0])
