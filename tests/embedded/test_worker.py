"""`agents/app.py` on the embedded broker: a whole worker, seen from its topics and its pages."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from agents import topics
from agents.app import Worker
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.files import read_plan
from agents.loader import read_to_end
from agents.merge import MergeStage
from agents.replay import generate
from agents.sketch import SketchStage
from agents.web_options import WebOptions
from streams.chunk import Step
from streams.config import OTHER
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.plan import Plan
from streams.times import rfc3339
from tests.embedded.conftest import until
from tests.faults.harness import write_config
from tests.faults.published import expected, latest_windows
from tests.faults.stream import MODEL, PANE_MS, PARTITIONS, START_MS, Pair, Stream, event, make_stream

FINISHED_WITHIN_S = 60.0


@asynccontextmanager
async def running(plan: Plan, connection: Connection, **options: Any) -> AsyncIterator[Worker]:
    """A worker that is ready; afterwards it is stopped, and raises what made it fail."""
    worker = Worker(plan, connection, WebOptions(), **options)
    task = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker.ready.is_set() or task.done())
        yield worker
    finally:
        worker.stop.set()
        await task


async def fill(connection: Connection, pairs: list[Pair]) -> None:
    await topics.create(connection, connection.topic("inference"), PARTITIONS)
    await generate(connection, connection.topic("inference"), pairs)


async def drained(plan: Plan, connection: Connection) -> None:
    """A worker reads everything that is there, judges it, and ends."""
    worker = Worker(plan, connection, WebOptions(), drain=True)
    await asyncio.wait_for(worker.run(), FINISHED_WITHIN_S)


async def on_topic(connection: Connection, name: str) -> list[dict[str, Any]]:
    """The records that are on one of our topics now."""
    found: list[dict[str, Any]] = []
    count = await topics.find(connection, connection.topic(name)) or 0
    await read_to_end(
        connection,
        connection.topic(name),
        range(count),
        lambda records: found.extend(json.loads(record.value) for record in records),
        deadline_s=30,
    )
    return found


async def windows(connection: Connection) -> dict[str, dict[str, Any]]:
    return latest_windows(await on_topic(connection, "windows"))


async def page(worker: Worker, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(worker.web.url + path) as answer:
        assert answer.status == 200
        return await answer.text()


async def samples(worker: Worker, name: str) -> list[Sample]:
    """Samples of a page that was begun after the call: a worker gives the last one again for up to a second."""
    made, text = worker.web.page.made, await page(worker, "/metrics")
    while worker.web.page.made == made:
        await asyncio.sleep(0.05)
        text = await page(worker, "/metrics")
    families = text_string_to_metric_families(text)
    return [sample for family in families for sample in family.samples if sample.name == name]


async def books(worker: Worker) -> dict[str, dict[str, int]]:
    """By model and outcome, from the metrics."""
    found: dict[str, dict[str, int]] = {}
    for sample in await samples(worker, "foreshock_books_records_total"):
        found.setdefault(sample.labels["model"], {})[sample.labels["outcome"]] = int(sample.value)
    return found


def balanced(model: dict[str, int]) -> bool:
    return model["read"] == model["counted"] + model["late"] + model["rejected"] + model["duplicate"]


def project(broker: EmbeddedBroker, topic: str, folder: Path, **settings: Any) -> tuple[Path, Plan, Connection]:
    """A configuration of its own, with the topic's name as the prefix."""
    config = write_config(folder, f"{topic}-", **settings)
    return config, read_plan(config), broker.connection(prefix=f"{topic}-")


