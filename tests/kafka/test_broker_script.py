"""`deploy/kafka.py`: what the tests and benches on Apache Kafka stand on."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy import kafka as script
from deploy.kafka import QUICK_START, Broker


async def create(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, value: bytes) -> int:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        return (await producer.send_and_wait(topic, value)).offset
    finally:
        await producer.stop()


async def first_record(bootstrap: str, topic: str) -> bytes:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        return (await asyncio.wait_for(consumer.getone(), 20)).value
    finally:
        await consumer.stop()


async def group_reads(bootstrap: str, topic: str, group: str) -> bytes:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", session_timeout_ms=1000
    )
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 20)
        await consumer.commit()
        return record.value
    finally:
        await consumer.stop()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script.__file__, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_created_topic_carries_a_record(kafka: Broker) -> None:
    """Ready means ready: a topic can be created at once, and a group with a session of a second may read it."""

    async def round_trip() -> bytes:
        await create(kafka.bootstrap, "script.round-trip")
        await produce(kafka.bootstrap, "script.round-trip", b"tremor")
        return await group_reads(kafka.bootstrap, "script.round-trip", "script.round-trip")

    assert asyncio.run(round_trip()) == b"tremor"


def test_an_acked_record_outlives_kill_and_restart(tmp_path: Path) -> None:
    """The data folder and the port stay, so a client finds both again."""
    with Broker.start(tmp_path, jvm=QUICK_START) as broker:
        bootstrap = broker.bootstrap
        asyncio.run(create(bootstrap, "script.kill"))
        asyncio.run(produce(bootstrap, "script.kill", b"acked"))
        broker.kill()
        assert broker.pid is None
        broker.restart()
        assert broker.bootstrap == bootstrap
        assert asyncio.run(first_record(bootstrap, "script.kill")) == b"acked"
    assert script.is_free(broker.port)


def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    """A test run that is killed leaves no Kafka behind."""
    program = (
        f"import os, sys; sys.path.insert(0, {str(Path(script.__file__).parent)!r}); import kafka\n"
        f"print(kafka.Broker.start({str(tmp_path)!r}).port, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    said = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=120).stdout
    deadline = time.monotonic() + 10
    while not script.is_free(int(said)):
        assert time.monotonic() < deadline, "the broker is still there"
        time.sleep(0.05)


def test_the_command_starts_in_the_background_and_stops(tmp_path: Path) -> None:
    """The port is the one asked for; a second start, and a second stop, are refused in one line."""
    port, folder = script.free_port(), str(tmp_path / "broker")
    started = command("start", "--port", str(port), "--dir", folder)
    try:
        assert started.stdout == f"bootstrap: 127.0.0.1:{port}\n", started.stderr
        again = command("start", "--dir", folder)
        assert (again.returncode, "already runs" in again.stderr) == (1, True)
        taken = command("run", "--port", str(port))
        assert (taken.returncode, taken.stderr.count("\n"), f"port {port} is in use" in taken.stderr) == (1, 1, True)
    finally:
        stopped = command("stop", "--dir", folder)
    assert stopped.returncode == 0, stopped.stderr
    assert script.is_free(port)
    assert command("stop", "--dir", folder).returncode == 1


@pytest.mark.parametrize(
    ("java", "complaint"),
    [
        (None, "no java on the PATH and none in JAVA_HOME: install Java 17 or later"),
        ('openjdk version "1.8.0_402"', "is Java 8, and Kafka"),
        ('openjdk version "11.0.22" 2024-01-16', "is Java 11, and Kafka"),
        ('openjdk version "21" 2023-09-19', "no mvn on the PATH: install Maven"),
    ],
)
def test_a_missing_tool_is_said_in_one_line(tmp_path: Path, java: str | None, complaint: str) -> None:
    """No traceback: what is missing, and what to install."""
    if java is not None:
        fake = tmp_path / "java"
        fake.write_text(f"#!/bin/sh\necho '{java}' >&2\n")
        fake.chmod(0o755)
    done = command("fetch", PATH=str(tmp_path), JAVA_HOME="", FORESHOCK_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_unusable_arguments_exit_with_2() -> None:
    """As every command of ours does."""
    assert command("run", "--port", "70000").returncode == 2
    assert command("restart").returncode == 2
