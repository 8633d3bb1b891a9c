"""What a schedule does to a running Foreshock: each fault strikes once, and leaves what it broke mended."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from agents import topics
from tests.faults.edited import edit, edit_layout
from tests.faults.harness import PLAIN, WorkerProcess, create
from tests.faults.hostile import hostile
from tests.faults.pressure import bursts
from tests.faults.published import committed, progress
from tests.faults.stage import FIRST, POLL_S, Stage
from tests.faults.topic_faults import compact, retention

WITHOUT_NEWS_S = 2.0
TAKEN_OVER_WITHIN_S = 60.0
IN_SYNC_WITHIN_S = 60.0
FULL_WITHIN_S = 30.0
MOST_GROWTH_MIB = 16.0
"""A worker that cannot go on holds what it has fetched, and no more."""


def kill(stage: Stage) -> None:
    """`kill -9` of a worker, whatever it is doing; a supervisor starts it again."""
    victim = stage.pick()
    victim.kill()
    del stage.crew[victim.instance]
    stage.live(0.0, 1.0)
    stage.start(victim.instance)


def stop(stage: Stage) -> None:
    """SIGTERM: it ends in time, and claims no more than is durable."""
    name = stage.pick().instance
    stage.dismiss(name)
    _claims_no_more_than_it_wrote(stage)
    stage.start(name)


def _claims_no_more_than_it_wrote(stage: Stage) -> None:
    claimed, durable = committed(stage.connection), progress(stage.connection)
    assert all(offset <= durable[partition] for partition, offset in claimed.items()), (claimed, durable)
    assert all(offset % stage.chunk_size == 0 for offset in durable.values()), durable


def freeze(stage: Stage) -> None:
    """One of two stands still until the other has all its work, and goes on as if nothing had happened."""
    stage.until(lambda: stage.holds_all(sorted(stage.crew)))
    victim = stage.pick()
    victim.signal(signal.SIGSTOP)
    try:
        others = [name for name in sorted(stage.crew) if name != victim.instance]
        stage.until(lambda: stage.holds_all(others), TAKEN_OVER_WITHIN_S)
        stage.live(0.0, 2.0)
    finally:
        victim.signal(signal.SIGCONT)
    stage.live(2.0)


def twin(stage: Stage) -> None:
    """Somebody starts another worker under the name of one that runs: the older one ends, and says why.

    If Kafka has just removed the older one from a group, for it was slow, its return may fence the newer one there.
    That one ends with the same line, and is started again, as a supervisor would.
    """
    older = stage.pick()
    older.until(lambda: bool(older.holds()))
    del stage.crew[older.instance]
    with older:
        stage.start(older.instance, log="twin")
        _assert_fenced(older)
    deadline = time.monotonic() + TAKEN_OVER_WITHIN_S
    while not _is_held_by_all(stage):
        newer = stage.crew[older.instance]
        if newer.process.poll() is not None:
            assert "member_id was not recognized" in older.said, f"it was fenced without a reason: {newer.said[-3000:]}"
            _assert_fenced(newer)
            newer.end()
            stage.start(older.instance, log="twin again")
            deadline = time.monotonic() + TAKEN_OVER_WITHIN_S
        assert time.monotonic() < deadline, [(item.health(), item.said[-1500:]) for item in stage.crew.values()]
        time.sleep(POLL_S)


def _assert_fenced(worker: WorkerProcess) -> None:
    assert worker.wait(TAKEN_OVER_WITHIN_S) == 1, worker.said[-2000:]
    assert "another process joined as instance" in worker.said, worker.said[-3000:]
    assert "Traceback" not in worker.said, worker.said[-3000:]


def _is_held_by_all(stage: Stage) -> bool:
    """Whether the crew holds everything; a worker that ends as it is asked holds nothing."""
    try:
        return stage.holds_all(sorted(stage.crew))
    except OSError:
        return False


def guests(stage: Stage) -> None:
    """Workers join, one every two seconds, have their share, and leave like that."""
    names = [f"guest-{stage.rng.randrange(10**6)}" for _ in range(2)]
    for name in names:
        stage.start(name)
        stage.live(2.0)
    stage.until(lambda: all(stage.crew[name].holds() for name in names))
    for name in names:
        stage.dismiss(name)
        stage.live(2.0)


def broker(stage: Stage) -> None:
    """A broker is away for some seconds: stopped, or killed."""
    _broker_away(stage, stage.rng.uniform(2.0, 8.0))


def outage(stage: Stage) -> None:
    """A broker is away for half a minute."""
    _broker_away(stage, 30.0)


def _broker_away(stage: Stage, seconds: float) -> None:
    found = stage.rng.choice(stage.brokers)
    (found.stop if stage.rng.random() < 0.5 else found.kill)()
    stage.live(seconds)
    found.restart()


def hang(stage: Stage) -> None:
    """A broker that takes everything and answers nothing."""
    found = stage.rng.choice(stage.brokers)
    found.send_signal(signal.SIGSTOP)
    try:
        stage.live(2.0, 8.0)
    finally:
        found.send_signal(signal.SIGCONT)


def node(stage: Stage) -> None:
    """One of three brokers is lost, with what it leads, and comes back."""
    _broker_away(stage, stage.rng.uniform(3.0, 8.0))
    stage.until(lambda: _is_in_sync(stage), IN_SYNC_WITHIN_S)  # only then may the next one go


def _is_in_sync(stage: Stage) -> bool:
    async def ask() -> bool:
        async with topics.admin(stage.connection) as client:
            found = [partition for topic in await client.describe_topics() for partition in topic["partitions"]]
        return all(len(partition["isr"]) == len(partition["replicas"]) for partition in found)

    return asyncio.run(ask())


def store(stage: Stage) -> None:
    """A worker dies, and the stores of its label join with it."""
    victim = stage.pick()
    victim.kill()
    del stage.crew[victim.instance]
    stage.forget_state()
    stage.start(victim.instance)


def refuse(stage: Stage) -> None:
    """The topic of partials takes nothing: reading and commits stop, memory stays, and all goes on afterwards."""
    # Kafka caps what a topic demands at its number of replicas, so it takes three of them, and one that is lost.
    _least_replicas(stage, "partials", 3)
    lost = stage.rng.choice(stage.brokers)
    lost.stop()
    try:
        _until_they_stand(stage)
        before = {name: worker.resident_mib() for name, worker in stage.crew.items()}
        stage.live(WITHOUT_NEWS_S)
        grown = [worker.resident_mib() - before[name] for name, worker in stage.crew.items()]
        assert max(grown) < MOST_GROWTH_MIB, grown
    finally:
        lost.restart()
        _least_replicas(stage, "partials", 2)
    stage.until(lambda: _is_in_sync(stage), IN_SYNC_WITHIN_S)


def _until_they_stand(stage: Stage) -> None:
    """Until nothing more is read and nothing committed for a while, though there is more."""
    seen, since = None, time.monotonic()

    def stand() -> bool:
        nonlocal seen, since
        now = ([worker.read() for worker in stage.crew.values()], committed(stage.connection))
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since >= WITHOUT_NEWS_S and any(w.health()["lag"] for w in stage.crew.values())

    stage.until(stand)


def _least_replicas(stage: Stage, name: str, least: int) -> None:
    """So many replicas a record must reach."""
    (row,) = [row for row in topics.TOPICS if row.name == name]
    configs = {**row.configs(), "min.insync.replicas": str(least)}
    resource = ConfigResource(ConfigResourceType.TOPIC, stage.connection.topic(name), configs=configs)

    async def alter() -> None:
        async with topics.admin(stage.connection) as client:
            await client.alter_configs([resource])

    stage.until(lambda: asyncio.run(topics.find(stage.connection, stage.connection.topic(name))))
    asyncio.run(alter())


def delete(stage: Stage) -> None:
    """The events' topic is deleted and made anew: what was counted stands, and the new log is read from its start."""
    topic = stage.connection.topic("inference")
    stage.start()
    stage.until(lambda: stage.holds_all([FIRST]))
    asyncio.run(_delete(stage, topic))
    stage.live(0.0, 3.0)
    create(stage.connection)
    stage.until(lambda: stage.crew[FIRST].metric("foreshock_log_changes_total", change="made anew") == 1)
    stage.dismiss(FIRST)
    stage.start()  # whoever starts next knows the new one
    stage.until(lambda: stage.holds_all([FIRST]))
    assert stage.crew[FIRST].metric("foreshock_log_changes_total") == 0
    stage.dismiss(FIRST)


