"""The table of ACLs in `docs/security.md`: it is enough, and whatever is taken away is missed in one clear line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aiohttp import web

from agents import alertmanager, delivery, topics, webhook
from agents.app import Worker
from agents.cli import cli
from agents.cli.options import connection
from agents.clients import OUTAGE, Connection
from agents.files import read_plan
from agents.follow import read_all
from agents.loader import Records
from agents.replay import generate
from agents.web_options import WebOptions
from streams.errors import BrokerError
from streams.window import Clock, WindowRecord
from tests import scenario
from tests.embedded.conftest import until
from tests.kafka.secured import Acl, Secured

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
ROW = re.compile(r"^\| ([a-z]+) \| (topic|group) \| ([a-z-]+) \| ([A-Z_ ]+) \|$", re.MULTILINE)


def listed() -> dict[str, list[Acl]]:
    """By component what it needs, without the prefix."""
    found: dict[str, list[Acl]] = {}
    for component, kind, name, operations in ROW.findall(DOCUMENT.read_text(encoding="utf-8")):
        found.setdefault(component, []).extend((kind, name, operation) for operation in operations.split())
    return found


ACLS = listed()
MINUTES = 11
CHUNK = 1_024
WITHIN_S = 60.0
MISSED_WITHIN_S = 20.0
DRAINED = ("ack", "actions", "ledger", "report")
"""Commands that end by themselves, on what a worker has left."""


class Site:
    """Topics of a prefix, and a configuration for each component, with a user of its name."""

    def __init__(self, secured: Secured, folder: Path) -> None:
        self.secured, self.folder = secured, folder
        self.events = 0
        self.prefix = f"a{uuid4().hex[:8]}-"
        self.operator = Connection(broker=secured.broker.bootstrap, prefix=self.prefix)
        text = scenario.write(folder, self.prefix).read_text(encoding="utf-8")
        text = re.sub(r"(?m)^    pane: ", "    idle: 5s\n    pane: ", text)  # only events are sent, of a past
        for user in ACLS:
            found = text.replace("kafka:\n", f"kafka:\n  security: {secured.scram(user)}\n", 1)
            found = re.sub(r"(?m)^  broker: .*$", f"  broker: {secured.sasl}\n  chunk_size: {CHUNK}", found)
            self.config(user).write_text(found, encoding="utf-8")

    def config(self, user: str) -> Path:
        return self.folder / f"{user}.yaml"

    def connection(self, user: str) -> Connection:
        return connection(read_plan(self.config(user)).config, None, False)

    def named(self, acls: list[Acl]) -> list[Acl]:
        return [(kind, self.prefix + name, operation) for kind, name, operation in acls]

    def allow(self, user: str, acls: list[Acl]) -> None:
        self.secured.allow(user, self.named(acls))

    async def fill(self, minutes: int, *more: bytes) -> None:
        """The first minutes of what others write, by those who may, and `more`."""
        end_ms = scenario.START_MS + minutes * scenario.MINUTE_MS
        rows = [row for row in scenario.stream()[0] if event_ms(row) < end_ms]
        topic = self.operator.topic("inference")
        await topics.create(self.operator, topic, 2)
        await generate(self.connection("produce"), topic, [(None, row) for row in (*rows, *more)])
        self.events = len(rows)

    def action_ids(self) -> list[str]:
        """Those of the actions that were published."""
        found: list[str] = []
        take = lambda records: found.extend(str(json.loads(record.value)["id"]) for record in records)  # noqa: E731
        asyncio.run(read_all(self.operator, take))
        return found

    def worker(self, **options: Any) -> Worker:
        return Worker(read_plan(self.config("worker")), self.connection("worker"), WebOptions(), **options)

    async def waiting_for(self, user: str, url: str) -> None:
        """`foreshock webhook` or `foreshock alertmanager`, which last until they are cancelled."""
        to = self.connection(user)
        if user == "webhook":
            await delivery.run(to, to.topic("foreshock-webhook"), webhook.Webhook(url, b"secret"))
        else:
            await alertmanager.run(to, url, {})

    def run(self, user: str, *arguments: str | Path) -> None:
        """`foreshock COMMAND`, in this process; SystemExit as it ends."""
        cli([user, "-c", str(self.config(user)), *map(str, arguments)], standalone_mode=False)


OPTIONS: dict[str, list[str]] = {
    "ack": ["--status", "seen", "--by", "somebody"],
    "report": ["--cadence", "monthly", "-o"],
}


def event_ms(row: bytes) -> int:
    return int(json.loads(row)["ts"])


@pytest.fixture(scope="module")
def site(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Where a worker has been."""
    made = Site(secured, tmp_path_factory.mktemp("site"))
    for user, acls in ACLS.items():
        made.allow(user, acls)
    asyncio.run(made.fill(MINUTES))
    asyncio.run(asyncio.wait_for(made.worker(drain=True).run(), WITHIN_S))
    return made


