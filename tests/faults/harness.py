"""What the fault tests share: a stream with an oracle, workers as processes of their own, and what they published."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agents import topics
from agents.clients import Connection
from agents.files import read_plan
from agents.loader import read_to_end
from agents.replay import generate
from streams.backtest import Backtest
from streams.events import time_ms
from streams.learn import learn
from streams.plan import Plan
from streams.scaffold import foreshock_yaml

START_MS = 1_767_571_200_000
PANE_MS = 60_000
EVENTS_PER_PANE = 2_000
PARTITIONS = 4
MODEL = "shop"

Pair = tuple[bytes | None, bytes]


@dataclass
class Stream:
    """Records of a topic, and what a plain count says of them."""

    pairs: list[Pair] = field(default_factory=list)
    panes: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Events by pane start and version: on time and welcome ones."""
    late: int = 0
    rejected: int = 0

    @property
    def counted(self) -> int:
        return sum(self.panes.values())


def make_stream(n: int, seed: int, *, garbage: bool = True) -> Stream:
    """`n` records: disorder within the grace, two versions, a null burst, an error burst, late events and garbage."""
    rng = random.Random(seed)
    stream = Stream()
    panes = max(8, n // EVENTS_PER_PANE)
    for i in range(n):
        event_id = f"{seed}-{i:09}"
        pane = i * panes // n
        ts = START_MS + i * panes * PANE_MS // n
        if garbage and rng.random() < 0.001:
            stream.rejected += 1
            broken = (b"{", b'{"event_id": 1}', b"\xff\xfe", _event(event_id, ts + 400 * 86_400_000, rng, pane, panes))
            stream.pairs.append((event_id.encode(), rng.choice(broken)))
            continue
        if i > n // 2 and rng.random() < 0.001:
            stream.late += 1
            stream.pairs.append((event_id.encode(), _event(event_id, ts - 3_600_000, rng, pane, panes)))
            continue
        ts -= rng.randrange(20_000) if i > EVENTS_PER_PANE else 0
        version = "2" if pane > panes // 2 and i % 10 == 0 else "1"
        stream.panes[(ts // PANE_MS * PANE_MS, version)] += 1
        stream.pairs.append((event_id.encode(), _event(event_id, ts, rng, pane, panes, version)))
    return stream


def _event(event_id: str, ts: int, rng: random.Random, pane: int, panes: int, version: str = "1") -> bytes:
    broken_feed = panes // 4 <= pane < panes // 4 + 3
    failing = panes // 2 <= pane < panes // 2 + 3
    event: dict[str, Any] = {
        "event_id": event_id,
        "ts": ts,
        "model": MODEL,
        "model_version": version,
        "features": {
            "amount": None if broken_feed and rng.random() < 0.6 else round(rng.lognormvariate(3, 1), 2),
            "age": rng.randrange(18, 90),
            "country": rng.choice(("DE", "FR", "US", "BR")),
        },
        "segments": {"channel": rng.choice(("web", "app"))},
        "score": round(rng.betavariate(2, 5), 4),
        "prediction": int(rng.random() < 0.2),
        "latency_ms": round(rng.lognormvariate(2, 0.4), 1),
    }
    if failing and rng.random() < 0.5:
        event |= {"error": "timeout", "score": None, "prediction": None}
    return json.dumps(event).encode()


def write_config(folder: Path, prefix: str, *, chunk_size: int = 8_192) -> Path:
    """Learns from a quiet stretch of the same stream; the pane is a minute, lateness half an hour."""
    rng = random.Random(7)
    rows = [_event(f"r{i}", START_MS + i * 30, rng, 0, 10**9) for i in range(20_000)]
    learned = learn(MODEL, lambda: rows)
    text = foreshock_yaml(learned, "test", "shop.baseline")
    text = text.replace(f"pane: {_after(text, 'pane: ')}", "pane: 1m").replace("lateness: 1d", "lateness: 30m")
    text = text.replace("prefix: ''", f"prefix: '{prefix}'\n  chunk_size: {chunk_size}\n  buckets: 4")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shop.baseline").write_bytes(learned.baseline.to_bytes())
    file = folder / "foreshock.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def _after(text: str, mark: str) -> str:
    return text.split(mark, 1)[1].split()[0]


def fill(connection: Connection, pairs: Iterable[Pair], *, rate: float | None = None) -> None:
    async def send() -> None:
        await topics.create(connection, connection.topic("inference"), PARTITIONS)
        await generate(connection, connection.topic("inference"), pairs, rate=rate)

    asyncio.run(send())


class WorkerProcess:
    """`foreshock worker` as a user starts it."""

    def __init__(self, config: Path, bootstrap: str, *options: str) -> None:
        self.log = config.parent / "worker.log"
        command = [sys.executable, "-m", "agents", "worker", "-c", str(config), "--broker", bootstrap]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", "127.0.0.1:0", "--instance", "one", *options], stdout=log, stderr=log
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, within_s: float) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def wait(self, within_s: float) -> int:
        return self.process.wait(within_s)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


@dataclass
class Published:
    """What a run gave: windows by key, the last revision of each; actions; dead letters."""

    windows: dict[str, dict[str, Any]]
    actions: list[dict[str, Any]]
    dead_letters: list[tuple[str, int, int]]
    """Topic, partition, offset; repeats of a restart dropped."""

    @property
    def action_ids(self) -> set[str]:
        return {action["id"] for action in self.actions}

    def panes(self) -> Counter[tuple[int, str]]:
        """Events by pane start and version."""
        counts: Counter[tuple[int, str]] = Counter()
        for window in self.windows.values():
            if window["version"] is not None and window["segment"] is None and window["counts"]["events"]:
                counts[(_ms(window["start"]), window["version"])] += window["counts"]["events"]
        return counts


def _ms(text: str) -> int:
    return time_ms(text)


def published(connection: Connection) -> Published:
    """Everything that is on the result topics now."""
    found: dict[str, list[Any]] = {"windows": [], "actions": [], "dead-letter": []}

    async def read() -> None:
        for name, records in found.items():
            topic = connection.topic(name)
            count = await topics.find(connection, topic) or 0
            await read_to_end(connection, topic, range(count), records.extend, deadline_s=60)

    asyncio.run(read())
    letters = set()
    for record in found["dead-letter"]:
        headers = dict(record.headers)
        place = tuple(headers[f"foreshock.{name}"].decode() for name in ("topic", "partition", "offset"))
        letters.add((place[0], int(place[1]), int(place[2])))
    return Published(
        latest_windows(json.loads(record.value) for record in found["windows"]),
        [json.loads(record.value) for record in found["actions"]],
        sorted(letters),
    )


def latest_windows(windows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last revision of each window, by its identity."""
    latest: dict[str, dict[str, Any]] = {}
    for window in windows:
        key = json.dumps([window[name] for name in ("model", "version", "segment", "start", "end")])
        if key not in latest or latest[key]["revision"] <= window["revision"]:
            latest[key] = window
    return latest


def expected(config: Path, stream: Stream) -> Published:
    """What the pure pipeline says of the same records, without a broker."""
    plan: Plan = read_plan(config)
    run = Backtest(plan, time.time_ns() // 1_000_000)
    windows: list[dict[str, Any]] = []
    actions: list[dict[str, Any]] = []
    for outcome in run.run(value for _, value in stream.pairs):
        windows += [msgspec.to_builtins(window) for window in outcome.windows]
        actions += [msgspec.to_builtins(action) for action in outcome.actions]
    return Published(latest_windows(json.loads(msgspec.json.encode(windows))), actions, [])


def kill_schedule(seed: int, kills: int, shortest_s: float, longest_s: float) -> Iterator[float]:
    """How long each worker lives."""
    rng = random.Random(seed)
    for _ in range(kills):
        yield rng.uniform(shortest_s, longest_s)