async def _delete(stage: Stage, topic: str) -> None:
    async with topics.admin(stage.connection) as client:
        await client.delete_topics([topic])
        while topic in await topics.partition_counts(client):
            await asyncio.sleep(0.1)


SETTABLE = (sys.executable, "-m", "tests.faults.clock")


def clock(stage: Stage) -> None:
    """The machine's clock is set an hour ahead, or back."""
    worker = stage.pick()
    worker.until(lambda: "metrics at" in worker.said)
    first, second = stage.rng.sample((signal.SIGUSR1, signal.SIGUSR2), 2)
    worker.signal(first)
    stage.live(1.0, 4.0)
    if stage.rng.random() < 0.5:
        worker.signal(second)


MOUNTING = ("unshare", "--user", "--map-root-user", "--mount")
DISK_MIB = 8
FILE_BYTES = 65_536


@cache
def can_mount() -> bool:
    """Whether this machine lets us have a small disk of our own."""
    return subprocess.run([*MOUNTING, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0


def on_small_disk(state: Path) -> tuple[str, ...]:
    """The command that runs foreshock with a disk of its own, of a few MiB, for the label join."""
    mounted = f'mount -t tmpfs -o size={DISK_MIB}m tmpfs "$0" && exec "$@"'
    return (*MOUNTING, "sh", "-c", mounted, str(state), *PLAIN) if can_mount() else PLAIN


def disk(stage: Stage) -> None:
    """The disk of the label join is full: the worker stops and says why; with room again it goes on."""
    worker = stage.pick()
    worker.until(lambda: worker.read() > 0)
    pid = worker.process.pid
    if can_mount():
        _fill_up(Path(f"/proc/{pid}/root{stage.state}/ballast"))
    else:  # the nearest to it: no file of the worker may grow
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES, resource.RLIM_INFINITY))
    del stage.crew[worker.instance]
    with worker:
        assert worker.wait(FULL_WITHIN_S) == 1, worker.said[-2000:]
        assert "a disk that works and has room" in worker.said, worker.said[-3000:]
        assert "Traceback" not in worker.said, worker.said[-3000:]
    _claims_no_more_than_it_wrote(stage)
    stage.start(worker.instance)


