"""A rolling upgrade that skips a release: the old worker stands still, the new one goes on, and counts are exact."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from agents.clients import Connection
from agents.follow import read_all
from agents.loader import Records
from streams import seal
from tests.faults.harness import WorkerProcess, fill, write_config
from tests.faults.published import expected, published
from tests.faults.stream import make_stream
from tests.later_release import later_release

EVENTS = 6_000
NEXT = max(seal.READS) + 1
LATER = f"""from streams import seal
seal.WRITES, seal.READS = {NEXT}, {(*seal.READS, NEXT)}
from agents.cli import main
main()"""
"""The next release but one."""


async def rewrite_the_last(connection: Connection) -> None:
    """As a worker of that release does when it takes up a chunk: the same partial, in the later format."""
    found: Records = []
    await read_all(connection, found.extend, "partials")
    record = max((record for record in found if record.value), key=lambda record: record.timestamp)
    later = later_release(record.value, record.key)
    async with connection.producer() as producer:
        await producer.send_and_wait(record.topic, later, record.key, record.partition)


def test_an_old_worker_stands_still_and_a_new_one_goes_on(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    prefix = f"upgrade-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, chunk_size=512)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    stream = make_stream(EVENTS, 9)
    fill(connection, stream.pairs[: EVENTS // 2])
    with WorkerProcess(config, kafka.bootstrap) as old:
        old.until(lambda: old.books().get("read", 0) > 0)
        asyncio.run(rewrite_the_last(connection))
        old.until(lambda: "of a later release" in old.said)
        assert old.page("/health")[0] == 200
        old.kill()
    fill(connection, stream.pairs[EVENTS // 2 :])
    command = [sys.executable, "-c", LATER, "worker", "-c", str(config), "--broker", kafka.bootstrap]
    done = subprocess.run([*command, "--listen", "127.0.0.1:0", "--drain"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    found, reference = published(connection), expected(config, stream)
    assert found.panes() == stream.panes
    assert found.windows == reference.windows
    assert found.action_ids == reference.action_ids
