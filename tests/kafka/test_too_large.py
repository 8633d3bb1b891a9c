"""A worker one of whose models has a partial that its topic does not take: that model waits, and the others go on."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any
from uuid import uuid4

import pytest

from agents import publish, topic_watch, topics
from agents.app import Worker
from agents.clients import MIB, Connection
from agents.replay import generate
from deploy.kafka import Broker
from streams.configure import load
from streams.plan import Plan, compile_plan
from tests.embedded.conftest import until
from tests.embedded.test_worker import on_topic, page, running, samples
from tests.faults.cluster import alter_topic

START_MS, LIMIT = 1_767_225_600_000, 40_000
WIDE = ", ".join(f"f{number}: {{type: numeric}}" for number in range(300))
VALUES = ", ".join(f"v{number}" for number in range(40))
YAML = f"""
kafka: {{buckets: 1}}
models:
  narrow: {{pane: 1m, grace: 1s, features: {{age: {{type: numeric}}}}}}
  wide: {{pane: 1m, grace: 1s, features: {{{WIDE}}}, segments: {{place: [{VALUES}]}}}}
"""


def plan() -> Plan:
    return compile_plan(load(YAML), {})


def events(first: int, minutes: int) -> list[tuple[bytes, bytes]]:
    """Of both models, one every three seconds."""
    found = []
    for number in range(first * 20, (first + minutes) * 20):
        head = {"event_id": f"e{number}", "ts": START_MS + number * 3_000, "prediction": 1}
        wide = {f"f{at}": number * 0.37 + at for at in range(300)}
        narrow = {**head, "model": "narrow", "features": {"age": number % 50}}
        rows = (narrow, {**head, "model": "wide", "features": wide, "segments": {"place": f"v{number % 40}"}})
        found += [(f"{row['model']}{number}".encode(), json.dumps(row).encode()) for row in rows]
    return found


def books(worker: Worker, model: str) -> Any:
    return worker.merge.judges[0].merge.models[model].books


def judged_until(worker: Worker, model: str) -> int:
    """Milliseconds of event time from the first event on."""
    judge = worker.merge.judges.get(0)
    state = judge.judges[model].state if judge is not None else None
    return state.judged_until_ms - START_MS if state is not None else 0


def test_the_wide_model_waits_for_a_larger_limit_and_the_narrow_one_does_not(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agents.sketch.TOO_LARGE_S", 1.0)
    monkeypatch.setattr(publish, "MAX_RETRY_S", 1.0)
    monkeypatch.setattr(topic_watch, "EVERY_S", 0.5)
    connection = Connection(broker=kafka.bootstrap, prefix=f"large-{uuid4().hex[:6]}-")
    partials = connection.topic("partials")

    async def main() -> None:
        await topics.create(connection, connection.topic("inference"), 1)
        configs = {"cleanup.policy": "compact", "max.message.bytes": str(LIMIT)}
        await topics.create(connection, partials, 1, configs)
        async with running(plan(), connection) as worker:
            await generate(connection, connection.topic("inference"), events(0, 6))
            await until(lambda: worker.sketch.parked and books(worker, "narrow").counted == 120, 60)
            judged = worker.merge.judges[0].judges
            await until(lambda: judged["narrow"].state is not None, 30)
            assert [item.model for item in worker.sketch.parked] == ["wide"] and judged["wide"].state is None
            assert books(worker, "wide").balanced() and not books(worker, "wide").counted
            health = json.loads(await page(worker, "/health"))
            needed = worker.sketch.producer.largest[partials]
            assert f"set max.message.bytes of {partials}" in health["parked_models"]["wide"]
            await until(lambda: (partials, topic_watch.Fault.LIMIT) in worker.topic_watch.faults, 30)
            faults = {s.labels["topic"]: s.value for s in await samples(worker, "foreshock_topic_fault")}
            assert needed > LIMIT and partials in faults
            raised = configs | {"max.message.bytes": str(MIB)}
            await asyncio.to_thread(alter_topic, connection, "partials", raised)
            await until(lambda: not worker.topic_watch.faults and not worker.sketch.parked, 30)
            await generate(connection, connection.topic("inference"), events(6, 4))
            await until(lambda: worker.merge.judges and books(worker, "wide").counted == 200, 60)
            await until(lambda: min(judged_until(worker, name) for name in ("narrow", "wide")) >= 7 * 60_000, 60)
            assert books(worker, "wide") == books(worker, "narrow")
        windows = [window for window in await on_topic(connection, "windows") if not window["segment"]]
        counts = {(window["model"], window["start"]): window["counts"]["events"] for window in windows}
        both = {start for _, start in counts}
        assert len(both) >= 7 and all(counts["wide", at] == counts["narrow", at] == 20 for at in both)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert any("model wide: " in line and "max.message.bytes" in line for line in caplog.messages)
    assert any(line.startswith("model wide is parked") for line in caplog.messages)
    assert any("limit is as it must be again" in line for line in caplog.messages)