def test_a_live_run_says_what_a_backtest_says(broker: EmbeddedBroker, topic: str, tmp_path: Path) -> None:
    """The same windows, the same action ids; the pages answer while it runs, and the books on them balance."""
    config, plan, connection = project(broker, topic, tmp_path)
    stream = make_stream(16_000, 21)
    reference = expected(config, stream)

    async def main() -> None:
        await topics.create(connection, connection.topic("inference"), PARTITIONS)
        async with running(plan, connection, keep=True) as worker:
            assert await samples(worker, "foreshock_worker_info")
            await generate(connection, connection.topic("inference"), stream.pairs[:9_000])
            await until(lambda: worker.merge.work.partials > 0)
            health = json.loads(await page(worker, "/health"))
            assert (health["status"], health["partitions"]) == ("ok", [0, 1, 2, 3])
            assert all(balanced(model) for model in (await books(worker)).values())
            await generate(connection, connection.topic("inference"), stream.pairs[9_000:])
            worker.finish()
            await asyncio.wait_for(worker.finished.wait(), FINISHED_WITHIN_S)
            told = await books(worker)
            firing = await samples(worker, "foreshock_actions_total")
            assert json.loads(await page(worker, "/health"))["lag"] == 0
        assert all(balanced(model) for model in told.values())
        assert sum(model["read"] for model in told.values()) == len(stream.pairs)
        assert (told[MODEL]["counted"], told[MODEL]["late"]) == (stream.counted, stream.late)
        assert sum(model["rejected"] for model in told.values()) == stream.rejected
        assert await windows(connection) == reference.windows
        actions = await on_topic(connection, "actions")
        assert {action["id"] for action in actions} == reference.action_ids
        assert len(actions) == len(reference.action_ids) > 0
        counted = {(s.labels["response"], s.labels["state"]): s.value for s in firing}
        for response, state in counted:
            told_once = {a["id"] for a in actions if (a["data"]["action"], a["data"]["state"]) == (response, state)}
            revisions = {a["id"] for a in actions if a["data"]["revision"] and a["data"]["state"] == "firing"}
            assert counted[response, state] == len(told_once - revisions), (response, state)

    asyncio.run(main())


def test_more_versions_than_the_cap_give_the_windows_of_a_backtest(
    broker: EmbeddedBroker, topic: str, tmp_path: Path
) -> None:
    """Which versions are told apart depends on the versions that came, not on the partitions that they came through."""
    config, plan, connection = project(broker, topic, tmp_path, chunk_size=1_024)
    rng = random.Random(22)
    stream = Stream()
    for i in range(12_000):
        ts = START_MS + i * 10 * PANE_MS // 12_000
        value = event(f"v-{i}", ts, rng, version=str(rng.randrange(60)))
        stream.pairs.append((b"v-%d" % i, value))
    reference = expected(config, stream)
    most = plan.models[MODEL].config.max_versions

    async def main() -> None:
        await fill(connection, stream.pairs)
        await drained(plan, connection)
        found = await windows(connection)
        assert found == reference.windows
        for start in {window["start"] for window in found.values()}:
            versions = {w["version"] for w in found.values() if w["start"] == start and w["segment"] is None}
            assert len(versions - {None, OTHER}) == most and OTHER in versions
            whole = {
                w["version"]: w["counts"]["events"]
                for w in found.values()
                if w["start"] == start and w["segment"] is None
            }
            assert whole.pop(None) == sum(whole.values()) == 1_200

    asyncio.run(main())


def test_nothing_keeps_a_worker_that_has_ended(broker: EmbeddedBroker, topic: str, tmp_path: Path) -> None:
    """Else its sketches complain at the end of the process, after the one line that says why it ended."""
    _, plan, connection = project(broker, topic, tmp_path)

    async def main() -> weakref.ref[Worker]:
        await fill(connection, make_stream(500, 25).pairs)
        worker = Worker(plan, connection, WebOptions(), drain=True)
        await asyncio.wait_for(worker.run(), FINISHED_WITHIN_S)
        return weakref.ref(worker)

    ended = asyncio.run(main())
    gc.collect()
    assert gc.get_freeze_count() == 0
    assert ended() is None


