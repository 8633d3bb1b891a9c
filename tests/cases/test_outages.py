"""Kafka away, for longer than a worker's health was ever patient; Kafkas of small limits; actions that have expired."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

from agents.clients import MIB, Connection
from deploy.kafka import QUICK_START, Broker
from deploy.loopback import free_port
from streams.times import instant_ms
from tests.faults.cluster import Record, alter_topic, bounds, create_topic, delete_records, read_topic, send_records
from tests.faults.harness import ForeshockProcess, WorkerProcess, write_config
from tests.faults.stream import START_MS, make_stream

OUTAGE_S = 75.0
MIDST_MS = 18 * 60_000


def fill(connection: Connection, n: int, seed: int) -> int:
    pairs = make_stream(n, seed, garbage=False).pairs
    send_records(connection, "inference", [Record(key=key, value=value) for key, value in pairs])
    return len(pairs)


def page(worker: WorkerProcess, path: str) -> tuple[int, str]:
    """Status and text, from the first moment on."""
    worker.until(lambda: "pages at " in worker.said)
    url = re.findall(r"pages at (\S+)", worker.said)[-1]
    try:
        with urllib.request.urlopen(url + path, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_no_worker_is_restarted_for_an_outage_and_all_go_on_after_it(tmp_path: Path) -> None:
    """One that reads when Kafka goes, and one that is started meanwhile: alive, not ready, on their pages."""
    with Broker.start(tmp_path / "kafka", jvm=QUICK_START) as broker:
        connection = Connection(broker=broker.bootstrap, prefix=f"out-{uuid4().hex[:6]}-")
        config = write_config(tmp_path / "worker", connection.prefix)
        create_topic(connection, "inference", 2)
        first = fill(connection, 4_000, 1)
        with (
            WorkerProcess(config, connection.broker) as reading,
            WorkerProcess(config, connection.broker, instance="two", log_name="two") as other,
        ):
            other.kill()
            reading.until(lambda: reading.books().get("read") == first)
            broker.kill()
            with WorkerProcess(config, connection.broker, instance="three", log_name="three") as late:
                until = time.monotonic() + OUTAGE_S
                while time.monotonic() < until:
                    for worker in (reading, late):
                        assert page(worker, "/health")[0] == 200, worker.said
                        assert page(worker, "/metrics")[0] == 200
                    time.sleep(2.0)
                for worker in (reading, late):
                    status, why = page(worker, "/ready")
                    assert status == 503 and connection.broker in why
                broker.restart()
                second = fill(connection, 4_000, 2)
                reading.until(lambda: reading.books().get("read", 0) + late.books().get("read", 0) >= second, 90)
                for worker in (reading, late):
                    worker.until(lambda worker=worker: page(worker, "/ready")[0] == 200, 90)
                    assert worker.terminate() == 0, worker.said
                    assert "Traceback" not in worker.said


def test_sigterm_in_the_midst_of_an_outage_is_an_end(tmp_path: Path) -> None:
    with Broker.start(tmp_path / "kafka", jvm=QUICK_START) as broker:
        connection = Connection(broker=broker.bootstrap, prefix=f"end-{uuid4().hex[:6]}-")
        config = write_config(tmp_path / "worker", connection.prefix)
        create_topic(connection, "inference", 2)
        fill(connection, 4_000, 1)
        with WorkerProcess(config, connection.broker) as worker:
            worker.until(lambda: page(worker, "/ready")[0] == 200)
            broker.kill()
            worker.until(lambda: page(worker, "/ready")[0] == 503)
            began = time.monotonic()
            assert worker.terminate(30) == 0, worker.said
            assert time.monotonic() - began < 22


def test_a_kafka_of_small_limits_is_used(connection: Connection, tmp_path: Path) -> None:
    """8 MiB for what is compacted and 1 MiB for the rest; lowered while it runs, and raised again."""
    config = write_config(tmp_path / "worker", connection.prefix)
    create_topic(connection, "inference", 2)
    for name, partitions in (("partials", 4), ("progress", 2), ("state", 4)):
        configs = {"cleanup.policy": "compact", "max.message.bytes": str(8 * MIB)}
        create_topic(connection, name, partitions, configs)
    for name in ("windows", "actions", "acks", "dead-letter"):
        create_topic(connection, name, 4, {"max.message.bytes": str(MIB)})
    first = fill(connection, 4_000, 1)
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: worker.books().get("read") == first)
        alter_topic(connection, "partials", {"max.message.bytes": "100"})
        second = fill(connection, 4_000, 2)
        worker.until(lambda: page(worker, "/ready")[0] == 503)
        assert "takes what is published" in page(worker, "/ready")[1] or "does not take" in page(worker, "/ready")[1]
        assert page(worker, "/health")[0] == 200
        alter_topic(connection, "partials", {"max.message.bytes": str(8 * MIB)})
        worker.until(lambda: worker.books().get("read") == first + second, 90)
        worker.until(lambda: page(worker, "/ready")[0] == 200, 60)
        assert worker.terminate() == 0, worker.said


class Alerts:
    """A server in the place of Alertmanager: what each request says is open."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []

    @contextmanager
    def serving(self) -> Iterator[str]:
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                alerts: list[dict[str, Any]] = json.loads(self.rfile.read(int(self.headers["content-length"])))
                later = datetime.now(UTC) + timedelta(minutes=1)
                lasting = [alert for alert in alerts if datetime.fromisoformat(alert["endsAt"]) > later]
                told.append(sorted(json.dumps([alert["labels"], alert["startsAt"]]) for alert in lasting))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_alert_lasts_as_long_as_its_incident(connection: Connection, tmp_path: Path) -> None:
    """A bridge that starts when `actions` has expired shows the same as one that read them."""
    config = write_config(tmp_path / "worker", connection.prefix)
    create_topic(connection, "inference", 2)
    # Of the stream the part up to the midst of its incident.
    pairs = make_stream(60_000, 3, garbage=False).pairs
    midst = next(at for at, (_, value) in enumerate(pairs) if event_ms(value) >= START_MS + MIDST_MS)
    sent = len(send_records(connection, "inference", [Record(key=key, value=value) for key, value in pairs[:midst]]))
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: page(worker, "/ready")[0] == 200)
        worker.until(lambda: worker.books().get("read") == sent and at_rest(worker), 120)
        assert worker.terminate() == 0, worker.said
    before = bridged(connection, config)
    delete_records(connection, "actions", {at: end for at, (_, end) in bounds(connection, "actions").items()})
    assert not read_topic(connection, "actions")
    assert before and bridged(connection, config) == before


def event_ms(value: bytes) -> int:
    return int(instant_ms(found)) if isinstance(found := json.loads(value)["ts"], str) else int(found)


def at_rest(worker: WorkerProcess) -> bool:
    """Whether something fires, and no pane was judged for a moment: what was published stands in `state` too."""
    judged = [worker.metric("foreshock_judged_until_timestamp_seconds")]
    for _ in range(3):
        time.sleep(1.0)
        judged.append(worker.metric("foreshock_judged_until_timestamp_seconds"))
    return worker.metric("foreshock_action_firing") > 0 and len(set(judged)) == 1


def bridged(connection: Connection, config: Path) -> list[str]:
    """The alerts that a bridge tells at its start."""
    alerts = Alerts()
    with alerts.serving() as url:
        command = ["alertmanager", "-c", str(config), "--broker", connection.broker, "--url", url]
        with ForeshockProcess(config.parent / "bridge.log", *command) as bridge:
            bridge.until(lambda: alerts.told)
            assert bridge.terminate() == 0, bridge.said
    return alerts.told[0]
