"""The actions topic → signed HTTP requests to one address: a consumer that acts once on every action.

It goes on after the last action that was accepted. What was published again under the same id, and what was accepted
just before a crash, is told by the ids on the topic; whoever receives can tell a repeat by its `webhook-id` too.
Headers and signature are those of Standard Webhooks 1.0, for which there are libraries.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from agents import topics
from agents.clients import Connection
from agents.logs import NO_ACTION
from agents.refusals import NOT_AUTHORIZED
from streams.action import State, read_action

log = logging.getLogger(__name__)

LOOK_BACK = 2_000
"""So many records before the first one to deliver are read for their ids, which must not be delivered again."""
MOST_IDS = 50_000
POLL_MS = 500
ANSWER_WITHIN_S, COMMIT_WITHIN_S = 10.0, 5.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
RETRIED = frozenset({408, 425, 429})
"""Answers below 500 that ask for another try."""


def signature(secret: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """HMAC-SHA256 of id, time and body, in base64 behind the version of the scheme.

    >>> signature(b"secret", "a1", 1_767_571_200, b"{}")
    'v1,qrY+xRhOZ0V6ujyELxROUOanMeMwPWLLde/YVZtU4y4='
    """
    signed = f"{webhook_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


@dataclass(slots=True)
class Webhook:
    """Where actions go; suppressed ones ask nobody for anything, and stay."""

    url: str
    secret: bytes = field(repr=False)
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def note(self, value: bytes | None) -> None:
        """An action that was delivered before."""
        action = read_action(value)
        if action is not None:
            self._remember(action.id)

    async def deliver(self, session: aiohttp.ClientSession, value: bytes | None) -> bool:
        """Whether it is done with; otherwise it has to be tried again."""
        action = read_action(value)
        if action is None or value is None:
            log.error(NO_ACTION, len(value or b""))
            return True
        if action.data.state is State.SUPPRESSED or action.id in self._seen:
            return True
        status = await self._post(session, action.id, value)
        if status is None or status >= 500 or status in RETRIED:
            return False
        if status >= 300:
            said = {"action_id": action.id, "model": action.subject}
            log.error("action %s was refused by the webhook with %d; left out", action.id, status, extra=said)
        self._remember(action.id)
        return True

    async def _post(self, session: aiohttp.ClientSession, webhook_id: str, body: bytes) -> int | None:
        """The status of the answer; None without one."""
        now_s = int(time.time())
        headers = {
            "content-type": "application/cloudevents+json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": signature(self.secret, webhook_id, now_s, body),
        }
        try:
            # A redirect would lead to an address that nobody has allowed.
            async with session.post(self.url, data=body, headers=headers, allow_redirects=False) as answer:
                if answer.status >= 500 or answer.status in RETRIED:
                    log.warning("the webhook answered %d; trying again", answer.status)
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("no answer from the webhook (%s); trying again", type(error).__name__)
            return None

    def _remember(self, action_id: str) -> None:
        self._seen[action_id] = None
        if len(self._seen) > MOST_IDS:
            self._seen.popitem(last=False)


async def run(connection: Connection, group: str, webhook: Webhook, instance: str | None = None) -> None:
    """Delivers actions, those of the past that were not delivered first, until it is cancelled.

    `instance`: its name in the group; who comes back under it takes over at once, and not when the dead one is missed.
    """
    topic = connection.topic("actions")
    await topics.wait_for(connection, topic)
    consumer = connection.consumer(group_id=group, group_instance_id=instance)
    first = _First(consumer, {})
    consumer.subscribe([topic], listener=first)
    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    wait_s = FIRST_WAIT_S
    try:
        await consumer.start()
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                try:
                    fetched = await consumer.getmany(timeout_ms=POLL_MS)
                    all_done = await deliver(consumer, session, webhook, fetched, first.offsets)
                except NOT_AUTHORIZED as error:
                    raise await connection.failure(error, "READ") from None
                except (KafkaError, TimeoutError) as error:  # what was not committed is known by its id
                    log.warning("Kafka: %s; trying again", str(error) or type(error).__name__)
                    all_done = False
                if not all_done:
                    await asyncio.sleep(wait_s)
                wait_s = FIRST_WAIT_S if all_done else min(2 * wait_s, LONGEST_WAIT_S)
    finally:
        await consumer.stop()


async def deliver(
    consumer: AIOKafkaConsumer,
    session: aiohttp.ClientSession,
    webhook: Webhook,
    fetched: Mapping[TopicPartition, Sequence[ConsumerRecord]],
    first: Mapping[TopicPartition, int],
) -> bool:
    """Whether all is done with. What is not will be fetched again."""
    all_done = True
    for tp, records in fetched.items():
        for record in records:
            if tp not in consumer.assignment() or tp not in first:
                break  # a rebalance came, or is under way: its owner begins after what was committed
            if record.offset < first[tp]:
                webhook.note(record.value)
            elif not (await webhook.deliver(session, record.value) and await _committed(consumer, tp, record.offset)):
                if tp in consumer.assignment():  # a rebalance may have come while we waited
                    consumer.seek(tp, record.offset)
                all_done = False
                break
    return all_done


async def _committed(consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> bool:
    """Whether Kafka knows that this record is done with. Until it does, no other is begun."""
    try:
        async with asyncio.timeout(COMMIT_WITHIN_S):
            await consumer.commit({tp: offset + 1})
    except NOT_AUTHORIZED:
        raise
    except (KafkaError, TimeoutError) as error:
        log.warning("Kafka: %s; trying again", str(error) or type(error).__name__)
        return False
    return True


@dataclass(slots=True)
class _First(ConsumerRebalanceListener):  # type: ignore[misc]
    """Where delivery begins in each partition that is ours: after the last action that was accepted."""

    consumer: AIOKafkaConsumer
    offsets: dict[TopicPartition, int]

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        tps = list(assigned)
        earliest = await self.consumer.beginning_offsets(tps) if tps else {}
        for tp in tps:
            committed = await self.consumer.committed(tp) or 0
            self.consumer.seek(tp, max(earliest[tp], committed - LOOK_BACK))
            self.offsets[tp] = committed  # last: who finds it here has records from there on

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        for tp in revoked:
            self.offsets.pop(tp, None)