def test_everything_is_judged_though_the_second_stage_was_the_last_to_be_ready(
    broker: EmbeddedBroker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draining worker whose stage 2 finds all partials there when it has rebuilt does not take them for judged."""
    config, plan, connection = project(broker, topic, tmp_path)
    stream = make_stream(8_000, 23)
    rebuild = MergeStage.on_assigned

    async def late(stage: MergeStage, tps: Any) -> Any:
        await until(worker.sketch.drained.is_set)
        return await rebuild(stage, tps)

    monkeypatch.setattr(MergeStage, "on_assigned", late)
    worker = Worker(plan, connection, WebOptions(), drain=True)

    async def main() -> None:
        await fill(connection, stream.pairs)
        await asyncio.wait_for(worker.run(), FINISHED_WITHIN_S)
        assert await windows(connection) == expected(config, stream).windows

    asyncio.run(main())


def test_a_revision_that_a_crash_kept_back_is_published_after_the_restart(
    broker: EmbeddedBroker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A welcome event whose window was judged, and whose worker died before it could say so, does not vanish."""
    _, plan, connection = project(broker, topic, tmp_path, chunk_size=256)
    rng = random.Random(24)
    publish = MergeStage._publish

    def pane(number: int, events: int, name: str) -> list[Pair]:
        start = START_MS + number * PANE_MS
        ids = [f"{name}-{number}-{i}" for i in range(events)]
        return [(id_.encode(), event(id_, start + i * PANE_MS // events, rng)) for i, id_ in enumerate(ids)]

    async def crash(stage: MergeStage, bucket: int, judge: BucketJudge, outcome: Outcome, wanted: Any) -> None:
        if outcome.state is None:
            raise RuntimeError("killed")
        await publish(stage, bucket, judge, outcome, wanted)

    async def main() -> None:
        await fill(connection, [pair for number in range(8) for pair in pane(number, 1_000, "first")])
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            patch.setattr(MergeStage, "_publish", crash)
            async with running(plan, connection) as worker:
                await until(
                    lambda: any(
                        judge.judges[MODEL].events.published.get(START_MS + 2 * PANE_MS) for judge in owners(worker)
                    )
                )
                # The chunk that holds it is full, and not read again after the crash.
                await generate(
                    connection, connection.topic("inference"), [*pane(2, 1, "welcome"), *pane(8, 4_000, "last")]
                )
                await until(worker.stop.is_set)
        await drained(plan, connection)
        found = {w["start"]: w for w in (await windows(connection)).values() if w["version"] == w["segment"] is None}
        assert {start: window["counts"]["events"] for start, window in found.items()} == {
            rfc3339(START_MS + number * PANE_MS): {2: 1_001, 8: 4_000}.get(number, 1_000) for number in range(9)
        }
        assert [window["revision"] for _, window in sorted(found.items())] == [0, 0, 1_001, 0, 0, 0, 0, 0, 0]

    def owners(worker: Worker) -> list[BucketJudge]:
        return [judge for judge in worker.merge.judges.values() if MODEL in judge.judges]

    asyncio.run(main())


def test_a_worker_that_leaves_in_the_middle_of_a_batch_passes_over_no_chunk(
    broker: EmbeddedBroker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had read and not yet sent is read again by the next one, and counted."""
    config, plan, connection = project(broker, topic, tmp_path, chunk_size=256)
    stream = make_stream(8_000, 26)
    execute = SketchStage._execute
    worker = Worker(plan, connection, WebOptions())

    async def leave(stage: SketchStage, step: Step, wanted: Callable[[], bool], *more: Any) -> None:
        await execute(stage, step, wanted, *more)
        if step.progress:
            worker.stop.set()
            await until(lambda: not wanted())

    async def main() -> None:
        await fill(connection, stream.pairs)
        with monkeypatch.context() as patch:
            patch.setattr(SketchStage, "_execute", leave)
            await asyncio.wait_for(worker.run(), FINISHED_WITHIN_S)
        await drained(plan, connection)
        assert await windows(connection) == expected(config, stream).windows

    asyncio.run(main())


def test_welcome_events_of_before_the_first_window_are_in_one_of_their_own(
    broker: EmbeddedBroker, topic: str, tmp_path: Path
) -> None:
    """A stream that begins out of order loses nothing: what is counted is in a window."""
    _, plan, connection = project(broker, topic, tmp_path)
    rng = random.Random(25)
    pairs: list[Pair] = [(b"%d" % i, event(str(i), START_MS + i * PANE_MS // 500, rng)) for i in range(2_000)]
    pairs[1_000:1_000] = [(b"w%d" % i, event(f"w{i}", START_MS - 2 * PANE_MS, rng)) for i in range(40)]

    async def main() -> None:
        await fill(connection, pairs)
        await drained(plan, connection)
        whole = [w for w in (await windows(connection)).values() if w["version"] == "1" and w["segment"] is None]
        assert sorted(w["counts"]["events"] for w in whole) == [40, 500, 500, 500, 500]

    asyncio.run(main())
