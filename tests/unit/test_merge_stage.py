"""Stage 2 of the shell: what it reads back from the state topic, in whatever order compaction has left it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

import agents.merge
from agents.clients import Connection
from agents.merge import UNIT_KEY, MergeStage
from streams.configure import load
from streams.judge import BucketJudge, ModelState, pack_unit
from streams.plan import compile_plan
from streams.rollup import Unit

HOUR_MS = 3_600_000
YAML = """
kafka: {buckets: 1}
models:
  shop:
    rules:
      - {name: slow, signals: [null_rate], response: data_incident, over: 12h}
"""


@pytest.mark.parametrize("units_first", [True, False])
def test_what_is_kept_of_a_model_outlives_the_order_of_the_log(
    units_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is written anew with every pane: compaction leaves it behind the units that were written before."""
    state = ModelState(model="shop", judged_until_ms=5 * HOUR_MS, first_pane_ms=0, last_event_pane_ms=0)
    unit = pack_unit("shop", Unit(HOUR_MS, 2 * HOUR_MS, {}))
    pairs = [(UNIT_KEY + b"shop/1h/7200000", unit), (b"shop", msgspec.json.encode(state))]
    records = [
        SimpleNamespace(partition=0, key=key, value=value) for key, value in (pairs if units_first else pairs[::-1])
    ]

    async def read(
        connection: Any, topic: str, partitions: Any, take: Callable[[Sequence[Any]], None], **how: Any
    ) -> Any:
        take(records)
        return {0: len(records)}

    monkeypatch.setattr(agents.merge, "read_to_end", read)
    plan = compile_plan(load(YAML), {})
    judge = BucketJudge(plan, 0, plan.config.kafka.inference, 1)
    asyncio.run(MergeStage(plan, Connection(broker="none:1"), Mock(), 1, {})._load_state({0: judge}))
    found = judge.judges["shop"]
    assert found.state == state
    assert found.rollup.finished() == {("", HOUR_MS, 2 * HOUR_MS)}
