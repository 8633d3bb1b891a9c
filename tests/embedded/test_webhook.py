"""Actions over HTTP: signed, each accepted once, whatever the network, the address and the process do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from agents import topics
from agents.address import check_address
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.replay import generate
from agents.webhook import Webhook, deliver, run
from streams.action import Action
from streams.errors import ConfigError
from tests.actions import action
from tests.embedded.conftest import until
from tests.embedded.test_commands import foreshock, one_line

SECRET = b"a secret of some length"
Answer = Callable[[int], int]
"""Number of the request, from 0 → status."""


class Receiver:
    """A server that keeps what it was sent."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.accepted: list[str] = []
        self._answer = answer
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        headers, body = {key.lower(): value for key, value in request.headers.items()}, await request.read()
        status = self._answer(len(self.requests))
        self.requests.append((headers, body))
        if status < 300:
            self.accepted.append(headers["webhook-id"])
        return web.Response(status=status, headers={"location": "http://127.0.0.1:1/"} if status == 302 else None)


@asynccontextmanager
async def receiving(answer: Answer = lambda number: 200) -> AsyncIterator[Receiver]:
    receiver, app = Receiver(answer), web.Application()
    app.add_routes([web.post("/hook", receiver.take)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def delivering(connection: Connection, target: Webhook, group: str) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.create_task(run(connection, group, target))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def to(broker: EmbeddedBroker, topic: str) -> Connection:
    return Connection(broker=broker.bootstrap, prefix=f"{topic}-", embedded=True)


async def publish(to: Connection, *actions: Action) -> None:
    await generate(to, to.topic("actions"), [(b"m", msgspec.json.encode(item)) for item in actions])


STORY = [action("f", 1), action("w", 2), action("r", 3), action("f", 4, "other")]


def test_every_action_is_sent_once_and_signed(to: Connection) -> None:
    async def main() -> None:
        await topics.create(to, to.topic("actions"), 1)
        async with receiving() as receiver:
            async with delivering(to, Webhook(receiver.url, SECRET), "a"):
                await publish(to, *STORY, action("s", 5, "held"), *STORY[:2])  # suppressed, and published again
                await publish(to, action("r", 6, "other"))
                await until(lambda: len(receiver.accepted) == 4)
            assert receiver.accepted == [item.id for item in (STORY[0], STORY[2], STORY[3], action("r", 6, "other"))]
            headers, body = receiver.requests[0]
            assert msgspec.json.decode(body, type=Action) == STORY[0]
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
            assert headers["webhook-signature"] == f"v1,{expected}"
            assert SECRET.decode() not in str(receiver.requests)

    asyncio.run(main())


@pytest.mark.parametrize("status", [503, 429])
def test_what_is_not_taken_now_is_tried_again_in_order(to: Connection, status: int) -> None:
    async def main() -> None:
        await topics.create(to, to.topic("actions"), 1)
        async with receiving(lambda number: status if number < 2 else 204) as receiver:
            async with delivering(to, Webhook(receiver.url, SECRET), "a"):
                await publish(to, STORY[0], STORY[2])
                await until(lambda: len(receiver.accepted) == 2)
            sent = [headers["webhook-id"] for headers, _ in receiver.requests]
            assert sent == [STORY[0].id] * 3 + [STORY[2].id]

    asyncio.run(main())


@pytest.mark.parametrize("status", [400, 302])
def test_what_will_never_be_taken_is_told_and_does_not_hold_up_the_rest(
    to: Connection, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await topics.create(to, to.topic("actions"), 1)
        async with receiving(lambda number: status if number == 0 else 200) as receiver:
            async with delivering(to, Webhook(receiver.url, SECRET), "a"):
                await generate(to, to.topic("actions"), [(b"m", b"no action")])
                await publish(to, STORY[0], STORY[2])
                await until(lambda: len(receiver.accepted) == 1)
            assert receiver.accepted == [STORY[2].id]

    asyncio.run(main())
    assert (
        f"was refused by the webhook with {status}" in caplog.text and "a record of 9 bytes is no action" in caplog.text
    )
    assert SECRET.decode() not in caplog.text and SECRET.decode() not in repr(Webhook("http://localhost", SECRET))


def test_a_restart_goes_on_after_the_last_action_that_was_accepted(to: Connection) -> None:
    """What is published again meanwhile is known by its id."""

    async def main() -> None:
        await topics.create(to, to.topic("actions"), 1)
        async with receiving() as receiver:
            async with delivering(to, Webhook(receiver.url, SECRET), "a"):
                await publish(to, STORY[0], STORY[2])
                await until(lambda: len(receiver.accepted) == 2)
                await asyncio.sleep(0)
            await publish(to, STORY[0], STORY[2], STORY[3])
            async with delivering(to, Webhook(receiver.url, SECRET), "a"):
                await until(lambda: STORY[3].id in receiver.accepted)
            assert receiver.accepted == [STORY[0].id, STORY[2].id, STORY[3].id]

    asyncio.run(main())


def test_a_crash_after_the_answer_repeats_the_id(to: Connection) -> None:
    async def main() -> None:
        await topics.create(to, to.topic("actions"), 1)
        crashed = asyncio.Event()
        async with receiving(lambda number: crashed.set() or 200) as receiver:  # type: ignore[func-returns-value]
            async with delivering(to, Webhook(receiver.url, SECRET), "a") as task:
                await publish(to, STORY[0])
                await until(crashed.is_set)
                task.cancel()
            async with delivering(to, Webhook(receiver.url, SECRET), "a"):
                await publish(to, STORY[3])
                await until(lambda: STORY[3].id in receiver.accepted)
            assert set(receiver.accepted) == {STORY[0].id, STORY[3].id}
            assert len(receiver.accepted) <= 3  # the first twice, if the crash came before the commit

    asyncio.run(main())


def test_a_stop_at_the_moment_of_a_commit_is_a_stop() -> None:
    """`asyncio.wait_for` of Python 3.11 forgets a cancellation that comes as its coroutine ends."""

    async def main() -> None:
        tp = TopicPartition("actions", 0)
        consumer = Mock()
        consumer.assignment.return_value = {tp}

        async def commit(offsets: object) -> None:
            delivering.cancel()

        consumer.commit = commit
        records = [Mock(offset=offset, value=b"no action") for offset in range(2)]
        delivering = asyncio.create_task(
            deliver(consumer, Mock(), Webhook("http://localhost", SECRET), {tp: records}, {tp: 0})
        )
        with pytest.raises(asyncio.CancelledError):
            await delivering

    asyncio.run(main())


def test_while_a_commit_fails_no_other_action_is_begun() -> None:
    """The one that was accepted is fetched again, not sent again, and committed; the next one comes after it."""

    async def main() -> None:
        tp = TopicPartition("actions", 0)
        consumer, committed, failing = Mock(), [], [True]
        consumer.assignment.return_value = {tp}

        async def commit(offsets: dict[TopicPartition, int]) -> None:
            if failing:
                raise KafkaConnectionError
            committed.append(offsets[tp])

        consumer.commit = commit
        records = [Mock(offset=at, value=msgspec.json.encode(item)) for at, item in enumerate((STORY[0], STORY[2]))]
        async with receiving() as receiver, aiohttp.ClientSession() as session:
            target = Webhook(receiver.url, SECRET)
            assert not await deliver(consumer, session, target, {tp: records}, {tp: 0})
            consumer.seek.assert_called_once_with(tp, 0)
            assert receiver.accepted == [STORY[0].id] and not committed
            failing.clear()
            assert await deliver(consumer, session, target, {tp: records}, {tp: 0})
            assert receiver.accepted == [STORY[0].id, STORY[2].id] and committed == [1, 2]

    asyncio.run(main())


def test_what_is_fetched_before_it_is_known_where_to_begin_waits() -> None:
    """A rebalance that is under way: the partition is assigned, and its committed offset is still being asked for."""

    async def main() -> None:
        tp = TopicPartition("actions", 0)
        consumer, record = Mock(), Mock(offset=0, value=msgspec.json.encode(STORY[0]))
        consumer.assignment.return_value = {tp}
        async with receiving() as receiver, aiohttp.ClientSession() as session:
            assert await deliver(consumer, session, Webhook(receiver.url, SECRET), {tp: [record]}, {})
            assert receiver.requests == []
            consumer.commit.assert_not_called()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "hosts", "said"),
    [
        ("http://example.com/x", (), "http to example.com; expected https"),
        ("https://example.com/x", ("other.org",), "the host example.com; expected one of other.org"),
        ("https://me:secret@example.com/x", (), "without a password"),
        ("ftp://example.com/x", (), "https://host/path"),
        ("example.com", (), "https://host/path"),
        ("http://127.0.0.2.example.com/", (), "http to 127.0.0.2.example.com"),
    ],
)
def test_an_address_that_may_not_be_called_is_refused(url: str, hosts: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        check_address(url, hosts)


@pytest.mark.parametrize(
    "url", ["https://example.com/x", "http://127.0.0.1:80/x", "http://[::1]/", "http://localhost/"]
)
def test_https_and_loopback_may_be_called(url: str) -> None:
    assert check_address(url, ()) == url


def test_http_may_be_called_where_somebody_has_said_so() -> None:
    assert check_address("http://alertmanager:9093", ("alertmanager",)) == "http://alertmanager:9093"


def test_the_command_wants_one_secret(tmp_path: Path) -> None:
    config = tmp_path / "foreshock.yaml"
    config.write_text("models: {m: {}}", encoding="utf-8")
    options = ("webhook", "-c", config, "--url", "https://example.com/x")
    for more, said in (
        ((), "--secret-env or --secret-file: nothing; expected a secret"),
        (("--secret-env", "NOT_SET_ANYWHERE"), "expected a secret"),
        (("--secret-file", tmp_path / "nothing"), "expected a readable file"),
    ):
        refused = foreshock(*options, *more)
        assert refused.returncode == 2 and said in one_line(refused)
