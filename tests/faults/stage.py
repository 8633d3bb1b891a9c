"""One schedule on its way: a broker or three, writers, and workers under a supervisor, for faults to act on."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from agents.clients import Connection
from deploy.kafka import QUICK_START, Broker, Cluster
from tests.faults.harness import PLAIN, STOP_WITHIN_S, WorkerProcess
from tests.faults.published import log_of
from tests.faults.reference import LogRecord
from tests.faults.stream import PARTITIONS

FIRST = "one"
POLL_S = 0.1
HELD_WITHIN_S = 60.0
BUCKETS = 4
"""Of the harness' configuration."""

EAGER_CLEANER = {"log.cleaner.backoff.ms": "200"}
"""How often a broker looks for a log to compact; it finds none as long as segments are large."""


class Ground:
    """The Kafkas that schedules share, each started when the first of them needs it, and ended with this one."""

    def __init__(self, folder: Path, broker: Broker | None = None) -> None:
        """`broker`: one that is there already, and stays."""
        self.folder, self._given = folder, broker
        self._started = contextlib.ExitStack()

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()

    @cached_property
    def broker(self) -> Broker:
        if self._given is not None:
            return self._given
        return self._started.enter_context(
            Broker.start(self.folder / "broker", jvm=QUICK_START, properties=EAGER_CLEANER)
        )

    @cached_property
    def cluster(self) -> Cluster:
        return self._started.enter_context(Cluster.start(self.folder / "cluster", jvm=QUICK_START))


@dataclass
class Stage:
    """What there is to be broken. As a context manager it leaves no process behind."""

    rng: random.Random
    kafka: Broker | Cluster
    connection: Connection
    config: Path
    chunk_size: int
    through: Sequence[str] = PLAIN
    """The command that takes foreshock's arguments."""
    crew: dict[str, WorkerProcess] = field(default_factory=dict)
    writers: list[threading.Thread] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    """Of writers."""
    collected: dict[str, list[LogRecord]] = field(default_factory=dict)
    """By topic, what it held before a fault deleted records."""
    partitions: int = PARTITIONS
    """Of the inference topic, now."""
    anew: list[str] = field(default_factory=list)
    """Topics that were deleted and made anew, after what they held was collected."""
    layouts: set[int] = field(default_factory=set)
    """The panes, in ms, of the configurations between which faults edited the layout."""
    edits: list[str] = field(default_factory=list)
    """Of the configuration, by faults."""
    cut_at: dict[str, dict[int, int]] = field(default_factory=lambda: {"inference": {}, "labels": {}})
    """By topic and partition, the log's start after a fault deleted records."""

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.crew.values():
            worker.end()
        self.wake()

    @property
    def brokers(self) -> list[Broker]:
        return self.kafka.brokers if isinstance(self.kafka, Cluster) else [self.kafka]

    @property
    def state(self) -> Path:
        """Where the label join keeps its stores."""
        return self.config.parent / "state"

    def wake(self) -> None:
        """Every broker is up and answers, whatever happened to it."""
        for broker in self.brokers:
            if broker.pid is None:
                broker.restart()
            broker.send_signal(signal.SIGCONT)

    # Writers

    def write(self, work: Callable[[], None]) -> None:
        """Does it beside everything else."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.failures.append(error)

        writer = threading.Thread(target=run, daemon=True)
        self.writers.append(writer)
        writer.start()

    def counted(self, name: str) -> float:
        """Records that the first worker has read, counted and published, by this metric of books."""
        worker = self.crew.get(FIRST)
        return worker.metric(name, outcome="read") if worker and "metrics at " in worker.said else 0.0

    def write_out(self, within_s: float) -> None:
        """Until everything is written."""
        self.until(lambda: not any(writer.is_alive() for writer in self.writers), within_s)
        assert not self.failures, self.failures

    def collect(self, topic: str) -> None:
        """Keeps what a topic holds, for the oracle."""
        self.collected[topic] = log_of(self.connection, topic)

    # Workers

    def start(self, name: str = FIRST, log: str = "") -> WorkerProcess:
        """A worker, or the one of this name again. `log`: the name of its log, if another one writes its own."""
        self.crew[name] = WorkerProcess(
            self.config, self.connection.broker, instance=name, log_name=log or name, through=self.through
        )
        return self.crew[name]

    def dismiss(self, name: str) -> WorkerProcess:
        """Once it is up it is told to stop, and does."""
        self.crew[name].until(lambda: "metrics at " in self.crew[name].said)
        worker = self.crew.pop(name)
        try:
            assert worker.terminate(STOP_WITHIN_S) == 0, worker.said[-2000:]
            assert "Traceback" not in worker.said, worker.said[-3000:]
        finally:
            worker.end()
        return worker

    def pick(self) -> WorkerProcess:
        return self.crew[self.rng.choice(sorted(self.crew))]

    def live(self, shortest_s: float, longest_s: float | None = None) -> None:
        """Time passes, a random one if there are two; nobody falls meanwhile."""
        seconds = shortest_s if longest_s is None else self.rng.uniform(shortest_s, longest_s)
        begun = time.monotonic()
        self.until(lambda: time.monotonic() - begun >= seconds, seconds + 10)

    def until(self, condition: Callable[[], object], within_s: float = HELD_WITHIN_S) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            for worker in self.crew.values():
                assert worker.process.poll() is None, f"{worker.instance} ended by itself: {worker.said[-3000:]}"
            said = {worker.instance: worker.said[-1500:] for worker in self.crew.values()}
            assert time.monotonic() < deadline, f"not within {within_s:g} s: {said}"
            time.sleep(POLL_S)

    def holds_all(self, names: Sequence[str]) -> bool:
        """Whether these have all partitions and buckets between them."""
        if not all(self.crew[name].holds() for name in names):
            return False
        said = [self.crew[name].health() for name in names]
        held = {partition for health in said for partition in health["partitions"]}
        return len(held) == self.partitions and sum(health["buckets"] for health in said) == BUCKETS

    def gather(self) -> WorkerProcess:
        """All work is the first one's: what `--drain` needs."""
        for name in sorted(self.crew.keys() - {FIRST}):
            self.dismiss(name)
        self.until(lambda: self.holds_all([FIRST]))
        return self.crew[FIRST]

    def forget_state(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
