"""`agents/replay.py` and `agents/topics.py` on the embedded broker."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka

from agents import topics
from agents.clients import Connection
from agents.loader import read_to_end
from agents.replay import Sent, event_key, event_time_s, generate, murmur2, partitions_of, read_lines, replay
from streams.errors import BrokerError, ConfigError, DataError


def event(number: int, ts: Any = 0) -> bytes:
    return json.dumps({"event_id": f"e-{number}", "ts": ts, "model": "m", "n": number}).encode()


def write(path: Path, lines: list[bytes], *, end: bytes = b"\n") -> Path:
    data = b"".join(line + end for line in lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


async def everything(connection: Connection, topic: str, partitions: int) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {partition: [] for partition in range(partitions)}
    await read_to_end(
        connection, topic, range(partitions), lambda records: found[records[0].partition].extend(records), deadline_s=30
    )
    return found


@pytest.mark.parametrize("name", ["events.ndjson", "events.ndjson.gz"])
def test_lines_arrive_as_they_are_each_at_the_partition_of_its_key(
    connection: Connection, topic: str, tmp_path: Path, name: str
) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 4)
        lines = [event(number) for number in range(5_000)]
        sent = await replay(connection, topic, write(tmp_path / name, lines))
        assert sent == Sent(records=5_000, bytes=sum(map(len, lines)))
        found = await everything(connection, topic, 4)
        assert sorted(record.value for records in found.values() for record in records) == sorted(lines)
        for partition, records in found.items():
            numbers = [json.loads(record.value)["n"] for record in records]
            assert numbers == sorted(numbers)
            assert all(record.key == b"e-%d" % number for record, number in zip(records, numbers, strict=True))
            assert all(DefaultPartitioner()(record.key, [0, 1, 2, 3], []) == partition for record in records)

    asyncio.run(main())


def test_what_is_no_event_is_sent_without_a_key_and_blank_lines_are_not(
    connection: Connection, topic: str, tmp_path: Path
) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 2)
        bad = [b"{", b"\xff\xfe", b"[1]", b'{"event_id": 7}', b'{"model": "m"}', b"[" * 20_000]
        file = write(tmp_path / "e.ndjson", [event(1), b"", *bad, b"  ", event(2)], end=b"\r\n")
        sent = await replay(connection, topic, file)
        assert (sent.records, sent.unkeyed) == (8, 6)
        found = await everything(connection, topic, 2)
        keyless = [record.value for records in found.values() for record in records if record.key is None]
        assert sorted(keyless) == sorted(bad)

    asyncio.run(main())


def test_a_record_larger_than_the_topic_takes_is_refused_and_its_neighbours_arrive(
    connection: Connection, topic: str
) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1, {"max.message.bytes": "1000"})
        values = [b"a", b"x" * 2_000, b"b"]
        sent = await generate(connection, topic, [(None, value) for value in values])
        assert (sent.records, sent.refused) == (2, 1)
        found = await everything(connection, topic, 1)
        assert [record.value for record in found[0]] == [b"a", b"b"]

    asyncio.run(main())


def test_records_without_a_key_are_spread(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 3)
        sent = await generate(connection, topic, ((None, b"%d" % number) for number in range(20_000)))
        assert sent.unkeyed == sent.records == 20_000
        found = await everything(connection, topic, 3)
        assert min(len(records) for records in found.values()) > 3_000

    asyncio.run(main())


def test_a_rate_is_kept(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1)
        begun, told = time.monotonic(), list[int]()
        values = ((None, b"%d" % number) for number in range(600))
        await generate(connection, topic, values, rate=300, on_progress=lambda sent: told.append(sent.records))
        assert 1.8 < time.monotonic() - begun < 20
        assert told[-1] == 600 and len(told) > 1

    asyncio.run(main())


def test_at_a_speed_event_time_passes_so_many_times_faster(connection: Connection, topic: str, tmp_path: Path) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1)
        stamps = ["2026-01-05T00:00:00Z", 1767571230_000, "2026-01-05T00:00:10Z", None, "2026-01-05T00:01:00+00:00"]
        file = write(tmp_path / "e.ndjson", [event(number, ts) for number, ts in enumerate(stamps)])
        await replay(connection, topic, file, speed=30)
        (records,) = (await everything(connection, topic, 1)).values()
        first, half, late, none, whole = (record.timestamp for record in records)
        assert 0.85 < (half - first) / 1000 < 1.9  # half a minute
        assert late - half < 900 and none - half < 900  # of the past, and of no time: at once
        assert 1.8 < (whole - first) / 1000 < 20

    asyncio.run(main())


def test_times_and_keys_of_events() -> None:
    assert event_time_s(b'{"ts": "2026-01-05T00:00:10.714Z"}') == event_time_s(b'{"ts": 1767571210714}')
    assert event_time_s(b'{"ts": "2026-01-05T00:00:10.714"}') == 1767571210.714
    assert event_time_s(b'{"ts": "yesterday"}') is event_time_s(b"{}") is event_time_s(b"{") is None
    assert event_time_s(b'{"ts": [1]}') is None
    assert event_key(b'{"event_id": "\xc3\xa9", "ts": 1}') == b"\xc3\xa9"
    assert event_key(b'{"specversion": "1.0", "id": "x", "data": {"event_id": "e"}}') == b"e"
    assert event_key(b'{"specversion": "1.0", "id": "x", "data": "text"}') is None
    run = b'{"eventTime": "2026-01-05T00:00:10Z", "job": {"namespace": "n", "name": "features"}, "run": {"runId": "r"}}'
    assert (event_key(run), event_time_s(run)) == (b"features", 1767571210)
    assert event_key(b'{"model": "m", "ts": 0, "kpi": "conversion", "value": 1}') == b"m"
    assert event_key(b'{"model": "m", "ts": 0, "kind": "complaint"}') == b"m"
    assert event_key(b'{"model": "m", "ts": 0}') is None


def test_keys_go_where_kafkas_own_clients_put_them() -> None:
    rng = random.Random(7)
    keys: list[bytes | None] = [rng.randbytes(rng.randrange(0, 45)) for _ in range(2_000)]
    keys += [None, b"", "ключ".encode(), b"\x00" * 3, b"\xff" * 8]
    expected = [-1 if key is None else (murmur2_of_aiokafka(key) & 0x7FFFFFFF) % 7 for key in keys]
    assert partitions_of(keys, 7).tolist() == expected
    assert partitions_of([], 7).tolist() == []


@pytest.mark.parametrize(
    ("key", "expected"),
    # the vectors of Kafka's own test, UtilsTest.testMurmur2
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(key: bytes, expected: int) -> None:
    hashed = murmur2(np.frombuffer(key, dtype=np.uint8).reshape(1, len(key)))
    assert hashed.astype(np.int32).tolist() == [expected]


def test_a_topic_that_does_not_exist_is_refused_and_not_created(
    connection: Connection, topic: str, tmp_path: Path
) -> None:
    async def main() -> None:
        with pytest.raises(BrokerError, match=f"topic {topic}: it does not exist"):
            await replay(connection, topic, write(tmp_path / "e.ndjson", [event(1)]))
        assert await topics.find(connection, topic) is None

    asyncio.run(main())


def broken_gz(path: Path) -> None:
    path.write_bytes(gzip.compress(b"{}\n" * 100_000)[:-20])


@pytest.mark.parametrize(
    ("name", "make", "seen"),
    [
        ("missing.ndjson", lambda path: None, "No such file"),
        ("plain.ndjson.gz", lambda path: path.write_bytes(b"{}\n"), "Not a gzipped file"),
        ("cut.ndjson.gz", broken_gz, "ended before"),
        ("folder.ndjson", lambda path: path.mkdir(), "a folder; expected"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, make: Any, seen: str) -> None:
    make(tmp_path / name)
    with pytest.raises((DataError, ConfigError), match=seen) as caught:
        list(read_lines(tmp_path / name))
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("pace", [{"speed": 0.0}, {"rate": -1.0}, {"speed": 1.0, "rate": 1.0}, {"rate": float("nan")}])
def test_an_impossible_pace_is_refused(connection: Connection, tmp_path: Path, pace: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        asyncio.run(replay(connection, "any", tmp_path / "e.ndjson", **pace))  # type: ignore[arg-type]


def test_without_kafka_it_fails_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BrokerError, match=r"Kafka at 127\.0\.0\.1:9") as caught:
        asyncio.run(replay(Connection(broker="127.0.0.1:9"), "any", write(tmp_path / "e.ndjson", [event(1)])))
    assert "\n" not in str(caught.value)
    assert not [record for record in caplog.records if record.name.startswith("aiokafka")]


# --- Topics


def test_our_topics_are_created_once_as_the_table_says(connection: Connection, topic: str) -> None:
    async def main() -> None:
        ours = Connection(broker=connection.broker, embedded=True, prefix=f"{topic}.")
        await asyncio.gather(
            *(topics.ensure(ours, inference_partitions=3, buckets=5) for _ in range(3))  # workers that race
        )
        await topics.ensure(ours, inference_partitions=3, buckets=5)
        counts = [await topics.find(ours, ours.topic(row.name)) for row in topics.TOPICS]
        assert dict(zip([row.name for row in topics.TOPICS], counts, strict=True)) == {
            "partials": 5,
            "progress": 3,
            "state": 5,
            "windows": topics.FEW,
            "actions": topics.FEW,
            "acks": topics.FEW,
            "dead-letter": topics.FEW,
        }

    asyncio.run(main())


def test_another_number_of_buckets_is_refused(connection: Connection, topic: str) -> None:
    async def main() -> None:
        ours = Connection(broker=connection.broker, embedded=True, prefix=f"{topic}.")
        await topics.ensure(ours, inference_partitions=3, buckets=5)
        with pytest.raises(BrokerError, match=r"partials: 5 partitions; expected 6.*set kafka.buckets to 5"):
            await topics.ensure(ours, inference_partitions=3, buckets=6)

    asyncio.run(main())


def test_state_that_kafka_would_forget_is_refused(connection: Connection, topic: str) -> None:
    async def main() -> None:
        ours = Connection(broker=connection.broker, embedded=True, prefix=f"{topic}.")
        await topics.create(ours, ours.topic("state"), 5, {"cleanup.policy": "delete"})
        with pytest.raises(BrokerError, match=r"state: cleanup.policy=delete"):
            await topics.ensure(ours, inference_partitions=3, buckets=5)

    asyncio.run(main())


def test_a_topic_is_waited_for(connection: Connection, topic: str) -> None:
    async def main() -> None:
        lines: list[str] = []
        waiting = asyncio.create_task(topics.wait_for(connection, topic, lines.append))
        begun = time.monotonic()
        while not lines:
            assert time.monotonic() - begun < 10
            await asyncio.sleep(0.01)
        await topics.create(connection, topic, 7)
        assert await waiting == 7
        assert lines == [
            f"waiting for topic {topic}: it does not exist on {connection.broker}, or DESCRIBE on it is not "
            "allowed to us; create it, or start its writer"
        ]

    asyncio.run(main())
