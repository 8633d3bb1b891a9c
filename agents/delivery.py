"""Topic `actions` → a webhook, each partition by itself: a consumer that acts once on every action.

It continues after the last action that was finished. It recognises an action that was published again under the same
id, or accepted just before a crash, by the ids on the topic; the receiver can recognise a repeat by its `webhook-id`
too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from agents import topics
from agents.clients import Connection
from agents.loader import started
from agents.metrics import Families, WebhookMetric
from agents.publish import Outgoing, Producer, publish
from agents.refusals import NOT_AUTHORIZED
from agents.web import Web
from agents.webhook import Result, Webhook
from streams.action import Action
from streams.errors import BrokerError

log = logging.getLogger(__name__)

LOOK_BACK = 2_000
"""Records before the first one to deliver that are read for their ids, which must not be delivered again."""
POLL_MS, MAX_RECORDS = 500, 500
COMMIT_WITHIN_S, FINISH_WITHIN_S = 5.0, 2.0
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 60.0


class Parking:
    """A topic for actions that were refused or not accepted in time, with the reason in headers."""

    def __init__(self, connection: Connection, topic: str, producer: Producer) -> None:
        self.connection, self.topic, self.producer = connection, topic, producer

    async def put(self, record: ConsumerRecord, action: Action, reason: str, tries: int) -> None:
        """Publishes the action as it is, however long Kafka does not answer."""
        headers = (
            ("foreshock.action_id", action.id.encode()),
            ("foreshock.reason", reason.encode()),
            ("foreshock.tries", str(tries).encode()),
        )
        await publish(self.producer, [Outgoing(self.topic, record.key or b"", record.value, headers=headers)])


class Lane:
    """One partition: its records in their order, each until it is finished and committed."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        session: aiohttp.ClientSession,
        webhook: Webhook,
        tp: TopicPartition,
        first: int,
        parking: Parking | None = None,
    ) -> None:
        """A lane without records.

        Parameters:
            first: the offset of the first record to deliver; of those before it only the ids are kept.
        """
        self.consumer, self.session, self.webhook, self.tp, self.first = consumer, session, webhook, tp, first
        self.parking = parking
        self._records: deque[ConsumerRecord] = deque()
        self._task: asyncio.Task[None] | None = None
        self._rests = False
        """Between two tries: it may be ended at once."""

    @property
    def is_idle(self) -> bool:
        """Whether it accepts more records."""
        return self._task is None or self._task.done()

    def give(self, records: Sequence[ConsumerRecord]) -> None:
        """Starts to deliver records. Only for an idle lane."""
        self._records.extend(records)
        self._task = asyncio.create_task(self._run())

    def check(self) -> None:
        """Raises the error that ended its work, if there was one."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        """Ends it after the current request, or during it if that takes long: the action is then sent again."""
        if self._task is None:
            return
        while len(self._records) > 1:
            self._records.pop()
        if not self._rests:
            await asyncio.wait([self._task], timeout=FINISH_WITHIN_S)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _rest(self, seconds: float) -> None:
        self._rests = True
        await asyncio.sleep(seconds)
        self._rests = False

    async def _run(self) -> None:
        while self._records:
            record = self._records[0]
            if record.offset < self.first:
                self.webhook.note(record.value)
            else:
                await self._deliver(record)
                await self._commit(record.offset)
            self._records.popleft()

    async def _deliver(self, record: ConsumerRecord) -> None:
        action = self.webhook.to_send(record.value)
        if action is None:
            return
        for tries, wait_s in enumerate(waits(), 1):
            result, said = await self.webhook.post(self.session, action, record.value)
            about = {"action_id": action.id, "model": action.subject, "partition": self.tp.partition}
            if result is None and not 0 < self.webhook.tries <= tries:
                log.warning("action %s: %s; trying again (%d)", action.id, said, tries, extra=about)
                await self._rest(wait_s)
                continue
            if result is not Result.DELIVERED:
                result = await self._give_up(record, action, result, said, tries)
            self.webhook.finish(action, result)
            return

    async def _give_up(
        self, record: ConsumerRecord, action: Action, result: Result | None, said: str, tries: int
    ) -> Result:
        what = "was refused" if result is Result.REFUSED else f"was not taken in {tries} tries"
        about = {"action_id": action.id, "model": action.subject, "partition": self.tp.partition}
        if self.parking is not None:
            log.error("action %s %s: %s; parked in %s", action.id, what, said, self.parking.topic, extra=about)
            await self.parking.put(record, action, said, tries)
            return Result.PARKED
        log.error("action %s %s: %s; left out", action.id, what, said, extra=about)
        return Result.REFUSED if result is Result.REFUSED else Result.LEFT_OUT

    async def _commit(self, offset: int) -> None:
        """Until Kafka knows that a record is done with, no other is begun."""
        for wait_s in waits():
            try:
                async with asyncio.timeout(COMMIT_WITHIN_S):
                    await self.consumer.commit({self.tp: offset + 1})
                return
            except NOT_AUTHORIZED:
                raise
            except (KafkaError, TimeoutError) as error:
                log.warning("Kafka: %s; trying again", str(error) or type(error).__name__)
            await self._rest(wait_s)


def waits() -> Iterator[float]:
    """Seconds between tries, without an end."""
    wait_s = FIRST_WAIT_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, MAX_WAIT_S)


class Lanes(ConsumerRebalanceListener):  # type: ignore[misc]
    """The lanes of the assigned partitions."""

    def __init__(
        self, consumer: AIOKafkaConsumer, session: aiohttp.ClientSession, webhook: Webhook, parking: Parking | None
    ) -> None:
        self.consumer, self.session, self.webhook, self.parking = consumer, session, webhook, parking
        self.lanes: dict[TopicPartition, Lane] = {}

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Ends their lanes. (aiokafka would only log an exception here.)"""
        for lane in [self.lanes.pop(tp) for tp in revoked if tp in self.lanes]:
            await lane.stop()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Does nothing: `begin` starts their lanes, where errors are retried."""

    async def begin(self) -> None:
        """Starts a lane for each partition without one, after the last record that was finished.

        Raises:
            KafkaError: if Kafka does not answer with that offset.
        """
        for tp in sorted(self.consumer.assignment() - self.lanes.keys()):
            earliest = (await self.consumer.beginning_offsets([tp]))[tp]
            end = (await self.consumer.end_offsets([tp]))[tp]
            committed = await self.consumer.committed(tp) or 0
            if committed > end:
                log.error(
                    "actions, partition %d ends at %d, and %d was committed: it was made anew, and is delivered from "
                    "its beginning",
                    tp.partition,
                    end,
                    committed,
                )
                committed = earliest
            if tp in self.consumer.assignment():  # a rebalance may have come while we asked
                self.consumer.seek(tp, max(earliest, committed - LOOK_BACK))
                self.lanes[tp] = Lane(self.consumer, self.session, self.webhook, tp, committed, self.parking)

    async def step(self) -> None:
        """Passes the next records to idle lanes."""
        await self.begin()
        for lane in self.lanes.values():
            lane.check()
        idle = [tp for tp, lane in self.lanes.items() if lane.is_idle]
        if not idle:
            await asyncio.sleep(POLL_MS / 1000 / 5)
            return
        fetched = await self.consumer.getmany(*idle, timeout_ms=POLL_MS, max_records=MAX_RECORDS)
        for tp, records in fetched.items():
            found = self.lanes.get(tp)  # gone if a rebalance came: its next owner begins after what was committed
            if found is not None and records and found.is_idle:
                found.give(records)

    async def stop(self) -> None:
        """Ends all of them."""
        await self.on_partitions_revoked(list(self.lanes))


class Results(Collector):
    """Results of actions → counters, from zero on."""

    def __init__(self, webhook: Webhook) -> None:
        self.webhook = webhook

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        families = Families(WebhookMetric)
        for result in Result:
            families.add(WebhookMetric.ACTIONS, (result,), self.webhook.results[result])
        families.add(WebhookMetric.RETRIES, (), self.webhook.retries)
        return iter(families)


async def run(
    connection: Connection,
    group: str,
    webhook: Webhook,
    instance: str | None = None,
    *,
    park: str | None = None,
    pages: tuple[str, int, str | None] | None = None,
) -> None:
    """Delivers actions, also those of the past that were not delivered, until it is cancelled.

    Parameters:
        instance: its name in the group; a process with the same name takes over at once, without waiting for a timeout.
        park: the full name of a topic for actions that are refused or not accepted in time.
        pages: host, port and token of its /metrics.
    """
    topic = connection.topic("actions")
    consumer = connection.consumer(group_id=group, group_instance_id=instance)
    async with AsyncExitStack() as stack:
        waits_for = [f"topic {topic}"]
        if pages is not None:
            await stack.enter_async_context(_pages(webhook, pages, waits_for))
        await topics.wait_for(connection, topic)
        parking = await stack.enter_async_context(_parking(connection, park)) if park else None
        session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        lanes = Lanes(consumer, session, webhook, parking)
        consumer.subscribe([topic], listener=lanes)
        stack.push_async_callback(consumer.stop)
        stack.push_async_callback(lanes.stop)
        await started(consumer)
        waits_for.clear()
        await _follow(connection, lanes)


async def _follow(connection: Connection, lanes: Lanes) -> None:
    while True:
        try:
            await lanes.step()
        except NOT_AUTHORIZED as error:
            raise await connection.failure(error, "READ") from None
        except (KafkaError, TimeoutError) as error:  # what was not committed is known by its id
            log.warning("Kafka: %s; trying again", str(error) or type(error).__name__)
            await asyncio.sleep(FIRST_WAIT_S)


@asynccontextmanager
async def _pages(webhook: Webhook, where: tuple[str, int, str | None], waits_for: list[str]) -> AsyncIterator[None]:
    registry = CollectorRegistry()
    registry.register(Results(webhook))
    host, port, token = where
    told = {"results": webhook.results}
    ready = lambda: f"it waits for {waits_for[0]}" if waits_for else ""  # noqa: E731
    web = Web(registry, lambda: (True, told), ready, host=host, port=port, token=token)
    async with web:
        log.info("metrics at %s/metrics", web.url)
        yield


@asynccontextmanager
async def _parking(connection: Connection, topic: str) -> AsyncIterator[Parking]:
    if await topics.until_answered(lambda: topics.find(connection, topic)) is None:
        raise BrokerError(
            place=f"--park {topic}",
            seen=f"no such topic on {connection.broker}, or DESCRIBE on it is not allowed to us",
            mend="create it, and allow us to write to it",
        )
    producer = Producer(connection, {})
    await topics.until_answered(producer.start)
    try:
        yield Parking(connection, topic, producer)
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await producer.stop()
