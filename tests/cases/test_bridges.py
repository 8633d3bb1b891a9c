"""`foreshock webhook` and `alertmanager` while they are killed, stopped and restarted, and their receivers misbehave.

The oracle reads the actions log as plain JSON: which ids have to arrive, in which order, and which incidents are open.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook as Judge

from agents.clients import Connection
from tests.actions import action
from tests.faults.cluster import Record, create_topic, read_topic, send_records
from tests.faults.harness import ForeshockProcess, write_config

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MODELS = ("shop", "bank", "fraud")
STEPS = 14
IncidentKey = tuple[str, str, str]


# --- The oracle


def open_by(log: list[dict[str, Any]]) -> dict[IncidentKey, str]:
    """The incidents that are open after a log of actions, and the id of the last action of each."""
    found: dict[IncidentKey, str] = {}
    for item in log:
        data = item["data"]
        key = (data["model"], data["rule"], json.dumps(data["segment"]))
        if data["state"] == "firing":
            found[key] = item["id"]
        else:
            found.pop(key, None)
    return found


# --- A stream of actions


class Incidents:
    """Incidents of some rules and segments that begin, widen, end, or are suppressed, as drawn."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.hour = rng, 0
        self.firing: set[tuple[str, str, tuple[str, str]]] = set()

    def some(self, number: int) -> list[Record]:
        """Records for the actions topic."""
        return [self._next() for _ in range(number)]

    def _next(self) -> Record:
        rng, model = self.rng, self.rng.choice(MODELS)
        rule, segment = rng.choice(("nulls", "slow", "drift")), rng.choice((("", ""), ("region", "north")))
        place = (model, rule, segment)
        letter = rng.choice("rrw" if place in self.firing else "fffs")
        self.firing = self.firing - {place} if letter == "r" else self.firing | ({place} if letter == "f" else set())
        self.hour += 1
        made = action(letter, self.hour, rule, segment)
        data = msgspec.structs.replace(made.data, model=model)
        named = msgspec.structs.replace(made, subject=model, id=f"{model}-{self.hour}", data=data)
        return Record(key=model.encode(), value=msgspec.json.encode(named))


# --- Receivers


class Receiver:
    """An address that takes what is posted, or, while it is `rude`, answers 503, too late, or not at all."""

    def __init__(self, rng: random.Random, take: Callable[[dict[str, str], bytes], None]) -> None:
        self.rng, self.take, self.rude = rng, take, False
        self.lock = threading.Lock()

    @contextmanager
    def serving(self) -> Iterator[str]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with receiver.lock:
                    mood = receiver.rng.choice(("take", "503", "slow", "close")) if receiver.rude else "take"
                if mood == "slow":
                    time.sleep(1.5)
                if mood in ("503", "close"):
                    if mood == "503":
                        self.send_response(503)
                        self.end_headers()
                    return
                with receiver.lock:
                    receiver.take({name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class Hooks:
    """What the webhook was told, in the order in which it was accepted."""

    def __init__(self) -> None:
        self.accepted: list[str] = []

    def take(self, headers: dict[str, str], body: bytes) -> None:
        assert Judge(SECRET).verify(body, headers)["id"] == headers["webhook-id"]
        self.accepted.append(headers["webhook-id"])

    def first(self, model: str) -> list[str]:
        """Ids of a model by when they were first accepted."""
        return [found for found in dict.fromkeys(self.accepted) if found.startswith(f"{model}-")]


class Alerts:
    """What an Alertmanager knows: by the labels of an alert, when it ends and its annotations."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}

    def take(self, headers: dict[str, str], body: bytes) -> None:
        for alert in json.loads(body):
            self.known[json.dumps(alert["labels"], sort_keys=True)] = alert

    def open(self) -> dict[IncidentKey, str]:
        """Those that last, by what they are about; and the id of the action that each shows."""
        now, found = datetime.now(UTC), dict[IncidentKey, str]()
        for alert in list(self.known.values()):
            if datetime.fromisoformat(alert["endsAt"]) > now:
                labels = alert["labels"]
                segment = {name[8:]: value for name, value in labels.items() if name.startswith("segment_")}
                key = (labels["model"], labels["alertname"], json.dumps(segment or None))
                found[key] = alert["annotations"]["action_id"]
        return found


# --- The schedule


class Bridge:
    """A bridge as a process that is started again whenever a fault has ended it."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log, self.arguments = log, arguments
        self.process = ForeshockProcess(log, *arguments, environment={"HOOK_SECRET": SECRET})

    def disturb(self, rng: random.Random) -> None:
        """Kills it, ends it, or has it stand still for a moment."""
        match rng.choice(("kill", "end", "freeze", "none")):
            case "kill":
                self.process.kill()
            case "end":
                code = self.process.terminate(30)  # before Python has begun to run it, nothing handles a signal
                assert code == 0 or (code == -signal.SIGTERM and not self.process.said), self.process.said
            case "freeze":
                self.process.signal(signal.SIGSTOP)
                time.sleep(1.0)
                self.process.signal(signal.SIGCONT)
        self.start()

    def start(self) -> None:
        """Starts it again if a fault has ended it."""
        if self.process.process.poll() is not None:
            self.process = ForeshockProcess(self.log, *self.arguments, environment={"HOOK_SECRET": SECRET})


@pytest.mark.parametrize("seed", [1, 2])
def test_every_action_arrives_and_what_is_open_is_shown(connection: Connection, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    config = write_config(tmp_path / "bridges", connection.prefix)
    for name, partitions in (("actions", 3), ("state", 1)):
        create_topic(connection, name, partitions)
    incidents, hooks, alerts = Incidents(rng), Hooks(), Alerts()
    receivers = Receiver(random.Random(seed), hooks.take), Receiver(random.Random(-seed), alerts.take)
    common = ["-c", str(config), "--broker", connection.broker]
    with ExitStack() as stack:
        hook_url, alert_url = (stack.enter_context(receiver.serving()) for receiver in receivers)
        bridges = [
            Bridge(
                tmp_path / "hook.log",
                *("webhook", *common, "--url", f"{hook_url}/hook", "--secret-env", "HOOK_SECRET", "--timeout", "1"),
            ),
            Bridge(tmp_path / "alerts.log", "alertmanager", *common, "--url", alert_url),
        ]
        for bridge in bridges:
            stack.callback(lambda bridge=bridge: bridge.process.end())
        for _ in range(STEPS):
            for receiver in receivers:
                receiver.rude = rng.random() < 0.4
            send_records(connection, "actions", incidents.some(rng.randint(0, 6)))
            time.sleep(rng.uniform(0.2, 1.5))
            rng.choice(bridges).disturb(rng)
        for receiver in receivers:
            receiver.rude = False
        send_records(connection, "actions", incidents.some(3))
        log = [json.loads(record.value) for record in read_topic(connection, "actions") if record.value]
        due = [item for item in log if item["data"]["state"] != "suppressed"]
        bridges[0].process.until(lambda: {item["id"] for item in due} <= set(hooks.accepted), 60)
        bridges[1].process.until(lambda: alerts.open() == open_by(log), 60)
        for bridge in bridges:
            assert bridge.process.terminate(30) == 0, bridge.process.said
    assert len(due) > 15 and set(hooks.accepted) == {item["id"] for item in due}
    for model in MODELS:
        assert hooks.first(model) == [item["id"] for item in due if item["data"]["model"] == model]
    assert alerts.open() == open_by(log)
