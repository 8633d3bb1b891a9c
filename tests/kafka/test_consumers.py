"""The consumers that come along, killed at random moments on Apache Kafka: one effect for every action id.

Actions are published with repeats of the same ids, as a worker publishes them that was restarted. The moments come from
a seed: some fall before the other side has answered, some just after.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aiohttp import web

from agents import topics
from agents.clients import Connection
from agents.replay import generate
from deploy.kafka import Broker
from streams.action import Action, State
from streams.events import time_ms
from tests.actions import action
from tests.embedded.conftest import until

SCRIPT = Path(__file__).parents[2] / "examples" / "start_retraining.py"
PARTITIONS = 3
WITHIN_S = 60.0
SOON_S = 0.02
SEED = random.SystemRandom().randrange(10**6)


@pytest.fixture
def drawn() -> random.Random:
    print(f"seed {SEED}")  # shown when a test fails
    return random.Random(SEED)


class Site:
    """A configuration, its topic of actions, and the commands that read it."""

    def __init__(self, kafka: Broker, folder: Path) -> None:
        prefix = f"c{uuid4().hex[:8]}-"
        self.folder, self.config = folder, folder / "foreshock.yaml"
        self.config.write_text(f"kafka: {{prefix: {prefix}, broker: '{kafka.bootstrap}'}}\nmodels: {{m: {{}}}}\n")
        self.connection = Connection(broker=kafka.bootstrap, prefix=prefix)
        self.topic = self.connection.topic("actions")
        asyncio.run(topics.create(self.connection, self.topic, PARTITIONS))

    async def publish(self, *actions: Action) -> None:
        """An incident stays in its partition."""
        pairs = [(item.data.rule.encode(), msgspec.json.encode(item)) for item in actions]
        await generate(self.connection, self.topic, pairs)

    @contextmanager
    def started(self, command: str, *options: str, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
        """`foreshock COMMAND`; gone at the end, whatever happened."""
        line = [sys.executable, "-m", "agents", command, "-c", str(self.config), *options]
        with (self.folder / "log").open("ab") as log, ended(subprocess.Popen(line, stderr=log, **how)) as process:
            yield process

    def said(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def site(kafka: Broker, tmp_path: Path) -> Site:
    return Site(kafka, tmp_path)


def repeated(story: Sequence[Action], drawn: random.Random) -> list[Action]:
    """Now and then a stretch of what was published last once more."""
    told: list[Action] = []
    for number, item in enumerate(story):
        told.append(item)
        if drawn.random() < 0.2:
            told += story[max(0, number - drawn.randrange(5)) : number + 1]
    return told


class Other:
    """The other side of a consumer: takes its requests, and kills it at some of them."""

    def __init__(self, drawn: random.Random, kills: Sequence[int]) -> None:
        self.drawn, self.kills = drawn, set(kills)
        self.requests = self.killed = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def took(self, request: web.Request, body: bytes) -> None:
        raise NotImplementedError

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.took(request, body)
        self.requests += 1
        if self.requests in self.kills and self.process is not None:
            if self.drawn.random() < 0.5:
                self.process.kill()
            else:
                asyncio.get_running_loop().call_later(self.drawn.random() * SOON_S, self.process.kill)
        return web.Response()

    @asynccontextmanager
    async def serving(self, path: str) -> AsyncIterator[None]:
        app = web.Application()
        app.add_routes([web.post(path, self.take)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    async def over_restarts(self, start: Callable[[], Any], condition: Callable[[], bool]) -> None:
        """Starts the consumer as often as it is killed, until the condition holds."""
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            with start() as process:
                self.process = process
                await until(partial(is_over, process, condition), deadline - time.monotonic())
            self.killed += 1


def is_over(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> bool:
    return process.poll() is not None or condition()


class Receiver(Other):
    """Keeps what was sent, by the id that Standard Webhooks gives it."""

    def __init__(self, drawn: random.Random, kills: Sequence[int]) -> None:
        super().__init__(drawn, kills)
        self.bodies: dict[str, bytes] = {}
        self.times: Counter[str] = Counter()

    def took(self, request: web.Request, body: bytes) -> None:
        webhook_id = request.headers["webhook-id"]
        self.times[webhook_id] += 1
        assert self.bodies.setdefault(webhook_id, body) == body


def test_a_webhook_that_is_killed_sends_every_action_and_repeats_none_but_the_one_on_its_way(
    site: Site, drawn: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "a secret of some length")
    story = [action(letter, hour, f"r{number}") for number in range(16) for hour, letter in ((1, "f"), (2, "r"))]
    story += [action("s", 1, "held")]
    later = [action("f", 3, f"s{number}") for number in range(9)]
    wanted = {item.id for item in story if item.data.state is not State.SUPPRESSED}
    kills = sorted(drawn.sample(range(1, len(wanted)), 4))

    async def main() -> Receiver:
        receiver = Receiver(drawn, kills)
        async with receiver.serving("/hook"):
            options = ("--url", f"{receiver.url}/hook", "--secret-env", "HOOK_SECRET", "--instance", "one")
            await site.publish(*repeated(story, drawn))
            await receiver.over_restarts(
                lambda: site.started("webhook", *options), lambda: wanted <= set(receiver.times)
            )
            await site.publish(*drawn.sample(story, 8), *later)
            await receiver.over_restarts(
                lambda: site.started("webhook", *options),
                lambda: {item.id for item in later} <= set(receiver.times),
            )
        return receiver

    receiver = asyncio.run(main())
    assert set(receiver.times) == wanted | {item.id for item in later}
    assert receiver.killed > 1, "kills that are near to each other may fall together"
    repeats = sum(receiver.times.values()) - len(receiver.times)
    assert repeats <= PARTITIONS * (
        receiver.killed - 1
    )  # what was on its way of each when it was killed; not the last time
    assert "Traceback" not in site.said()


class Alerts(Other):
    """An Alertmanager as far as its API goes: an alert is its labels, and lasts until its end."""

    def __init__(self, drawn: random.Random, kills: Sequence[int]) -> None:
        super().__init__(drawn, kills)
        self.began: dict[str, set[str]] = {}
        self.ends_ms: dict[str, int] = {}

    def took(self, request: web.Request, body: bytes) -> None:
        for alert in msgspec.json.decode(body):
            rule = alert["labels"]["alertname"]
            self.began.setdefault(rule, set()).add(alert["startsAt"])
            self.ends_ms[rule] = time_ms(alert["endsAt"])

    @property
    def open(self) -> set[str]:
        now_ms = time.time() * 1000
        return {rule for rule, ends_ms in self.ends_ms.items() if ends_ms > now_ms}


def test_alerts_of_a_consumer_that_is_killed_rise_and_clear_once_for_each_incident(
    site: Site, drawn: random.Random
) -> None:
    rules = [f"r{number}" for number in range(12)]
    rising = [action("f", 1, rule) for rule in rules]
    over = drawn.sample(rules, 7)
    clearing = [action("r", 2, rule) for rule in over]

    async def main() -> Alerts:
        alerts = Alerts(drawn, [1, 2, 4])
        async with alerts.serving("/api/v2/alerts"):
            start = lambda: site.started("alertmanager", "--url", alerts.url)  # noqa: E731
            await site.publish(*repeated(rising, drawn))
            await alerts.over_restarts(start, lambda: alerts.open == set(rules) and alerts.requests > 2)
            await site.publish(*repeated(clearing, drawn))
            await alerts.over_restarts(start, lambda: alerts.open == set(rules) - set(over) and alerts.requests > 4)
        return alerts

    alerts = asyncio.run(main())
    assert alerts.killed > 1
    assert all(len(began) == 1 for began in alerts.began.values())
    assert "Traceback" not in site.said()


JOB = """
cd "$0"
echo "$FORESHOCK_ACTION_ID $FORESHOCK_ATTEMPT" >> runs
mkdir running || echo overlap >> overlaps
sleep 0.03
mkdir "models/$FORESHOCK_ACTION_ID" || echo "$FORESHOCK_ACTION_ID" >> found
rmdir running
"""
"""Registers a model under the action's id, which works once."""


