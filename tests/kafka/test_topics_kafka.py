"""Topics as a worker makes and finds them on Apache Kafka, and who may read them."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agents import topics
from agents.clients import Connection, Security
from agents.loader import read_to_end
from agents.replay import generate
from deploy.kafka import Broker
from deploy.loopback import free_port
from streams.errors import BrokerError
from tests.embedded.conftest import Owner, until
from tests.kafka.members import produce


async def config_of(connection: Connection, topic: str, key: str) -> str | None:
    async with topics.admin(connection) as client:
        return await topics._config(client, topic, key)


def test_our_topics_have_the_settings_of_the_table(connection: Connection, topic: str) -> None:
    async def main() -> None:
        ours = Connection(broker=connection.broker, prefix=f"{topic}.")
        await topics.ensure(ours, inference_partitions=2, buckets=3)
        for row in topics.TOPICS:
            for key, value in row.configs().items():
                assert await config_of(ours, ours.topic(row.name), key) == value

    asyncio.run(main())


def test_progress_grows_with_the_inference_topic(connection: Connection, topic: str) -> None:
    async def main() -> None:
        ours = Connection(broker=connection.broker, prefix=f"{topic}.")
        await topics.ensure(ours, inference_partitions=2, buckets=3)
        await topics.ensure(ours, inference_partitions=6, buckets=3)
        assert await topics.find(ours, ours.topic("progress")) == 6

    asyncio.run(main())


def test_a_state_topic_that_forgets_is_refused(connection: Connection, topic: str) -> None:
    async def main() -> None:
        ours = Connection(broker=connection.broker, prefix=f"{topic}.")
        await topics.create(ours, ours.topic("partials"), 3)  # as Kafka makes topics when nobody says how
        with pytest.raises(BrokerError, match=r"partials: cleanup\.policy=delete"):
            await topics.ensure(ours, inference_partitions=2, buckets=3)

    asyncio.run(main())


def test_a_large_record_passes_between_its_neighbours(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1, {"max.message.bytes": str(16 << 20)})
        values = [b"a", b"x" * (6 << 20), b"b", b"y" * (17 << 20), b"c"]
        sent = await generate(connection, topic, [(None, value) for value in values])
        assert (sent.records, sent.refused) == (4, 1)
        async with Owner(connection, [topic], topic).running() as owner:
            await until(lambda: owner.count() >= 4)
            values = [value or b"" for batch in owner.batches for value in batch.records.values]
            assert list(map(len, values)) == [1, 6 << 20, 1, 1]

    asyncio.run(main())


def test_batches_are_no_larger_than_the_topic_takes(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1, {"max.message.bytes": "2000"})
        values = [b"v" * size for size in (1, 900, 1_872, 1_873, 900, 900, 2, 1_871)]
        sent = await generate(connection, topic, [(None, value) for value in values])
        assert (sent.records, sent.refused) == (7, 1)
        seen: list[Any] = []
        await read_to_end(connection, topic, [0], seen.extend, deadline_s=20)
        assert [record.value for record in seen] == [value for value in values if len(value) <= 1_872]

    asyncio.run(main())


def test_a_topic_of_a_smaller_limit_is_used_as_it_is_and_one_line_says_so(
    connection: Connection, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Connection(broker=connection.broker, prefix=f"{topic}.")

    async def main() -> tuple[dict[str, int], str | None]:
        await topics.create(ours, ours.topic("actions"), 4)  # with Kafka's own limit
        limits = await topics.ensure(ours, inference_partitions=2, buckets=3)
        return limits, await config_of(ours, ours.topic("actions"), "max.message.bytes")

    with caplog.at_level(logging.WARNING, "agents.topics"):
        limits, left = asyncio.run(main())
    assert limits == {ours.topic(row.name): row.max_message_bytes for row in topics.TOPICS} | {
        ours.topic("actions"): 1_048_588
    }
    assert left == "1048588"
    (line,) = caplog.messages
    assert line == f"topic {ours.topic('actions')} takes records of up to 1048588 bytes only (max.message.bytes)"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_only_who_proves_who_it_is_gets_in(tmp_path: Path, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kafka", "-days", "1"]
    request += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(request, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "server.pem").write_text((tmp_path / "key.pem").read_text() + (tmp_path / "cert.pem").read_text())
    port = free_port()
    secured, controller = f"127.0.0.1:{free_port(but=port)}", f"127.0.0.1:{free_port(but=port)}"
    listeners = f"PLAINTEXT://127.0.0.1:{port},SASL_SSL://{secured}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    properties = {
        "listeners": f"{listeners},CONTROLLER://{controller}",
        "advertised.listeners": listeners,
        "controller.quorum.voters": f"1@{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{login} user_me="s3cret";',
        "listener.name.sasl_ssl.ssl.keystore.type": "PEM",
        "listener.name.sasl_ssl.ssl.keystore.location": str(tmp_path / "server.pem"),
    }

    def as_me(**changed: str) -> Connection:
        known = {"ca_file": str(tmp_path / "cert.pem"), "username": "me", "password_env": "KAFKA_PASSWORD", **changed}
        return Connection(broker=secured, security=Security(protocol="SASL_SSL", sasl_mechanism="PLAIN", **known))

    async def main() -> None:
        await topics.create(as_me(), topic, 1)
        await produce(as_me(), topic, 100)
        async with Owner(as_me(), [topic], topic).running() as owner:
            await until(lambda: owner.count() == 100)
        for stranger in (as_me(username="you"), as_me(ca_file=""), Connection(broker=secured)):
            with pytest.raises(BrokerError):
                await topics.find(stranger, topic)

    monkeypatch.setenv("KAFKA_PASSWORD", "s3cret")
    with Broker.start(tmp_path / "kafka", port, properties=properties):
        asyncio.run(main())
