"""As many models as a configuration takes, each as `init` writes one, in a worker of the manifest's limit."""

from __future__ import annotations

import json
import random
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from agents.clients import Connection
from streams.config import MAX_MODELS
from tests.faults.cluster import Record, create_topic, send_records
from tests.faults.harness import WorkerProcess, write_config
from tests.faults.stream import event

PARTITIONS, EVENTS = 4, 40_000
READY_WITHIN_S, ANSWER_WITHIN_S = 300.0, 10.0


def many(config: Path, models: int) -> Path:
    """The configuration, its one model written so many times."""
    head, body = config.read_text().split("  shop:\n")
    config.write_text(head + "".join(f"  m{n}:\n{body}" for n in range(models)))
    return config


def lags(worker: WorkerProcess) -> tuple[int, int]:
    """Records of events and partials that are still to be read."""
    health = worker.health()
    return health["lag"], health["merge_lag"]


def events_read(worker: WorkerProcess) -> float:
    """The sum of the books; the page of so many models takes a while."""
    with urllib.request.urlopen(worker.url() + "/metrics", timeout=60) as answer:
        page = answer.read().decode()
    read = re.findall(r'^foreshock_books_records_total\{.*outcome="read".*\} (\S+)$', page, re.MULTILINE)
    return sum(map(float, read))


def hostile_events(at_ms: int) -> Iterator[Record]:
    """Of all models, in as many versions, panes, segments and unseen values as events can name."""
    rng = random.Random(3)
    for n in range(EVENTS):
        row = json.loads(event(f"e{n}", at_ms + rng.randrange(600_000), rng, model=f"m{n % MAX_MODELS}"))
        row |= {"model_version": f"v{rng.randrange(10**6)}", "segments": {"channel": f"c{rng.randrange(10**6)}"}}
        row["features"] |= {"country": "x" * 100 + str(n), f"field{n}": n}
        yield Record(value=json.dumps(row).encode(), partition=n % PARTITIONS)


def test_a_worker_of_as_many_models_as_there_may_be(connection: Connection, tmp_path: Path) -> None:
    """It becomes ready, answers on its pages meanwhile, counts, and ends, within its memory."""
    config = many(write_config(tmp_path / "worker", connection.prefix), MAX_MODELS)
    create_topic(connection, "inference", PARTITIONS)
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: "metrics at " in worker.said, READY_WITHIN_S)
        slowest_s, deadline = 0.0, time.monotonic() + READY_WITHIN_S
        while worker.page("/ready")[0] != 200:
            assert time.monotonic() < deadline, worker.said[-2_000:]
            for path in ("/health", "/metrics"):
                began = time.monotonic()
                assert worker.page(path)[0] == 200
                slowest_s = max(slowest_s, time.monotonic() - began)
        assert slowest_s < ANSWER_WITHIN_S
        print("ready", worker.peak_mib(), "MiB at the most; the slowest page took", round(slowest_s, 2), "s")
        send_records(connection, "inference", list(hostile_events(int(time.time() * 1000) - 700_000)))
        worker.until(lambda: lags(worker) == (0, 0), READY_WITHIN_S)
        worker.until(lambda: events_read(worker) == EVENTS, 60)
        print("read", worker.peak_mib(), "MiB at the most")
        assert worker.terminate(30) == 0, worker.said[-2_000:]
