"""Actions over HTTP: signed, each accepted once, whatever the network, the address and the process do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from agents import topics
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.delivery import Lane, Lanes, run
from agents.follow import read_all
from agents.replay import generate
from agents.webhook import Result, Webhook
from streams.action import Action
from tests.actions import action
from tests.embedded.conftest import until

SECRET = b"a secret of some length"
Answer = Callable[[int], int]
"""Number of the request, from 0 → status."""


class Receiver:
    """A server that keeps what it was sent."""

    def __init__(self, answer: Answer, slow_s: float) -> None:
        self.slow_s = slow_s
        self.refused: dict[str, int] = {}
        """The answer to some ids."""
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.accepted: list[str] = []
        self._answer = answer
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        headers, body = {key.lower(): value for key, value in request.headers.items()}, await request.read()
        status = self.refused.get(headers["webhook-id"], self._answer(len(self.requests)))
        self.requests.append((headers, body))
        await asyncio.sleep(self.slow_s)
        if status < 300:
            self.accepted.append(headers["webhook-id"])
        return web.Response(status=status, headers={"location": "http://127.0.0.1:1/"} if status == 302 else None)


@asynccontextmanager
async def receiving(answer: Answer = lambda number: 200, slow_s: float = 0.0) -> AsyncIterator[Receiver]:
    receiver, app = Receiver(answer, slow_s), web.Application()
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
        f"{STORY[0].id} was refused: the webhook answered {status}" in caplog.text
        and "a record of 9 bytes is no action" in caplog.text
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


class Consumer:
    """What a lane needs of a consumer of Kafka."""

    def __init__(self, commit: Callable[[dict[TopicPartition, int]], None] = lambda offsets: None) -> None:
        self.committed_offsets: list[int] = []
        self._commit = commit

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        await asyncio.sleep(0)
        self._commit(offsets)
        self.committed_offsets += offsets.values()


TP = TopicPartition("actions", 0)


def records(*values: bytes) -> list[Any]:
    return [Mock(offset=offset, value=value, key=b"m") for offset, value in enumerate(values)]


def lane(consumer: Consumer, session: Any, target: Webhook, first: int = 0) -> Lane:
    return Lane(consumer, session, target, TP, first)


def test_a_stop_at_the_moment_of_a_commit_is_a_stop() -> None:
    """`asyncio.wait_for` of Python 3.11 forgets a cancellation that comes as its coroutine ends."""

    async def main() -> None:
        def commit(offsets: object) -> None:
            assert found._task is not None
            found._task.cancel()

        found = lane(consumer := Consumer(commit), Mock(), Webhook("http://localhost", SECRET))
        found.give(records(b"no action", b"no action"))
        assert found._task is not None
        await asyncio.wait([found._task])
        assert found._task.cancelled() and len(consumer.committed_offsets) == 1

    asyncio.run(main())


def test_while_a_commit_fails_no_other_action_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was accepted is not sent again, and committed; the next one comes after it."""
    monkeypatch.setattr("agents.delivery.FIRST_WAIT_S", 0.01)

    async def main() -> None:
        failing = [True] * 3

        def commit(offsets: object) -> None:
            if failing:
                assert receiver.accepted == [STORY[0].id]
                failing.pop()
                raise KafkaConnectionError

        async with receiving() as receiver, aiohttp.ClientSession() as session:
            found = lane(consumer := Consumer(commit), session, Webhook(receiver.url, SECRET))
            found.give(records(*map(msgspec.json.encode, (STORY[0], STORY[2]))))
            await until(lambda: found.is_idle)
            assert receiver.accepted == [STORY[0].id, STORY[2].id] and consumer.committed_offsets == [1, 2]

    asyncio.run(main())


def test_what_was_delivered_before_is_remembered_and_not_sent() -> None:
    async def main() -> None:
        async with receiving() as receiver, aiohttp.ClientSession() as session:
            found = lane(consumer := Consumer(), session, target := Webhook(receiver.url, SECRET), first=1)
            found.give(records(*map(msgspec.json.encode, (STORY[0], STORY[0], STORY[2]))))
            await until(lambda: found.is_idle)
            assert receiver.accepted == [STORY[2].id] and consumer.committed_offsets == [2, 3]
            assert target.results == {Result.REPEATED: 1, Result.DELIVERED: 1}

    asyncio.run(main())


def test_an_id_that_is_no_header_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """It ended the webhook at every start: a line feed is no header."""
    hostile = ["a\nX-Admin: 1", "a\r\n\r\nGET /", "", "\x00", "a b", "\u00e9", "\u6f22", "x" * 300]

    async def main() -> None:
        async with receiving() as receiver, aiohttp.ClientSession() as session:
            found = lane(consumer := Consumer(), session, target := Webhook(receiver.url, SECRET))
            bad = [msgspec.json.encode(msgspec.structs.replace(STORY[0], id=text)) for text in hostile]
            found.give(records(*bad, msgspec.json.encode(STORY[2])))
            await until(lambda: found.is_idle)
            found.check()
            assert receiver.accepted == [STORY[2].id] and consumer.committed_offsets[-1] == len(hostile) + 1
            assert target.results == {Result.INVALID: len(hostile), Result.DELIVERED: 1}

    asyncio.run(main())
    assert all(line.isprintable() for line in caplog.messages)


