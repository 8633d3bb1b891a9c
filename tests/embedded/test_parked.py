"""A worker of two models, one of which raises: it stays up, reports that one, and evaluates the other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agents import topics
from agents.app import Worker
from agents.broker import EmbeddedBroker
from agents.replay import generate
from streams.judge_model import ModelJudge
from tests.embedded.conftest import until
from tests.embedded.test_worker import on_topic, page, running, samples
from tests.unit.test_parking import BAD, GOOD, fail_after, of_plan, plan, stream


def unpackable(judge: ModelJudge, *arguments: Any, whole: Any = ModelJudge.close) -> Any:
    """An outcome whose windows no encoder takes."""
    outcome = whole(judge, *arguments)
    if judge.plan.name == BAD:
        outcome.state.rules["x"] = object()
    return outcome


async def shown_parked(worker: Worker) -> dict[tuple[str, str], float]:
    """The metric, when a page has been made since the model was parked."""
    for _ in range(50):
        found = await samples(worker, "foreshock_model_parked")
        shown = {(sample.labels["model"], sample.labels["stage"]): sample.value for sample in found}
        if any(shown.values()):
            break
        await asyncio.sleep(0.2)
    return shown


async def watched(broker: EmbeddedBroker, topic: str) -> tuple[Any, Any, Any, set[str]]:
    """The metric before and after, `/health`, and the models that have windows."""
    connection = broker.connection(prefix=f"{topic}-")
    for name in ("inference", "labels", "feedback", "outcomes"):
        await topics.create(connection, connection.topic(name), 2)
    async with running(plan(), connection) as worker:
        await until(lambda: worker.merge.judges and worker.sketch.folds)
        zeros = await samples(worker, "foreshock_model_parked")
        pairs = [(str(number).encode(), line) for number, line in enumerate(stream()["events"])]
        await generate(connection, connection.topic("inference"), pairs)
        await until(lambda: worker.merge.parked, 60)
        await until(lambda: worker.merge.judges[0].judges[GOOD].state is not None, 60)
        shown = await shown_parked(worker)
        health = json.loads(await page(worker, "/health"))
        models = {window["model"] for window in await on_topic(connection, "windows")}
    return zeros, shown, health, models


@pytest.mark.parametrize(
    ("place", "step"), [("evaluate", "evaluate: streams/judge.py"), ("pack", "pack: streams/state.py")]
)
def test_a_worker_stays_up(
    place: str,
    step: str,
    broker: EmbeddedBroker,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = fail_after(2, of_plan, ModelJudge.close) if place == "evaluate" else unpackable
    monkeypatch.setattr(ModelJudge, "close", failing)
    zeros, shown, health, models = asyncio.run(watched(broker, topic))
    assert {sample.value for sample in zeros} == {0.0}
    assert shown == {(BAD, "sketch"): 0, (GOOD, "sketch"): 0, (BAD, "merge"): 1, (GOOD, "merge"): 0}
    assert health["status"] == "ok" and health["parked"] == 1 and health["parked_models"][BAD].startswith(step)
    lines = [record.getMessage() for record in caplog.records if "is parked" in record.getMessage()]
    assert len(lines) == 1 and lines[0].startswith(f"model {BAD} is parked until a restart, the others go on: {step}")
    assert not any(record.exc_info for record in caplog.records)
    assert GOOD in models and (BAD in models) == (place == "evaluate")
