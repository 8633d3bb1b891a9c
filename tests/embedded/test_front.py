"""The pages under those who ask too much, say nothing, or read nothing: by real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from agents import logs
from agents.app import Worker
from agents.clients import Connection
from agents.front import MAX_HEAD_BYTES, connection_limit, raise_file_limit
from agents.web import Web
from agents.web_options import WebOptions
from streams.configure import load
from streams.plan import compile_plan
from tests.embedded.conftest import until

HOSTILE = 'v\x1b[2J\u202e"\n\\\x9b'


class Costly(Collector):
    """A page of some size whose collection takes time, and which counts how often it is asked."""

    def __init__(self, series: int = 2_000, cost_s: float = 0.2) -> None:
        self.series, self.cost_s, self.asked = series, cost_s, 0

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        self.asked += 1
        family = GaugeMetricFamily("foreshock_x", "X.", labels=["model", "number"])
        time.sleep(self.cost_s)
        for number in range(self.series):
            family.add_metric([HOSTILE, str(number)], number)
        yield family


@asynccontextmanager
async def pages(collector: Collector | None = None, **settings: Any) -> AsyncIterator[Web]:
    registry = CollectorRegistry()
    registry.register(collector or Costly(1, 0))
    async with Web(registry, lambda: (True, {}), **settings) as web:
        yield web


async def opened(web: Web) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(web.host, web.port)


async def asked(web: Web, path: str = "/health") -> tuple[int, bytes]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(web.url + path) as answer:
        return answer.status, await answer.read()


def test_two_hundred_scrapes_at_once_cost_one_and_leave_the_loop_to_others() -> None:
    async def main() -> None:
        collector = Costly()
        async with pages(collector) as web:
            longest_s = 0.0

            async def heartbeat() -> None:
                nonlocal longest_s
                while True:
                    before = time.monotonic()
                    await asyncio.sleep(0.01)
                    longest_s = max(longest_s, time.monotonic() - before)

            beating = asyncio.create_task(heartbeat())
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:

                async def scrape() -> bytes:
                    async with session.get(f"{web.url}/metrics") as answer:
                        assert answer.status == 200
                        return await answer.read()

                found = await asyncio.gather(*(scrape() for _ in range(200)))
            beating.cancel()
            assert len(set(found)) <= collector.asked <= 4
            assert longest_s < 2.0, "two hundred collections take 40 s"
            (family,) = text_string_to_metric_families(found[0].decode())
            assert [sample.value for sample in family.samples] == list(range(collector.series))

    asyncio.run(main())


def test_a_label_says_no_control_character() -> None:
    async def main() -> None:
        async with pages() as web:
            _, page = await asked(web, "/metrics")
        text = page.decode()
        assert all(char.isprintable() or char == "\n" for char in text) and "\u202e" not in text
        (family,) = text_string_to_metric_families(text)
        assert family.samples[0].labels["model"] == 'v\\x1b[2J\\u202e"\n\\\\x9b'

    asyncio.run(main())


def test_a_page_that_fails_fails_for_those_who_asked_and_not_for_ever() -> None:
    class Broken(Costly):
        def collect(self) -> Iterator[Metric]:
            if not self.asked:
                self.asked += 1
                raise RuntimeError("once")
            yield from super().collect()

    async def main() -> None:
        async with pages(Broken(1, 0)) as web:
            assert (await asked(web, "/metrics"))[0] == 500
            assert (await asked(web, "/metrics"))[0] == 200

    asyncio.run(main())


def test_health_is_answered_beside_a_thousand_connections_that_say_nothing() -> None:
    raise_file_limit()

    async def main() -> None:
        async with pages(head_within_s=60.0) as web:
            half_open = []
            for _ in range(1_100):
                connection = await opened(web)
                connection[1].write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
                half_open.append(connection)
            for path in ("/health", "/ready", "/metrics"):
                assert (await asked(web, path))[0] == 200
            assert web._front is not None and len(web._front.waiting) <= connection_limit()
            for _, writer in half_open:
                writer.close()

    asyncio.run(main())


def test_health_is_answered_beside_those_who_ask_and_do_not_read() -> None:
    async def main() -> None:
        async with pages(Costly(100_000, 0)) as web:
            slow = []
            for _ in range(connection_limit() + 20):
                reader, writer = await opened(web)
                reader._transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                slow.append(writer)
            assert (await asked(web))[0] == 200
            for writer in slow:
                writer.transport.abort()

    asyncio.run(main())


@pytest.mark.parametrize("head", [b"", b"GET /health HTTP/1.1\r\nX-A: "])
def test_a_head_that_does_not_end_is_not_waited_for(head: bytes) -> None:
    async def main() -> None:
        async with pages(head_within_s=0.3) as web:
            reader, writer = await opened(web)
            writer.write(head)
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert 0.1 < time.monotonic() - began < 3
            assert web._front is not None and not web._front.waiting

    asyncio.run(main())


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /metrics?\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n\x1b[31m\x9b: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nA" + b"\x00" * 900 + b": b\r\n\r\n",
        b"\x1b\x9b\x00\r\n\r\n",
    ],
)
def test_a_request_that_is_no_http_is_refused_in_one_line(request_: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> bytes:
        async with pages() as web:
            reader, writer = await opened(web)
            writer.write(request_)
            return await reader.read()

    logs.to_stderr(logs.Form.TEXT)
    answer = asyncio.run(main())
    lines = [line for line in capsys.readouterr().err.splitlines() if "[^Web]" not in line]
    assert answer.split(b" ")[1:2] in ([], [b"400"])
    assert len(lines) <= 1 and all("pages: refused with 400" in line and len(line) < 400 for line in lines)
    assert all(line.isprintable() for line in (*lines, *answer.decode().splitlines()))


def test_a_head_without_end_is_refused() -> None:
    async def main() -> None:
        async with pages() as web:
            reader, writer = await opened(web)
            writer.write(b"GET /health HTTP/1.1\r\nX-A: " + b"a" * MAX_HEAD_BYTES)
            assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
            assert (await reader.read()).endswith(b"\r\n\r\n")

    asyncio.run(main())


def test_an_exchange_that_does_not_end_is_cut_off() -> None:
    async def main() -> None:
        async with pages(Costly(50_000, 0), whole_within_s=1.5) as web:
            reader, writer = await opened(web)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: web._front is not None and web._front.serving)
            await until(lambda: not web._front.serving)  # type: ignore[union-attr]
            writer.close()

    asyncio.run(main())


def test_a_head_in_pieces_is_served_and_the_connection_ends() -> None:
    async def main() -> None:
        async with pages() as web:
            reader, writer = await opened(web)
            for piece in (b"GET /health HT", b"TP/1.1\r\nHost: x\r", b"\n\r", b"\n"):
                writer.write(piece)
                await asyncio.sleep(0.02)
            answer = await asyncio.wait_for(reader.read(), 5)  # to its end: it is closed
            assert answer.startswith(b"HTTP/1.1 200 OK") and b"Connection: close" in answer

    asyncio.run(main())


def test_a_worker_without_a_broker_answers_on_its_pages() -> None:
    """Alive, not ready, and why."""
    plan = compile_plan(load("models: {m: {features: {a: {type: numeric}}}}"), {})

    async def main() -> None:
        worker = Worker(plan, Connection(broker="127.0.0.1:1"), WebOptions())
        task = asyncio.create_task(worker.run())
        await until(lambda: hasattr(worker, "web") and worker.web.port and "127.0.0.1:1" in worker._not_ready())
        status, health = await asked(worker.web)
        assert status == 200 and "Kafka at 127.0.0.1:1" in json.loads(health)["waits"]
        status, why = await asked(worker.web, "/ready")
        assert status == 503 and b"Kafka at 127.0.0.1:1" in why
        status, page = await asked(worker.web, "/metrics")
        assert status == 200 and b"foreshock_worker_info" in page
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
