"""What a worker of this release leaves behind half-way → an archive that every later release has to go on from.

    make release-archive          once per release; writes tests/fixtures/RELEASE.tar.xz

A bad day of a small model over all topics (tests/scenario.py, one event in six) goes through a whole worker on the
embedded broker, up to its middle. The archive has the configuration with its baseline, the records of all topics, the
rest of the input, and the folder of the label join.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import msgspec

from agents import topics
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.files import read_plan
from agents.follow import read_all
from agents.replay import generate
from streams.configure import load
from streams.learn import learn
from streams.scaffold import foreshock_yaml
from tests import scenario
from tests.embedded.conftest import until
from tests.embedded.test_worker import running
from tests.replay.test_labelled_streams import rows, split

FOLDER = Path(__file__).parents[1] / "fixtures"
PARTITIONS, CHUNK, BUCKETS = 2, 256, 2
THINNING, MINUTES = 6, 30
CUT = 0.6
"""The share of the input that the worker of this release has read."""
INPUTS = ("inference", "labels", "feedback", "runs", "outcomes")
WRITTEN = ("partials", "progress", "state", "windows", "actions")
CONFIG = "foreshock.yaml"
STATE = "state"
RECORDS, REST = "records.msgpack", "rest.msgpack"

Record = tuple[int, bytes | None, bytes | None]
"""Partition, key, value."""
Pair = tuple[bytes | None, bytes]


def configuration(folder: Path) -> Path:
    """The scenario's, learned from as thin a stream."""
    events, labels = split(rows(120, 1))
    kept = events[::THINNING]
    learned = learn(scenario.MODEL, lambda: kept, labels=of_events(labels, kept))
    text = foreshock_yaml(learned, "reference.ndjson", "credit.baseline")
    text = text.replace("    rules:\n", f"{scenario.DECLARED}    rules:\n{scenario.RULES}")
    for before, after in (
        (f"pane: {load(text).models[scenario.MODEL].pane}", "pane: 1m"),
        ("  prefix: ''", f"  prefix: ''\n  chunk_size: {CHUNK}\n  buckets: {BUCKETS}"),
    ):
        assert before in text, before
        text = text.replace(before, after)
    (folder / "credit.baseline").write_bytes(learned.baseline.to_bytes())
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return folder / CONFIG


def of_events(labels: Iterable[bytes], events: Iterable[bytes]) -> list[bytes]:
    known = {json.loads(event)["event_id"] for event in events}
    return [label for label in labels if json.loads(label)["event_id"] in known]


def pairs() -> dict[str, list[Pair]]:
    """The input by topic."""
    found = scenario.records()
    end_ms = scenario.START_MS + MINUTES * scenario.MINUTE_MS
    events = [pair for pair in found["inference"][::THINNING] if json.loads(pair[1])["ts"] < end_ms]
    known = {key for key, _ in events}
    share = MINUTES / scenario.END
    return {
        "inference": events,
        **{name: [pair for pair in found[name] if pair[0] in known] for name in ("labels", "feedback")},
        **{name: found[name][: round(len(found[name]) * share)] for name in ("runs", "outcomes")},
    }


async def records(connection: Connection, name: str) -> list[Record]:
    """All that is on a topic, in the order of each partition."""
    found: list[Record] = []
    await read_all(connection, lambda read: found.extend((r.partition, r.key, r.value) for r in read), name)
    return found


async def half_way(config: Path, broker: EmbeddedBroker) -> dict[str, list[Record]]:
    """A worker reads the first part of the input, and is stopped."""
    plan, connection = read_plan(config), broker.connection()
    given = {name: found[: round(len(found) * CUT)] for name, found in pairs().items()}
    for name in INPUTS:
        await topics.create(connection, name, PARTITIONS)
        await generate(connection, name, given[name])
    async with running(plan, connection, state=config.parent / STATE) as worker:
        await until(
            lambda: (
                sum(flow.records for flow in worker.sketch.intake.snapshot().values()) == sum(map(len, given.values()))
            )
        )
        await until(
            lambda: any(
                judge.state is not None for bucket in worker.merge.judges.values() for judge in bucket.judges.values()
            )
        )
        await until(lambda: worker._is_merged() and not any(fold.changed for fold in worker.sketch.folds.values()))
    return {name: await records(connection, name) for name in (*INPUTS, *WRITTEN)}


def main() -> None:
    archive = FOLDER / f"{version('foreshock')}.tar.xz"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration(folder)

        async def run() -> dict[str, list[Record]]:
            async with EmbeddedBroker() as broker:
                return await half_way(config, broker)

        found = asyncio.run(run())
        (folder / RECORDS).write_bytes(msgspec.msgpack.encode(found))
        rest = {name: given[round(len(given) * CUT) :] for name, given in pairs().items()}
        (folder / REST).write_bytes(msgspec.msgpack.encode(rest))
        for log in (folder / STATE).glob("*/LOG*"):
            log.unlink()
        FOLDER.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:xz") as tar:
            for item in sorted(folder.iterdir()):
                tar.add(item, item.name)
    print(f"{archive}: {archive.stat().st_size:,} bytes; " + ", ".join(f"{k} {len(v)}" for k, v in found.items()))


if __name__ == "__main__":
    main()
