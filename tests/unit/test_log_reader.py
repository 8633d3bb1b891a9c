"""`agents/log_reader.py` against answers as Kafka's protocol has them, which a broker gives seldom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.protocol.fetch import FetchRequest, FetchResponse_v11
from aiokafka.protocol.offset import OffsetResponse_v3

from agents.loader import read_to_end
from streams.errors import BrokerError
from tests.batches import Batch, Item, marker

ERRORS = {"not_leader": 6, "unknown_topic": 3, "out_of_range": 1}


class Broker:
    """The logs of one topic, and how it answers: a client of aiokafka for `Connection.client`."""

    def __init__(self, logs: dict[int, list[Batch]], ends: dict[int, int], *, most: int = 1) -> None:
        """`most`: batches in one answer. `ends`: the last stable offsets."""
        self.logs, self.ends, self.most = logs, ends, most
        self.starts = dict.fromkeys(logs, 0)
        self.errors: list[str] = []
        self.asked: list[list[int]] = []
        self.before_fetch: Callable[[int], None] = lambda turn: None
        self.cluster = SimpleNamespace(leader_for_partition=self._leader, unauthorized_topics=set())
        self.embedded = False

    def client(self) -> Broker:
        return self

    def _leader(self, tp: TopicPartition) -> int | None:
        return 1 if tp.partition in self.logs else None

    async def bootstrap(self) -> None: ...
    async def close(self) -> None: ...
    async def set_topics(self, topics: list[str]) -> None: ...
    async def force_metadata_update(self) -> None: ...

    async def send(self, node: int, request: Any) -> Any:
        if not isinstance(request, FetchRequest):
            ((topic, asked),) = request._topics
            offsets = {-2: self.starts, -1: self.ends}
            return OffsetResponse_v3(0, [(topic, [(p, 0, -1, offsets[when][p]) for p, when in asked])])
        ((topic, wanted),) = request.topics
        self.before_fetch(len(self.asked))
        self.asked.append([partition for partition, *_ in wanted])
        left, answers = self.most, []
        for partition, position, _ in wanted:
            data, left = self._data(partition, position, left)
            code = ERRORS[self.errors.pop(0)] if self.errors else ERRORS["out_of_range"] * (data is None)
            end = self.ends[partition]
            answers.append((partition, code, end, end, self.starts[partition], [], -1, data or b""))
        return FetchResponse_v11(0, 0, 0, [(topic, answers)])

    def _data(self, partition: int, position: int, left: int) -> tuple[bytes | None, int]:
        if not self.starts[partition] <= position <= self.ends[partition]:
            return None, left
        batches = [batch for batch in self.logs[partition] if position <= batch.last < self.ends[partition]][:left]
        return b"".join(batch.to_bytes() for batch in batches), left - len(batches)


def read(broker: Broker, partitions: list[int] | None = None, **settings: Any) -> tuple[dict[int, int], list[Any]]:
    seen: list[Any] = []
    wanted = sorted(broker.logs) if partitions is None else partitions
    settings = {"deadline_s": 5, **settings}
    ends = asyncio.run(read_to_end(broker, "t", wanted, seen.extend, **settings))  # type: ignore[arg-type]
    return ends, [(record.partition, record.offset) for record in seen]


def log_of(offsets: range, size: int = 5) -> list[Batch]:
    return [Batch(begin, [Item()] * min(size, offsets.stop - begin)) for begin in offsets[::size]]


def test_nothing_for_one_of_several_partitions_says_nothing() -> None:
    """Each answer has room for one batch, so most partitions get none of most answers."""
    broker = Broker({p: log_of(range(50)) for p in range(6)}, dict.fromkeys(range(6), 50))
    ends, seen = read(broker)
    assert ends == dict.fromkeys(range(6), 50)
    assert sorted(seen) == [(p, offset) for p in range(6) for offset in range(50)]


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_tail_that_compaction_emptied_is_known_from_an_answer_for_it_alone(partitions: int) -> None:
    logs = {p: log_of(range(20)) for p in range(partitions)}
    broker = Broker(logs, dict.fromkeys(logs, 100), most=10)
    ends, seen = read(broker)
    assert ends == dict.fromkeys(logs, 100) and len(seen) == 20 * partitions
    assert all([p] in broker.asked for p in logs)


def test_a_log_that_is_all_gaps_has_an_end() -> None:
    assert read(Broker({0: []}, {0: 1_000})) == ({0: 1_000}, [])
    empty = Batch(3, [], count=0, last_delta=9)
    assert read(Broker({0: [empty, Batch(40, [Item()])]}, {0: 60})) == ({0: 60}, [(0, 40)])


def test_markers_at_the_end_are_stepped_over() -> None:
    log = [Batch(0, [Item()] * 2, producer=7, transactional=True), marker(2, 7, commit=True)]
    assert read(Broker({0: log}, {0: 3})) == ({0: 3}, [(0, 0), (0, 1)])


def test_errors_that_pass_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker({p: log_of(range(20)) for p in range(2)}, {0: 20, 1: 20}, most=4)
    broker.errors = ["not_leader", "unknown_topic", "not_leader"]
    ends, seen = read(broker)
    assert ends == {0: 20, 1: 20} and sorted(seen) == [(p, offset) for p in range(2) for offset in range(20)]


def test_an_error_that_does_not_pass_ends_at_the_deadline_with_its_name() -> None:
    broker = Broker({0: log_of(range(20))}, {0: 20})
    broker.errors = ["not_leader"] * 1_000
    with pytest.raises(BrokerError, match=r"no progress within 0\.5 s: position 0, end unknown .*NotLeader"):
        read(broker, deadline_s=0.5)


def test_a_log_whose_head_is_deleted_meanwhile_is_read_on_at_its_start() -> None:
    broker = Broker({0: log_of(range(50))}, {0: 50}, most=1)

    def delete(turn: int) -> None:
        if turn == 3:
            broker.starts[0] = 30

    broker.before_fetch = delete
    lost: list[tuple[int, int, int]] = []
    ends, seen = read(broker, lost=lambda *place: lost.append(place))
    assert ends == {0: 50} and lost == [(0, 15, 30)]
    assert [offset for _, offset in seen] == [*range(15), *range(30, 50)]


def test_a_log_that_was_made_anew_meanwhile_is_no_end() -> None:
    broker = Broker({0: log_of(range(50))}, {0: 50}, most=1)

    def make_anew(turn: int) -> None:
        if turn == 3:
            broker.ends[0] = 4

    broker.before_fetch = make_anew
    with pytest.raises(BrokerError, match="made anew"):
        read(broker)


def test_records_that_come_meanwhile_may_be_read_too_and_no_offset_is_passed_over() -> None:
    broker = Broker({0: log_of(range(200))}, {0: 20}, most=3)

    def grow(turn: int) -> None:
        broker.ends[0] = min(200, broker.ends[0] + 10)

    broker.before_fetch = grow
    ends, seen = read(broker)
    assert [offset for _, offset in seen] == list(range(ends[0])) and ends[0] >= 30
