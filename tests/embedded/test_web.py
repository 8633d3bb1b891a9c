"""`agents/web.py`: what a client gets, with and without a token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from agents.web import Web
from streams.errors import ForeshockError

Visit = Callable[[aiohttp.ClientSession, str], Awaitable[None]]


def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("foreshock_records_total", "Records read.", registry=made).inc(3)
    return made


def visit(visitor: Visit, *, healthy: bool = True, **settings: Any) -> None:
    async def main() -> None:
        web = Web(registry(), lambda: (healthy, {"lag": 7}), **settings)
        async with web, aiohttp.ClientSession() as session:
            await visitor(session, web.url)

    asyncio.run(main())


def test_metrics_are_what_prometheus_reads() -> None:
    async def visitor(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
        assert families["foreshock_records"].samples[0].value == 3

    visit(visitor)


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_ready_is_a_status(ready: bool, status: int) -> None:
    async def visitor(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/ready") as answer:
            assert answer.status == status

    visit(visitor, ready=lambda: "" if ready else "waits", token="secret")


def test_ready_says_no_control_character() -> None:
    async def visitor(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/ready") as answer:
            assert await answer.text() == "not ready: Kafka at \\x1b[31m\\u202e x\n"

    visit(visitor, ready=lambda: "Kafka at \x1b[31m\u202e\nx")


@pytest.mark.parametrize(("healthy", "status", "word"), [(True, 200, "ok"), (False, 503, "failing")])
def test_health_is_a_status_and_what_there_is_to_tell(healthy: bool, status: int, word: str) -> None:
    async def visitor(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/health") as answer:
            assert answer.status == status
            assert await answer.json() == {"status": word, "lag": 7}

    visit(visitor, healthy=healthy)


def test_the_index_leads_to_the_rest_and_there_is_nothing_else() -> None:
    async def visitor(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(url) as answer:
            page = await answer.text()
            assert answer.content_type == "text/html"
            assert "/metrics" in page and "/health" in page and "a &lt;b&gt;" in page
        for path in ("/nothing", "/table", "/router", "/metrics/x"):
            async with session.get(url + path) as answer:
                assert answer.status == 404
        async with session.post(f"{url}/metrics") as answer:
            assert answer.status == 405

    visit(visitor, title="a <b>")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic s3cret"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer \xe9"}, 401),
        ({"Authorization": "Bearer s3cret"}, 200),
        ({"Authorization": "bearer s3cret"}, 200),
    ],
)
def test_with_a_token_only_the_status_is_open(header: dict[str, str], status: int) -> None:
    async def visitor(session: aiohttp.ClientSession, url: str) -> None:
        for path in ("/metrics", "/"):
            async with session.get(url + path, headers=header) as answer:
                assert answer.status == status
        async with session.get(f"{url}/nothing", headers=header) as answer:
            assert answer.status == (401 if status == 401 else 404)
        async with session.get(f"{url}/health", headers=header) as answer:
            assert answer.status == 200
            assert await answer.json() == {"status": "ok"} | ({"lag": 7} if status == 200 else {})

    visit(visitor, token="s3cret")


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    async def visitor(session: aiohttp.ClientSession, url: str) -> None:
        assert url.startswith("http://127.0.0.1:") and not url.endswith(":0")

    visit(visitor)


def test_a_port_in_use_is_one_line() -> None:
    async def main() -> None:
        async with Web(registry(), lambda: (True, {})) as first:
            with pytest.raises(ForeshockError, match="in use") as caught:
                await Web(registry(), lambda: (True, {}), port=first.port).start()
            assert str(first.port) in str(caught.value) and "\n" not in str(caught.value)
        async with Web(registry(), lambda: (True, {}), port=first.port):  # free again
            pass

    asyncio.run(main())
