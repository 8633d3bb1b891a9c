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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from unittest.mock import Mock

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from agents import topics
from agents.clients import Connection
from agents.files import read_plan
from agents.merge import MergeStage
from agents.replay import generate, partitions_of
from deploy.loopback import death_with_parent
from streams.backtest import Backtest
from streams.errors import BrokerError
from streams.events import time_ms
from streams.learn import learn
from streams.merge import BucketMerge
from streams.partial import Books
from streams.plan import Facts, Plan
from streams.progress import Progress
from streams.scaffold import foreshock_yaml
from tests.faults.cluster import read_topic
from tests.faults.payloads import BROKEN, ODD, changed
from tests.faults.reference import LogRecord

START_MS = 1_767_571_200_000
PANE_MS = 60_000
EVENTS_PER_PANE = 2_000
PARTITIONS = 4
MODEL = "shop"
WELCOME_MS = 180_000
"""How far behind a welcome event is: beyond the grace, within the lateness."""
AHEAD_MS = 59 * PANE_MS
LATENESS_MS = 30 * PANE_MS
"""Of the configuration that `write_config` writes."""
WEEK_MS = 7 * 86_400_000
GENERATION = 10**12
"""Between the offsets of one log and of that which took its place."""
FUTURE_MS = 4_102_444_800_000
"""The year 2100."""
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

HOSTILE_MARK = b"\xff"
"""How keys of records end that a fault has put on our topics; no text ends so."""

Pair = tuple[bytes | None, bytes]


@dataclass
class Stream:
    """Records of a topic, and what a plain count says of them."""

    pairs: list[Pair] = field(default_factory=list)
    panes: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Events by pane start and version: on time and welcome ones."""
    late: int = 0
    duplicate: int = 0
    strangers: int = 0
    """Events of models that nobody declared."""
    broken: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    """What has to be rejected: the reason, and the bytes."""

    @property
    def counted(self) -> int:
        return sum(self.panes.values())

    @property
    def rejected(self) -> int:
        return self.broken.total()


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a stream has beside disorder within the grace, two versions, nulls, errors, welcome and late events."""

    garbage: bool = True
    """Records that are no events, and events from the future."""
    repeats: bool = False
    """Events that are sent again, some records later."""
    deduplicated: bool = False
    """A repeat is a duplicate: so it is where there are labels; else it counts again."""
    growing: bool = False
    """In the middle the topic gets more partitions: until they have seen what time it is, nothing comes late."""
    evolving: bool = False
    """From the half on a feature has another name, one another type, and one is new."""
    silent: int | None = None
    """A partition without events from a third of the stream to two thirds."""
    ahead: float = 0.0
    """This share of the events is dated 59 minutes ahead, after a while."""
    behind: float = 0.0
    """This share of the events, from where events may be late, is dated `behind_ms` behind."""
    behind_ms: int = 0
    strangers: int = 0
    """So many events of models that nobody declared, each of another one."""
    second_version_at: float = 0.5
    """The share of the stream after which one event in ten is of another version of the model."""


