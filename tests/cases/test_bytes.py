"""Bytes that are few on the broker and many in memory, and names that are no text: a worker lives within its limit."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agents.clients import Connection
from tests.batches import GZIP, LZ4, ZSTD, Batch, Item, bomb, produce
from tests.faults.cluster import Record, create_topic, read_topic, send_records, send_transaction
from tests.faults.harness import PLAIN, WorkerProcess, write_config
from tests.faults.stream import START_MS, event

MIB = 1 << 20
LIMIT = 2 << 30
"""What deploy/kubernetes allows a worker."""
PEAK_MIB = 640
BOMBS = {ZSTD: 1_500 * MIB, GZIP: 400 * MIB, LZ4: 400 * MIB}


def event_of(n: int) -> bytes:
    return event(f"e{n}", START_MS + n * 100, random.Random(n))


def large_event_of(n: int) -> bytes:
    found = json.loads(event_of(n))
    return json.dumps(found | {"note": "a" * 1_000_000}).encode()


def label_of(n: int) -> bytes:
    return json.dumps({"event_id": f"e{n}", "label": 1, "label_ts": START_MS + n * 100 + 60_000}).encode()


def ack_of(n: int) -> bytes:
    return json.dumps({"action_id": f"a{n}", "status": "seen", "by": "ann", "ts": START_MS}).encode()


def batches(value: Callable[[int], bytes], large: Callable[[int], bytes]) -> Iterator[Batch]:
    """A thousand good records, 400 of them large, with three bombs between them and 300 names that are no UTF-8."""
    stamp_ms = int(time.time() * 1000)
    yield Batch(0, [Item(value(n)) for n in range(300)], stamp_ms=stamp_ms)
    for codec, size in BOMBS.items():
        yield Batch(0, [Item()] * 2, codec, packed=bomb(codec, size), stamp_ms=stamp_ms)
    yield Batch(0, [Item(large(n)) for n in range(300, 700)], ZSTD, stamp_ms=stamp_ms)
    names = [(b"\xff\xfe", b"x"), (b"ce_\xc3", None)]
    yield Batch(0, [Item(value(n), headers=names) for n in range(700, 1_000)], stamp_ms=stamp_ms)


def test_bombs_and_names_cost_nothing_but_their_own_records(connection: Connection, tmp_path: Path) -> None:
    """On every topic that is not ours. Beside each bomb is a small record that is none. A second start follows."""
    config = write_config(tmp_path / "worker", connection.prefix, labelled=True)
    for topic in ("inference", "labels", "acks"):
        create_topic(connection, topic, 1, {"max.message.bytes": str(16 * MIB)})
    produce(connection.servers, connection.topic("inference"), [*batches(event_of, large_event_of)])
    produce(connection.servers, connection.topic("labels"), [*batches(label_of, label_of)])
    produce(connection.servers, connection.topic("acks"), [*batches(ack_of, ack_of)])
    for _ in range(2):
        through = ("prlimit", f"--data={LIMIT}", *PLAIN)
        with WorkerProcess(config, connection.broker, through=through) as worker:
            worker.until(lambda: worker.books().get("read", 0) >= 1_000, 120)
            worker.until(lambda: worker.metric("foreshock_label_records_total", outcome="matched") >= 0, 10)
            worker.until(lambda: len(letters(connection)) >= 12, 60)
            assert worker.metric("foreshock_books_records_total", model="shop", outcome="counted") == 1_000
            assert worker.metric("foreshock_rejects_total", reason="bad_ack") == 6
            assert worker.peak_mib() < PEAK_MIB
            print("peak", worker.peak_mib())
            assert worker.terminate() == 0, worker.said
    assert sorted(letters(connection).values()) == ["bad_json"] * 6 + ["too_large"] * 6


def letters(connection: Connection) -> dict[tuple[str, int], str]:
    """By topic and offset of the record, why it is a dead letter."""
    found = {}
    for record in read_topic(connection, "dead-letter"):
        headers = {name: value.decode() for name, value in record.headers}
        found[headers["foreshock.topic"], int(headers["foreshock.offset"])] = headers["foreshock.reason"]
    return found


def test_transactions_are_counted_when_they_are_committed(connection: Connection, tmp_path: Path) -> None:
    """Of five attempts four are aborted, among plain records; none of it is lag for ever."""
    config = write_config(tmp_path / "worker", connection.prefix)
    create_topic(connection, "inference", 1)
    first = [Record(value=event_of(n)) for n in range(500)]
    for attempt in range(5):
        send_transaction(connection, "inference", first, commit=attempt == 3)
        more = range(500 + attempt * 50, 550 + attempt * 50)
        send_records(connection, "inference", [Record(value=event_of(n)) for n in more])
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: worker.books().get("read", 0) >= 750)
        worker.until(lambda: worker.health()["lag"] == 0)
        assert worker.books() == {"read": 750, "counted": 750, "late": 0, "rejected": 0, "duplicate": 0}
        assert worker.terminate() == 0, worker.said
