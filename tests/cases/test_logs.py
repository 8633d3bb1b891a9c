"""Topics that are made anew, and logs whose head is gone: what was counted stands, and the rest is counted once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.clients import Connection
from tests.faults.cluster import Record, bounds, create_topic, delete_records, delete_topic, send_records
from tests.faults.harness import WorkerProcess, write_config
from tests.faults.stream import labels_of, make_stream

CHUNK = 256
Edit = Callable[[], None]


@pytest.fixture
def config(connection: Connection, tmp_path: Path) -> Path:
    return write_config(tmp_path / "worker", connection.prefix, chunk_size=CHUNK)


def fill(connection: Connection, n: int, seed: int) -> int:
    """Good events of the model; how many."""
    pairs = make_stream(n, seed, garbage=False).pairs
    send_records(connection, "inference", [Record(key=key, value=value) for key, value in pairs])
    return len(pairs)


def read_of(worker: WorkerProcess, n: int) -> bool:
    return worker.books().get("read", 0) >= n


def ended(worker: WorkerProcess) -> None:
    assert worker.terminate() == 0, worker.said


@pytest.mark.parametrize("more", [True, False], ids=["with more records", "with fewer"])
@pytest.mark.parametrize("up", [True, False], ids=["while it runs", "while it is down"])
def test_a_topic_that_is_made_anew_is_counted_beside_the_one_before(
    connection: Connection, config: Path, up: bool, more: bool
) -> None:
    create_topic(connection, "inference", 2)
    first = fill(connection, 1_000, 1)

    def change() -> int:
        delete_topic(connection, "inference")
        create_topic(connection, "inference", 2)
        return fill(connection, 3_000 if more else 300, 2)

    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: read_of(worker, first))
        worker.until(lambda: worker.metric("foreshock_partials_total", stage="merge") > 0)
        second = change() if up else 0
        if up:
            worker.until(lambda: read_of(worker, first + second), 120)
            assert worker.metric("foreshock_log_changes_total", change="made anew") == 1
            assert worker.said.count("made anew (its id is another)") == 1
        ended(worker)
    second = second or change()
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: read_of(worker, first + second), 90)
        worker.until(lambda: worker.page("/ready")[0] == 200)
        assert worker.books()["read"] == first + second
        assert worker.metric("foreshock_lost_records_total") == 0
        ended(worker)


def test_what_was_published_of_an_open_chunk_stands_when_its_head_is_gone(connection: Connection, config: Path) -> None:
    """The worker was stopped, all it had read was published, and then the log lost that: nothing is lost."""
    create_topic(connection, "inference", 1)
    first = fill(connection, 700, 1)
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: read_of(worker, first))
        ended(worker)
    delete_records(connection, "inference", {0: first})
    second = fill(connection, 500, 2)
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: read_of(worker, first + second))
        assert worker.books()["read"] == first + second
        assert worker.metric("foreshock_lost_records_total") == 0
        ended(worker)


@pytest.mark.parametrize("up", [True, False], ids=["and found at the start", "and found by another worker later"])
def test_what_was_never_read_is_counted_as_lost(connection: Connection, config: Path, up: bool) -> None:
    create_topic(connection, "inference", 1)
    first = fill(connection, 700, 1)
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: read_of(worker, first))
        ended(worker)
    second = fill(connection, 500, 2)
    gone = first + 300
    delete_records(connection, "inference", {0: gone})
    assert bounds(connection, "inference") == {0: (gone, first + second)}
    for _ in range(1 if up else 2):
        with WorkerProcess(config, connection.broker) as worker:
            worker.until(lambda: read_of(worker, first + second - 300))
            worker.until(lambda: worker.metric("foreshock_lost_records_total", topic="inference") == 300)
            assert worker.books()["read"] == first + second - 300
            ended(worker)


def test_a_label_join_whose_store_is_lost_goes_on_from_what_was_published_when_the_topics_forgot(
    connection: Connection, tmp_path: Path
) -> None:
    """Of 2,000 labelled predictions the topics keep the last quarter; then labels of those and of new ones come."""
    config = write_config(tmp_path / "labelled", connection.prefix, labelled=True)
    for topic in ("inference", "labels"):
        create_topic(connection, topic, 1)
    stream = make_stream(4_000, 1, garbage=False)
    labels = labels_of(stream.pairs, 2)
    half = len(stream.pairs) // 2
    known = {key for key, _ in stream.pairs[:half]}
    first = [pair for pair in labels if pair[0] in known]
    rest = [pair for pair in labels if pair[0] not in known]

    def matched(worker: WorkerProcess) -> float:
        return worker.metric("foreshock_label_records", model="shop", outcome="matched")

    send_records(connection, "inference", [Record(key=key, value=value) for key, value in stream.pairs[:half]])
    send_records(connection, "labels", [Record(key=key, value=value) for key, value in first])
    with WorkerProcess(config, connection.broker, "--state", str(tmp_path / "one")) as worker:
        worker.until(lambda: matched(worker) >= len({key for key, _ in first}))
        before = matched(worker)
        ended(worker)
    delete_records(connection, "inference", {0: half * 3 // 4})
    delete_records(connection, "labels", {0: len(first) * 3 // 4})
    send_records(connection, "inference", [Record(key=key, value=value) for key, value in stream.pairs[half:]])
    send_records(connection, "labels", [Record(key=key, value=value) for key, value in rest])
    with WorkerProcess(config, connection.broker, "--state", str(tmp_path / "two")) as worker:
        worker.until(lambda: matched(worker) >= before + len({key for key, _ in rest}))
        assert worker.metric("foreshock_lost_records_total") == 0
        assert "what was published of them stands" in worker.said
        assert worker.books()["read"] == len(stream.pairs)
        ended(worker)


def test_a_label_join_that_comes_back_to_an_old_store_publishes_no_less_when_the_topics_forgot(
    connection: Connection, tmp_path: Path
) -> None:
    """One worker reads a third, another one the rest, and the first one gets the partition back."""
    config = write_config(tmp_path / "labelled", connection.prefix, labelled=True)
    for topic in ("inference", "labels"):
        create_topic(connection, topic, 1)
    events = make_stream(3_000, 1, garbage=False).pairs
    labels = labels_of(events, 2)
    read = {"inference": 0, "labels": 0}

    def send(share: float) -> None:
        for topic, pairs in (("inference", events), ("labels", labels)):
            part = pairs[read[topic] : int(share * len(pairs))]
            send_records(connection, topic, [Record(key=key, value=value) for key, value in part])
            read[topic] += len(part)

    def found(worker: WorkerProcess) -> dict[str, float]:
        outcomes = ("read", "matched", "duplicate")
        return {name: worker.metric("foreshock_label_records", model="shop", outcome=name) for name in outcomes}

    before: dict[str, float] = {}
    for share, state in ((0.3, "one"), (0.9, "two"), (1.0, "one")):
        send(share)
        with WorkerProcess(config, connection.broker, "--state", str(tmp_path / state)) as worker:
            worker.until(lambda: read_of(worker, read["inference"]))
            worker.until(lambda: found(worker)["read"] >= read["labels"])
            assert found(worker)["read"] == read["labels"]
            assert all(number >= before.get(name, 0) for name, number in found(worker).items())
            assert worker.metric("foreshock_lost_records_total") == 0
            before = found(worker)
            ended(worker)
        if state == "two":
            delete_records(connection, "inference", {0: read["inference"] * 2 // 3})
            delete_records(connection, "labels", {0: read["labels"] * 2 // 3})