def test_a_retraining_job_is_done_once_for_each_action_and_only_the_one_that_was_cut_off_is_repeated(
    site: Site, drawn: random.Random
) -> None:
    def retrain(letter: str, rule: str) -> Action:
        item = action(letter, 1, rule)
        return msgspec.structs.replace(item, data=msgspec.structs.replace(item.data, action="retrain"))

    story = [retrain("f", f"r{number}") for number in range(16)]
    asyncio.run(site.publish(*repeated([*story, retrain("r", "r1"), action("f", 1, "other")], drawn)))
    (site.folder / "models").mkdir()
    runs = site.folder / "runs"
    runs.touch()

    def count() -> int:
        return len(runs.read_text().splitlines())

    cut_off = []
    for kill_at in [*sorted(drawn.sample(range(1, len(story)), 3)), None]:
        with site.started("actions", "--follow", "--json", stdout=subprocess.PIPE) as reader:
            command = [
                sys.executable,
                str(SCRIPT),
                str(site.folder / "journal"),
                "--",
                "sh",
                "-c",
                JOB,
                str(site.folder),
            ]
            with ended(subprocess.Popen(command, stdin=reader.stdout)) as starter:
                if kill_at is None:
                    wait_for(lambda: (site.folder / "journal").read_text().count("done") == len(story))
                else:
                    wait_for(lambda at=kill_at: count() >= at)
                    time.sleep(drawn.random() * SOON_S)
                    starter.kill()
                    cut_off.append(runs.read_text().split()[-2])
    attempts = Counter(line.split()[0] for line in runs.read_text().splitlines())
    assert {item.id for item in story} == set(attempts) == {model.name for model in (site.folder / "models").iterdir()}
    repeated_jobs = {action_id for action_id, times in attempts.items() if times > 1}
    assert repeated_jobs <= set(cut_off)
    assert sum(attempts.values()) <= len(story) + len(cut_off)
    assert not (site.folder / "overlaps").exists()
    assert "Traceback" not in site.said()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