@asynccontextmanager
async def serving(heard: asyncio.Event) -> AsyncIterator[str]:
    """The address of a server that takes everything."""

    async def take(request: web.Request) -> web.Response:
        heard.set()
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/{path:.*}", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_what_the_table_lists_is_enough_for_the_worker(site: Site) -> None:
    """Every event that was produced is in a window."""
    events: dict[bytes, int] = {}

    def take(records: Records) -> None:
        for window in (msgspec.json.decode(record.value, type=WindowRecord) for record in records):
            if window.clock is Clock.EVENT and window.version is None and not window.segment:
                events[window.key] = window.counts["events"]

    asyncio.run(read_all(site.operator, take, "windows"))
    assert sum(events.values()) == site.events


@pytest.mark.parametrize("command", DRAINED)
def test_it_is_enough_for_a_command(site: Site, tmp_path: Path, command: str) -> None:
    site.run(command, *options(site, command, tmp_path))


@pytest.mark.parametrize("command", ["webhook", "alertmanager"])
def test_it_is_enough_for_a_consumer(site: Site, command: str) -> None:
    async def main() -> None:
        heard = asyncio.Event()
        async with serving(heard) as url:
            task = asyncio.create_task(site.waiting_for(command, url))
            await asyncio.wait_for(heard.wait(), WITHIN_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def options(site: Site, command: str, folder: Path) -> list[str]:
    """`ack` names an action that there is."""
    last = {"report": [str(folder)], "ack": site.action_ids()[:1]}.get(command, [])
    return [*OPTIONS.get(command, []), *last]


TAKEN = [(command, acl) for command in DRAINED for acl in ACLS[command] if acl[2] in ("READ", "WRITE")]


@pytest.mark.parametrize(("command", "acl"), TAKEN, ids=str)
def test_what_a_command_lacks_is_one_line(site: Site, tmp_path: Path, command: str, acl: Acl) -> None:
    """With nothing at all on the topic it may as well not exist; with DESCRIBE alone the line names the operation."""
    kind, name, operation = acl
    site.secured.take_away(command, site.named([acl]))
    try:
        with pytest.raises(BrokerError) as hidden:
            site.run(command, *options(site, command, tmp_path))
        site.allow(command, [(kind, name, "DESCRIBE")])
        with pytest.raises(BrokerError) as refused:
            site.run(command, *options(site, command, tmp_path))
    finally:
        site.secured.take_away(command, site.named([(kind, name, "DESCRIBE")]))
        site.allow(command, [acl])
    assert f"{site.prefix}{name}" in str(hidden.value) and "DESCRIBE on it is not allowed to us" in str(hidden.value)
    assert f"topic {site.prefix}{name}" in str(refused.value)
    assert re.search(f"{operation} .*is not allowed to us", str(refused.value))


LACKS: dict[Acl, str] = {
    ("topic", "state", "CREATE"): "neither DESCRIBE nor CREATE on it is allowed",
    ("topic", "windows", "DESCRIBE_CONFIGS"): "topic {}: its settings are not checked: DESCRIBE_CONFIGS",
    **{
        acl: f"{acl[2]} on {acl[0]} {{}} is not allowed"
        for acl in ACLS["worker"]
        if acl[2] in ("READ", "WRITE") and acl != ("topic", "actions", "READ")
    },
}
"""What the worker says; of CREATE and DESCRIBE_CONFIGS an example. Actions are read only after a change of the
configuration."""


@pytest.mark.parametrize("acl", LACKS, ids=str)
def test_what_the_worker_lacks_is_one_line(
    secured: Secured, tmp_path: Path, caplog: pytest.LogCaptureFixture, acl: Acl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the line, or it logs it and waits: the ACL may come."""
    kind, name, operation = acl
    assert acl in ACLS["worker"]
    site = Site(secured, tmp_path)
    rest = [item for item in ACLS["worker"] if item != acl]
    site.allow("worker", [*rest, *([(kind, name, "DESCRIBE")] if operation in ("READ", "WRITE") else [])])
    site.allow("produce", ACLS["produce"])
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(OUTAGE, "every_s", 0.0)
    wanted = LACKS[acl].format(site.prefix + name)

    async def main() -> str:
        await site.fill(MINUTES, b"no event")
        worker = site.worker(drain=True)
        task = asyncio.create_task(worker.run())
        await until(lambda: task.done() or wanted in caplog.text, MISSED_WITHIN_S)
        if worker.ready.is_set():
            worker.stop.set()
        else:
            task.cancel()
        (ended,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), WITHIN_S)
        return f"{ended}{caplog.text}"

    said = asyncio.run(main())
    assert wanted in said
