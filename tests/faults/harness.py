"""What the fault tests share: a stream with an oracle, workers as processes of their own, and what they published."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from agents import topics
from agents.clients import Connection
from agents.replay import generate
from deploy.loopback import death_with_parent
from streams.errors import BrokerError
from streams.learn import learn
from streams.scaffold import foreshock_yaml
from tests.faults.stream import (
    MODEL,
    PARTITIONS,
    START_MS,
    Pair,
    event,
    labels_of,
)

STOP_WITHIN_S = 15.0
KNOWN_WITHIN_S = 60.0
SEED = int(os.environ.get("FORESHOCK_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
"""Of tests that are random; they print it."""
PLAIN = (sys.executable, "-m", "agents")
MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "statefulset.yaml"


def memory_limit_bytes(manifest: Path = MANIFEST) -> int:
    """The limit of memory that the Kubernetes manifest gives a worker."""
    found = re.search(r"limits: \{memory: (\d+)Gi\}", manifest.read_text(encoding="utf-8"))
    assert found, f"{manifest} has no limit of memory in Gi"
    return int(found[1]) << 30


LIMITED = ("prlimit", f"--data={memory_limit_bytes()}", "--")
"""In front of a worker's command: an allocation beyond the manifest's limit fails, as it would end it there."""


def write_config(
    folder: Path,
    prefix: str,
    *,
    chunk_size: int = 8_192,
    idle: str = "1m",
    model: str = MODEL,
    labelled: bool = False,
) -> Path:
    """Learns from a quiet stretch of the same stream; the pane is a minute, lateness half an hour."""
    rng = random.Random(7)
    rows = [event(f"r{i}", START_MS + i * 30, rng, model=model) for i in range(20_000)]
    truth = labels_of([(None, row) for row in rows[:12_000]], 8, failing=False)
    learned = learn(model, lambda: rows, labels=[value for _, value in truth] if labelled else None)
    text = foreshock_yaml(learned, "test", "shop.baseline")
    text = text.replace(f"pane: {_after(text, 'pane: ')}", "pane: 1m").replace("lateness: 1d", "lateness: 30m")
    text = text.replace("    owner: ''", f"    idle: {idle}\n    owner: ''")
    text = text.replace("prefix: ''", f"prefix: '{prefix}'\n  chunk_size: {chunk_size}\n  buckets: 4")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shop.baseline").write_bytes(learned.baseline.to_bytes())
    file = folder / "foreshock.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def edit_config(config: Path, *edits: tuple[str, str]) -> None:
    """Replaces texts of the file, each of which must be there."""
    text = config.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, f"{config} has no {old!r}"
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")


def _after(text: str, mark: str) -> str:
    return text.split(mark, 1)[1].split()[0]


class _Patient(Connection):
    """Its producer keeps what it has to send for as long as any outage of ours lasts."""

    def producer(self, **settings: Any) -> AIOKafkaProducer:
        return super().producer(request_timeout_ms=180_000, **settings)


def fill(connection: Connection, pairs: Iterable[Pair], *, rate: float | None = None, topic: str = "inference") -> None:
    to = _Patient(broker=connection.broker, prefix=connection.prefix)

    begun = False

    def told() -> Iterator[Pair]:
        nonlocal begun
        begun = True
        yield from pairs

    async def send() -> None:
        deadline = time.monotonic() + KNOWN_WITHIN_S
        while True:
            try:
                await topics.create(to, to.topic(topic), PARTITIONS)
                await generate(to, to.topic(topic), told(), rate=rate)
                return
            except BrokerError:
                # Before anything is sent: none is up, one has just gone, or of three one does not know the topic yet.
                if begun or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    asyncio.run(send())


def create(connection: Connection, configs: Mapping[str, str] | None = None, *, topic: str = "inference") -> None:
    """A topic that the worker reads."""
    asyncio.run(topics.create(connection, connection.topic(topic), PARTITIONS, configs))


def send(
    connection: Connection, records: Iterable[tuple[int, bytes | None]], *, topic: str = "inference", **producer: Any
) -> list[tuple[int, int]]:
    """Sends (partition, value), in order; partition and offset of each."""

    async def main() -> list[tuple[int, int]]:
        async with connection.producer(**producer) as client:
            name = connection.topic(topic)
            futures = [await client.send(name, value, b"key", partition) for partition, value in records]
            return [(sent.partition, sent.offset) for sent in await asyncio.gather(*futures)]

    return asyncio.run(main())


class ForeshockProcess:
    """A `foreshock` command as a user starts it; as a context manager it is gone at the end, whatever happened."""

    def __init__(
        self,
        log: Path,
        *arguments: str,
        through: Sequence[str] = PLAIN,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`through`: the command that takes foreshock's arguments. `environment`: variables on top of ours."""
        self.log = log
        with log.open("ab") as file:
            self._said_before = file.tell()
            self.process = subprocess.Popen(
                [*through, *arguments],
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
                preexec_fn=death_with_parent(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    @property
    def said(self) -> str:
        """What this process has written to its log."""
        return self.log.read_bytes()[self._said_before :].decode("utf-8", "replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, within_s: float = STOP_WITHIN_S) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def wait(self, within_s: float) -> int:
        return self.process.wait(within_s)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def until(self, condition: Callable[[], object], within_s: float = 60.0) -> None:
        """Waits until it holds, as long as this process is up."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said[-2000:]}"
            assert time.monotonic() < deadline, f"not within {within_s:g} s; its log: {self.said[-2000:]}"
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def resident_mib(self) -> float:
        """What its process holds now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    def peak_mib(self) -> float:
        """The most that its process has held; 0 once it has ended."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0


class WorkerProcess(ForeshockProcess):
    """`foreshock worker`, with pages on a free port, under the limit of memory that the manifest gives it."""

    def __init__(
        self,
        config: Path,
        bootstrap: str,
        *options: str,
        instance: str = "one",
        log_name: str = "",
        through: Sequence[str] = PLAIN,
        **settings: Any,
    ) -> None:
        """`log_name`: that of its log, by default its instance's. The rest: as of ForeshockProcess."""
        self.instance = instance
        arguments = ["worker", "-c", str(config), "--broker", bootstrap, "--listen", "127.0.0.1:0"]
        arguments += ["--instance", instance, *options]
        log = config.parent / f"worker-{log_name or instance}.log"
        super().__init__(log, *arguments, through=(*LIMITED, *through), **settings)

    def get(self, path: str) -> str:
        """A page of this worker, as soon as it has one."""
        with urllib.request.urlopen(self.url() + path, timeout=10) as answer:
            return str(answer.read().decode())

    def url(self) -> str:
        """Where its pages are, as soon as it has any."""
        self.until(lambda: "metrics at " in self.said)
        return re.findall(r"metrics at (\S+)/metrics", self.said)[-1]

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page, whatever the status is."""
        try:
            return 200, self.get(path)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/health"))
        return found

    def holds(self) -> set[int]:
        """The partitions that it has; none before it has a page."""
        if "metrics at " not in self.said:
            return set()
        return set(self.health()["partitions"])

    def books(self, model: str = MODEL) -> dict[str, int]:
        """The model's books by outcome, as its metrics tell them; empty before there are any."""
        return {
            sample.labels["outcome"]: int(sample.value)
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
            if sample.name == "foreshock_books_records_total" and sample.labels["model"] == model
        }

    def read(self) -> int:
        """Records that this worker has fetched."""
        return int(self.metric("foreshock_records_total"))

    def published(self) -> int:
        """Partials that this worker has sent, and folded."""
        return int(self.metric("foreshock_partials_total"))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 when there is none."""
        samples = [s for family in text_string_to_metric_families(self.get("/metrics")) for s in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def drain(config: Path, bootstrap: str, *, within_s: float = 120.0) -> None:
    """A worker that reads everything, judges it, and ends well."""
    with WorkerProcess(config, bootstrap, "--drain") as worker:
        assert worker.wait(within_s) == 0, worker.said[-2000:]


def kill_schedule(seed: int, kills: int, shortest_s: float, longest_s: float) -> Iterator[float]:
    """How long each worker lives."""
    rng = random.Random(seed)
    for _ in range(kills):
        yield rng.uniform(shortest_s, longest_s)