def make_stream(n: int, seed: int, **having: Any) -> Stream:
    """`n` records of our model, or hardly more or less; `having` what `Traits` has."""
    rng, stream, traits = random.Random(seed), Stream(), Traits(**having)
    panes = max(8, n // EVENTS_PER_PANE)
    late_from = n * 5 // 8 if traits.growing else n // 2
    again: dict[int, list[tuple[Pair, int, str]]] = {}
    for i in range(n):
        event_id = f"{seed}-{i:09}"
        key, pane = event_id.encode(), i * panes // n
        ts = START_MS + i * panes * PANE_MS // n
        for _ in range(i * traits.strangers // n, (i + 1) * traits.strangers // n):
            stranger = f"stranger-{stream.strangers}"
            stream.pairs.append((stranger.encode(), event(stranger, ts, rng, model=stranger)))
            stream.strangers += 1
        for pair, start, version in again.pop(i, ()):
            stream.pairs.append(pair)
            if traits.deduplicated:
                stream.duplicate += 1
            else:
                stream.panes[(start, version)] += 1
        if traits.silent is not None and n // 3 <= i < n * 2 // 3 and partition_of(key) == traits.silent:
            continue
        if traits.behind and i > late_from and rng.random() < traits.behind:
            if traits.behind_ms > LATENESS_MS:
                stream.late += 1
                stream.pairs.append((key, event(event_id, ts - traits.behind_ms, rng, pane, panes)))
                continue
            ts -= traits.behind_ms
        if traits.garbage and rng.random() < 0.001:
            reason, value = _broken(event(event_id, ts, rng, pane, panes), rng)
            stream.broken[(reason, value)] += 1
            stream.pairs.append((key, value))
            continue
        if i > late_from and rng.random() < 0.001:
            stream.late += 1
            stream.pairs.append((key, event(event_id, rng.choice((ts - 3_600_000, 0, -1)), rng, pane, panes)))
            continue
        if i > n // 2 and rng.random() < 0.002:
            ts -= WELCOME_MS
        ts -= rng.randrange(20_000) if i > EVENTS_PER_PANE else 0
        ts += AHEAD_MS if traits.ahead and i > 2 * EVENTS_PER_PANE and rng.random() < traits.ahead else 0
        version = "2" if pane > int(panes * traits.second_version_at) and i % 10 == 0 else "1"
        odd = rng.choice(ODD) if traits.garbage and rng.random() < 0.005 else {}
        value = event(event_id, ts, rng, pane, panes, version, evolved=traits.evolving and i > n // 2, odd=odd)
        start = ts // PANE_MS * PANE_MS
        stream.panes[(start, version)] += 1
        stream.pairs.append((key, value))
        if traits.repeats and rng.random() < 0.01:
            # Soon enough to be on time once more, where a repeat counts.
            again.setdefault(i + rng.randrange(1, 500), []).append(((key, value), start, version))
    return stream


def _broken(good: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A record that is rejected, and why."""
    kind = rng.choice((*BROKEN, "future"))
    if kind == "future":
        return "future", changed(good, ts=FUTURE_MS)
    reason, make = BROKEN[kind]
    return reason, make(good)


def partition_of(key: bytes) -> int:
    return int(partitions_of([key], PARTITIONS)[0])


def event(
    event_id: str,
    ts: int,
    rng: random.Random,
    pane: int = 0,
    panes: int = 10**9,
    version: str = "1",
    model: str = MODEL,
    *,
    evolved: bool = False,
    odd: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """One record. Its feed is broken for three panes from a quarter of them on, its requests fail from the half on."""
    broken_feed = panes // 4 <= pane < panes // 4 + 3
    failing = panes // 2 <= pane < panes // 2 + 3
    record: dict[str, Any] = {
        "event_id": event_id,
        "ts": ts,
        "model": model,
        "model_version": version,
        "features": {
            "amount": None if broken_feed and rng.random() < 0.6 else round(rng.lognormvariate(3, 1), 2),
            "age": rng.randrange(18, 90),
            "country": rng.choice(("DE", "FR", "US", "BR")),
            **odd,
        },
        "segments": {"channel": rng.choice(("web", "app"))},
        "score": round(rng.betavariate(2, 5), 4),
        "prediction": int(rng.random() < 0.2),
        "latency_ms": round(rng.lognormvariate(2, 0.4), 1),
    }
    if failing and rng.random() < 0.5:
        record |= {"error": "timeout", "score": None, "prediction": None}
    if evolved:
        features = record["features"]
        features |= {"age_years": features.pop("age"), "amount": str(features["amount"]), "device": "phone"}
    return json.dumps(record).encode()


def labels_of(pairs: Iterable[Pair], seed: int, *, failing: bool = True) -> list[Pair]:
    """What was true of events, minutes later: one in ten predictions is wrong, or three in the last third if `failing`.

    In order of the labels' times, with repeats, corrections, withdrawals, labels that come first, or a week late, or
    never, or belong to no event, and garbage.
    """
    rng = random.Random(seed)
    found: list[tuple[int, Pair]] = []
    rows = [(key, row) for key, value in pairs if (row := _readable(value)) is not None and row["model"] == MODEL]
    for number, (key, row) in enumerate(rows):
        said = int(rng.random() < (0.3 if failing and number > len(rows) * 2 // 3 else 0.1)) ^ (row["prediction"] or 0)
        told, delay = [said], rng.randrange(30_000, 150_000)
        chance = rng.random()
        if chance > 0.995:
            delay += WEEK_MS
        if chance < 0.02:
            told = []
        elif chance < 0.04:
            told = [said, said]
        elif chance < 0.07:
            told = [1 - said, said]
        elif chance < 0.08:
            told = [said, None]
        elif chance < 0.09:
            delay = -rng.randrange(20_000)
        for place, label in enumerate(told):
            at = row["ts"] + delay + place * 90_000
            found.append(
                (at, (key, json.dumps({"event_id": row["event_id"], "label": label, "label_ts": at}).encode()))
            )
        if rng.random() < 0.01:
            at = row["ts"] + 60_000
            stray = {"event_id": f"stray-{number}", "label": 1, "label_ts": at}
            found.append((at, (b"stray", json.dumps(stray).encode())))
        if rng.random() < 0.002:
            found.append((row["ts"] + 60_000, (b"bad", b'{"label": 1}')))
    return [pair for _, pair in sorted(found, key=lambda item: item[0])]


def _readable(value: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("ts")) is not int or not isinstance(row.get("event_id"), str):
        return None
    return row if 0 < row["ts"] < FUTURE_MS and "model" in row else None


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


@dataclass(frozen=True)
class DeadLetter:
    """An event that was not counted: why, and its bytes."""

    reason: str
    value: bytes | None
    headers: dict[str, bytes]


@dataclass
class Published:
    """What a run gave: windows by key, the last revision of each; actions; dead letters."""

    windows: dict[str, dict[str, Any]]
    actions: list[dict[str, Any]]
    dead_letters: dict[tuple[int, int], DeadLetter]
    """By partition and offset of the source; a restart's repeats are of one place."""
    label_books: dict[str, dict[str, int]] = field(default_factory=dict)
    """By model, of a backtest."""

    @property
    def action_ids(self) -> set[str]:
        return {action["id"] for action in self.actions}

    def panes(self) -> Counter[tuple[int, str]]:
        """Events by pane start and version."""
        counts: Counter[tuple[int, str]] = Counter()
        for window in self.windows.values():
            if window["clock"] != "event" or _ms(window["end"]) - _ms(window["start"]) != PANE_MS:
                continue
            if window["version"] is not None and window["segment"] is None and window["counts"]["events"]:
                counts[(_ms(window["start"]), window["version"])] += window["counts"]["events"]
        return counts


def _ms(text: str) -> int:
    return time_ms(text)


def published(connection: Connection) -> Published:
    """Everything that is on the result topics now."""
    found = {name: _ours(read_topic(connection, name)) for name in ("windows", "actions", "dead-letter")}
    letters: dict[tuple[int, int], DeadLetter] = {}
    for record in found["dead-letter"]:
        headers = dict(record.headers)
        topic, partition, offset, reason = (
            headers[f"foreshock.{name}"].decode() for name in ("topic", "partition", "offset", "reason")
        )
        if topic == connection.topic("inference"):
            letter, place = DeadLetter(reason, record.value, headers), (int(partition), int(offset))
            while place in letters and letters[place].value != letter.value:  # the topic was made anew
                place = place[0], place[1] + GENERATION
            letters[place] = letter
    return Published(
        latest_windows(strict_json(record.value) for record in found["windows"]),
        [strict_json(record.value) for record in found["actions"]],
        letters,
    )


def _ours(records: Iterable[Any]) -> list[Any]:
    """Those that no fault has put there."""
    return [record for record in records if not (record.key or b"").endswith(HOSTILE_MARK)]


def log_of(connection: Connection, topic: str) -> list[LogRecord]:
    """What a topic holds now, as a reader of committed records gets it."""
    found = read_topic(connection, topic, committed=True)
    return [LogRecord(record.partition, record.offset, record.timestamp, record.value) for record in found]


def strict_json(value: bytes) -> Any:
    """What JSON says; NaN and Infinity are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(value, parse_constant=refuse)


def books(connection: Connection, config: Path) -> dict[str, Books]:
    """The books by model, of stage 2 as it is on the topics."""
    found: dict[str, Books] = {}
    for merge in rebuilt(connection, config):
        for name, model in {**merge.models, **merge.others}.items():  # of no model several buckets may hold an entry
            found[name] = found.get(name, Books()).merged(model.books)
    return found


def lost_records(connection: Connection, config: Path) -> dict[int, int]:
    """By partition of the events, how many records the workers say were gone before they could be counted."""
    found: dict[int, int] = {}
    for merge in rebuilt(connection, config):
        found |= {partition: max(lost, found.get(partition, 0)) for partition, lost in merge.lost.items()}
    return found


def lost_labels(connection: Connection) -> dict[int, int]:
    """By partition of the labels, how many of them the workers say were gone before they were read."""
    found: dict[int, int] = {}
    for record in _ours(read_topic(connection, "progress")):
        topic, _, partition = record.key.decode().partition("/")
        if topic == "labels" and (lost := Progress.from_bytes(record.value, record.key).lost):
            found[int(partition)] = max(lost, found.get(int(partition), 0))
    return found


def rebuilt(connection: Connection, config: Path) -> list[BucketMerge]:
    """Stage 2, by bucket, as the next worker would rebuild it from the topics."""

    async def rebuild() -> list[BucketMerge]:
        plan = read_plan(config)
        stage = MergeStage(plan, connection, Mock(), PARTITIONS, {})
        topic = connection.topic("partials")
        await stage.on_assigned({TopicPartition(topic, bucket) for bucket in range(plan.config.kafka.buckets)})
        return [judge.merge for judge in stage.judges.values()]

    return asyncio.run(rebuild())


def progress(connection: Connection) -> dict[int, int]:
    """By partition of the events the next offset of its furthest progress record; other topics' keys name them."""
    found: dict[int, int] = {}
    for record in _ours(read_topic(connection, "progress")):
        if b"/" in record.key:
            continue
        partition = int(record.key)
        found[partition] = max(Progress.from_bytes(record.value).next_offset, found.get(partition, 0))
    return found


def committed(connection: Connection, group: str = "foreshock", topic: str = "inference") -> dict[int, int]:
    """By partition the offset that the group has committed; none as long as Kafka does not know the group."""

    async def ask() -> dict[int, int]:
        async with topics.admin(connection) as client:
            offsets = await client.list_consumer_group_offsets(connection.topic(group))
        return {tp.partition: meta.offset for tp, meta in offsets.items() if tp.topic == connection.topic(topic)}

    try:
        return asyncio.run(ask())
    except BrokerError:  # the first group that a broker hears of: it still looks for a coordinator
        return {}


def latest_windows(windows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last revision of each window, by its identity."""
    latest: dict[str, dict[str, Any]] = {}
    for window in windows:
        key = json.dumps([window[name] for name in ("model", "version", "segment", "start", "end", "clock", "kpi")])
        if key not in latest or latest[key]["revision"] <= window["revision"]:
            latest[key] = window
    return latest


def expected(config: Path, stream: Stream, labels: Sequence[Pair] = ()) -> Published:
    """What the pure pipeline says of the same records, without a broker."""
    values = [value for _, value in stream.pairs]
    return replayed(read_plan(config), values, [value for _, value in labels])


def replayed(
    plan: Plan, events: Sequence[bytes], labels: Sequence[bytes], told: Mapping[Facts, Sequence[bytes]] | None = None
) -> Published:
    """What a backtest of these values publishes."""
    run = Backtest(plan, time.time_ns() // 1_000_000, labelled=bool(labels), told=told or ())
    windows: list[dict[str, Any]] = []
    actions: list[dict[str, Any]] = []
    for outcome in run.run(events, labels, told or {}):
        windows += [msgspec.to_builtins(window) for window in outcome.windows]
        actions += [msgspec.to_builtins(action) for action in outcome.actions]
    books = {name: model.labels for name, model in run.summary().models.items()}
    return Published(latest_windows(json.loads(msgspec.json.encode(windows))), actions, {}, books)


def kill_schedule(seed: int, kills: int, shortest_s: float, longest_s: float) -> Iterator[float]:
    """How long each worker lives."""
    rng = random.Random(seed)
    for _ in range(kills):
        yield rng.uniform(shortest_s, longest_s)
