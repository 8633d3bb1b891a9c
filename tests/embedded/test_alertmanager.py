"""The bridge to Alertmanager, started anew when the actions topic has forgotten what is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import web

from agents import topics
from agents.alertmanager import run
from agents.clients import Connection
from agents.replay import generate
from streams.config import Model, Response, Rule
from streams.rule_state import RuleCell, RuleState
from streams.state import ModelState, pack_state
from tests.actions import HOUR_MS, action
from tests.embedded.conftest import until

RULES = tuple(Rule(name=name, signals=("null_rate",), response=Response.DATA_INCIDENT) for name in ("nulls", "other"))
MODELS = {"m": Model(rules=RULES)}


class Alerts:
    """A server in the place of Alertmanager."""

    def __init__(self) -> None:
        self.posts: list[list[dict[str, Any]]] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.posts.append(await request.json())
        return web.Response(text="{}")

    def names(self) -> list[set[str]]:
        return [{item["labels"]["alertname"] for item in post} for post in self.posts]


@asynccontextmanager
async def serving() -> AsyncIterator[Alerts]:
    alerts, app = Alerts(), web.Application()
    app.add_routes([web.post("/api/v2/alerts", alerts.take)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    alerts.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield alerts
    finally:
        await runner.cleanup()


@asynccontextmanager
async def bridging(connection: Connection, url: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(run(connection, url, MODELS))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def state(*rules: tuple[str, str | None, RuleState]) -> bytes:
    kept = {RuleCell(name, version, "", "").text: rule for name, version, rule in rules}
    return pack_state(ModelState(model="m", judged_until_ms=HOUR_MS, first_pane_ms=0, last_event_pane_ms=0, rules=kept))


def test_a_page_that_still_burns_stays_when_its_action_has_expired(connection: Connection, topic: str) -> None:
    """And one that was told, over by the log, suppressed, of a rule that is gone, or damaged, is none."""
    to = replace(connection, prefix=f"{topic}-")
    burning, quiet = RuleState(firing=True, since_ms=5 * HOUR_MS), RuleState(firing=False, since_ms=HOUR_MS)

    async def main() -> None:
        for name in ("state", "actions"):
            await topics.create(to, to.topic(name), 1)
        kept = state(
            ("nulls", "1", burning),
            ("other", "1", quiet),
            ("other", "2", RuleState(firing=True, suppressed_by="x")),
            ("gone", "1", burning),
        )
        for key, value in ((b"m", kept), (b"\0rollup/m", b"x"), (b"broken", b"{"), (b"m2", kept[:-1])):
            await generate(to, to.topic("state"), [(key, value)])
        # What the log has kept is of an earlier incident of the same rule: its end ends nothing.
        await generate(to, to.topic("actions"), [(b"m", msgspec.json.encode(action("r", 3)))])
        async with serving() as alerts:
            async with bridging(to, alerts.url):
                await until(lambda: alerts.posts)
            assert alerts.names() == [{"nulls"}]
            (alert,) = alerts.posts[0]
            assert alert["startsAt"] == "1970-01-01T05:00:00Z"
            assert alert["labels"]["response"] == "data_incident"
            over = msgspec.structs.replace(
                action("r", 6), data=msgspec.structs.replace(action("r", 6).data, since="1970-01-01T05:00:00Z")
            )
            async with bridging(to, alerts.url):
                await until(lambda: len(alerts.posts) > 1)
                await generate(to, to.topic("actions"), [(b"m", msgspec.json.encode(over))])
                await until(lambda: len(alerts.posts) > 2)
                await generate(to, to.topic("actions"), [(b"m", msgspec.json.encode(action("f", 8, "other")))])
                await until(lambda: len(alerts.posts) > 3)
            assert alerts.posts[2][0]["endsAt"] < alerts.posts[1][0]["endsAt"], "it is told that it is over"
            assert alerts.names()[2:] == [{"nulls"}, {"other"}], "and told once"

    asyncio.run(main())
