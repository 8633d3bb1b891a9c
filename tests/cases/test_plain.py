"""A worker without any trouble: what the other cases are held against, and how they are written."""

from __future__ import annotations

from pathlib import Path

from agents.clients import Connection
from tests.faults.cluster import Record, create_topic, read_topic, send_records
from tests.faults.harness import WorkerProcess, write_config
from tests.faults.published import published
from tests.faults.stream import make_stream


def test_without_trouble_the_books_are_those_of_what_was_sent(connection: Connection, tmp_path: Path) -> None:
    """Counted, late and rejected by the metrics; windows and dead letters by the topics."""
    config = write_config(tmp_path / "worker", connection.prefix)
    create_topic(connection, "inference")
    stream = make_stream(8_000, 1)
    send_records(connection, "inference", [Record(key=key, value=value) for key, value in stream.pairs])
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: worker.books().get("read", 0) >= len(stream.pairs) - stream.rejected)
        worker.until(lambda: worker.page("/ready")[0] == 200)
        assert worker.metric("foreshock_books_records_total", model="shop", outcome="counted") == stream.counted
        assert worker.terminate() == 0, worker.said
    assert len(read_topic(connection, "dead-letter")) == len(published(connection).dead_letters) == stream.rejected
