"""A worker whose store is damaged between two runs, each partition otherwise: it counts exactly, and rebuilds once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from agents import topics
from agents.app import Worker
from agents.broker import EmbeddedBroker
from agents.replay import generate
from agents.store import DAMAGED
from agents.web_options import WebOptions
from tests.embedded.conftest import until
from tests.embedded.test_worker import FINISHED_WITHIN_S, project, running, windows
from tests.faults.published import expected
from tests.faults.stream import PARTITIONS, labels_of, make_stream


def flip_the_blocks(place: Path) -> None:
    """Of what is in the tables, not of what says where it is: the store opens, and a block does not."""
    for table in place.glob("*.sst"):
        data = bytearray(table.read_bytes())
        for at in range(0, len(data) // 2, 64):
            data[at] ^= 0x55
        table.write_bytes(data)


def cut_the_manifest(place: Path) -> None:
    for manifest in place.glob("MANIFEST-*"):
        data = manifest.read_bytes()
        manifest.write_bytes(data[: len(data) // 2])


def delete_a_table(place: Path) -> None:
    min(place.glob("*.sst")).unlink()


def stored(worker: Worker) -> int:
    """Records of events that the stores of all partitions hold."""
    joins = (fold.join for fold in worker.sketch.folds.values())
    return sum(join.meta.covered.inference for join in joins if join is not None)


DAMAGES = (flip_the_blocks, cut_the_manifest, delete_a_table)


def test_damage_of_the_state_folder_costs_one_rebuild_and_no_count(
    broker: EmbeddedBroker, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, plan, connection = project(broker, topic, tmp_path, labelled=True, chunk_size=1_024)
    stream = make_stream(24_000, 31)
    labels = labels_of(stream.pairs, 32)
    reference = expected(config, stream, labels)
    state = tmp_path / "state"

    async def main() -> None:
        for name in ("inference", "labels"):
            await topics.create(connection, connection.topic(name), PARTITIONS)
        async with running(plan, connection, state=state) as worker:
            await generate(connection, connection.topic("inference"), stream.pairs[:12_000])
            await generate(connection, connection.topic("labels"), labels[:10_000])
            await until(lambda: stored(worker) >= 12_000)
        places = sorted(place for place in state.iterdir() if place.name.rpartition("-")[2].isdecimal())
        assert len(places) == PARTITIONS >= len(DAMAGES)
        for place, damage in zip(places, DAMAGES, strict=False):
            damage(place)
        await generate(connection, connection.topic("inference"), stream.pairs[12_000:])
        await generate(connection, connection.topic("labels"), labels[10_000:])
        with caplog.at_level(logging.WARNING):
            await drained()
        aside = {place.name.removesuffix(DAMAGED) for place in state.iterdir() if place.name.endswith(DAMAGED)}
        assert aside == {place.name for place in places[: len(DAMAGES)]}
        assert sum("set aside" in line for line in caplog.messages) == len(DAMAGES)
        assert await windows(connection) == reference.windows
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            await drained()
        assert not [line for line in caplog.messages if "set aside" in line or "rebuilt" in line]

    async def drained() -> None:
        last = Worker(plan, connection, WebOptions(), drain=True, state=state)
        await asyncio.wait_for(last.run(), FINISHED_WITHIN_S)

    asyncio.run(main())