def _fill_up(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 512):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row of the table: what strikes, for how long about, and what it needs."""

    row: str
    strike: Callable[[Stage], None]
    lasts_s: float
    often: int = 1
    """It strikes up to so many times in a schedule."""
    workers: int = 1
    labelled: bool = False
    deleting: bool = False
    """It deletes records of logs, which a label join whose store is lost would need."""
    relaid: bool = False
    """Windows are held against what their time holds, not against the backtest."""
    replicated: bool = False
    alone: bool = False
    """No other goes with it."""
    loaded: bool = False
    """Busy processes run beside the workers, until everything has been read."""
    afterwards: bool = False
    """It strikes when everything has been judged, and changes nothing of it."""
    through: Callable[[Path], tuple[str, ...]] | None = None
    """The command that runs foreshock, by the folder of its state."""


FAULTS: dict[str, Fault] = {
    "kill": Fault(row="1, 2", strike=kill, lasts_s=0.5, often=4),
    "stop": Fault(row="3", strike=stop, lasts_s=2.0, often=2),
    "broker": Fault(row="4", strike=broker, lasts_s=8.0),
    "outage": Fault(row="4", strike=outage, lasts_s=34.0),
    "node": Fault(row="4", strike=node, lasts_s=10.0, often=2, replicated=True),
    "freeze": Fault(row="5", strike=freeze, lasts_s=16.0, workers=2),
    "guests": Fault(row="5", strike=guests, lasts_s=16.0),
    "store": Fault(row="12", strike=store, lasts_s=1.0, labelled=True),
    "disk": Fault(row="15", strike=disk, lasts_s=4.0, labelled=True, alone=True, through=on_small_disk),
    "delete": Fault(row="14", strike=delete, lasts_s=0.0, afterwards=True),
    "refuse": Fault(row="15", strike=refuse, lasts_s=14.0, replicated=True),
    "hang": Fault(row="15", strike=hang, lasts_s=5.0),
    "bursts": Fault(row="17", strike=bursts, lasts_s=9.0, loaded=True),
    "compact": Fault(row="18", strike=compact, lasts_s=12.0),
    "retention": Fault(row="18", strike=retention, lasts_s=7.0, deleting=True),
    "edit": Fault(row="19", strike=edit, lasts_s=5.0, often=2),
    "layout": Fault(row="19", strike=edit_layout, lasts_s=6.0, often=2, relaid=True),
    "twin": Fault(row="24", strike=twin, lasts_s=6.0),
    "hostile": Fault(row="22", strike=hostile, lasts_s=5.0),
    "clock": Fault(row="16", strike=clock, lasts_s=3.0, often=3, through=lambda state: SETTABLE),
}