def test_a_request_that_is_under_way_is_finished_before_a_partition_is_given_back() -> None:
    async def main() -> None:
        begun, consumer = asyncio.Event(), Consumer()

        def answer(number: int) -> int:
            begun.set()
            return 200

        async with receiving(answer, slow_s=0.3) as receiver, aiohttp.ClientSession() as session:
            lanes = Lanes(consumer, session, Webhook(receiver.url, SECRET), None)
            lanes.lanes[TP] = found = lane(consumer, session, lanes.webhook)
            found.give(records(*map(msgspec.json.encode, (STORY[0], STORY[2]))))
            await begun.wait()
            await lanes.on_partitions_revoked([TP])
            assert receiver.accepted == [STORY[0].id] and consumer.committed_offsets == [1] and not lanes.lanes

    asyncio.run(main())


def test_a_partition_whose_action_is_not_taken_holds_up_no_other(
    to: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await topics.create(to, to.topic("actions"), 2)
        async with receiving() as receiver:
            receiver.refused[STORY[0].id] = 503
            async with delivering(to, Webhook(receiver.url, SECRET), "a"):
                both = [msgspec.json.encode(STORY[0]), msgspec.json.encode(STORY[3])]
                async with to.producer() as producer:
                    for partition, value in enumerate(both):
                        await producer.send_and_wait(to.topic("actions"), value, b"m", partition=partition)
                await until(lambda: receiver.accepted == [STORY[3].id])
                assert not [item for item in receiver.accepted if item == STORY[0].id]
                receiver.refused.clear()
                await until(lambda: STORY[0].id in receiver.accepted)

    asyncio.run(main())


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (503, 3)])
@pytest.mark.parametrize("park", [True, False])
def test_what_is_refused_or_given_up_is_parked_or_left_out_and_counted(
    to: Connection,
    status: int,
    tries: int,
    park: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("agents.delivery.FIRST_WAIT_S", 0.01)
    target_topic = to.topic("parked")

    async def main() -> list[Any]:
        await topics.create(to, to.topic("actions"), 1)
        await topics.create(to, target_topic, 1)
        async with receiving() as receiver:
            receiver.refused[STORY[0].id] = status
            target = Webhook(receiver.url, SECRET, tries=3)
            task = asyncio.create_task(run(to, "a", target, park=target_topic if park else None))
            await publish(to, STORY[0], STORY[2])
            await until(lambda: receiver.accepted == [STORY[2].id])
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert [headers["webhook-id"] for headers, _ in receiver.requests].count(STORY[0].id) == tries
            expected = Result.PARKED if park else Result.REFUSED if status == 400 else Result.LEFT_OUT
            assert target.results == {expected: 1, Result.DELIVERED: 1}
        found: list[Any] = []
        await read_all(to, found.extend, "parked")
        return found

    parked = asyncio.run(main())
    assert STORY[0].id in caplog.text and f"answered {status}" in caplog.text
    assert len(parked) == (1 if park else 0)
    for record in parked:
        assert msgspec.json.decode(record.value, type=Action) == STORY[0]
        headers = dict(record.headers)
        assert headers["foreshock.tries"] == str(tries).encode()
        assert headers["foreshock.reason"] == f"the webhook answered {status}".encode()


def test_its_results_are_metrics_from_zero_on(to: Connection) -> None:
    async def main() -> str:
        await topics.create(to, to.topic("actions"), 1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        async with receiving() as receiver, aiohttp.ClientSession() as session:
            target = Webhook(receiver.url, SECRET)
            task = asyncio.create_task(run(to, "a", target, pages=("127.0.0.1", port, None)))
            await publish(to, STORY[0])
            await until(lambda: receiver.accepted and target.results[Result.DELIVERED])
            for path in ("health", "ready"):
                async with session.get(f"http://127.0.0.1:{port}/{path}") as answer:
                    assert answer.status == 200
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                page = await answer.text()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return page

    page = asyncio.run(main())
    assert 'foreshock_webhook_actions_total{result="delivered"} 1.0' in page
    for result in set(Result) - {Result.DELIVERED}:
        assert f'foreshock_webhook_actions_total{{result="{result}"}} 0.0' in page
    assert "foreshock_webhook_retries_total 0.0" in page


def test_an_answer_is_waited_for_as_long_as_was_said() -> None:
    async def main() -> None:
        async with receiving(slow_s=0.6) as receiver, aiohttp.ClientSession() as session:
            for timeout_s, result in ((0.1, None), (5.0, Result.DELIVERED)):
                target = Webhook(receiver.url, SECRET, timeout_s)
                found, said = await target.post(session, STORY[0], b"{}")
                assert found is result
                assert timeout_s == 5.0 or "within 0.1 s" in said

    asyncio.run(main())
