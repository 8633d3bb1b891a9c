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
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from agents.clients import Connection
from streams.action import Action, State
from streams.errors import UNREADABLE, ConfigError

log = logging.getLogger(__name__)

LOOK_BACK = 2_000
"""So many records before the first one to deliver are read for their ids, which must not be delivered again."""
MOST_IDS = 50_000
POLL_MS = 500
ANSWER_WITHIN_S = 10.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
RETRIED = frozenset({408, 425, 429})
"""Answers below 500 that ask for another try."""

_action = msgspec.json.Decoder(Action).decode


def signature(secret: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """HMAC-SHA256 of id, time and body, in base64 behind the version of the scheme.

    >>> signature(b"secret", "a1", 1_767_571_200, b"{}")
    'v1,qrY+xRhOZ0V6ujyELxROUOanMeMwPWLLde/YVZtU4y4='
    """
    signed = f"{webhook_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def check_address(url: str, hosts: Iterable[str]) -> str:
    """The address, if it may be called.

    Raises:
        ConfigError: if it is no URL, its host is not among `hosts` (where there are any), or it is neither https, nor
            on loopback, nor to one of `hosts`: a signature does not hide what an action says.
    """
    parts, allowed = urlsplit(url), tuple(hosts)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        raise ConfigError(
            place="--url", seen=repr(url), expected="https://host/path, without a password", mend="correct it"
        )
    if parts.scheme == "http" and not _is_loopback(host) and host not in allowed:
        raise ConfigError(
            place="--url", seen=f"http to {host}", expected="https, or http on loopback", mend="use https"
        )
    if allowed and host not in allowed:
        raise ConfigError(
            place="--url",
            seen=f"the host {host}",
            expected="one of " + ", ".join(allowed),
            mend="allow it, or correct it",
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(slots=True)
class Told:
    """What became of the actions."""

    delivered: int = 0
    repeated: int = 0
    refused: int = 0
    """The address said that it will never take them, or they are no actions."""


@dataclass(slots=True)
class Webhook:
    """Where actions go. `states`: those that are told; a suppressed action asks nobody for anything."""

    url: str
    secret: bytes = field(repr=False)
    states: frozenset[State] = frozenset({State.FIRING, State.RESOLVED})
    told: Told = field(default_factory=Told)
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def note(self, value: bytes | None) -> None:
        """An action that was delivered before."""
        action = _read(value)
        if action is not None:
            self._remember(action.id)

    async def deliver(self, session: aiohttp.ClientSession, value: bytes | None) -> bool:
        """Whether it is done with; otherwise it has to be tried again."""
        action = _read(value)
        if action is None or value is None:
            self.told.refused += 1
            log.error("no action: %r; left out", (value or b"")[:80])
            return True
        if action.data.state not in self.states:
            return True
        if action.id in self._seen:
            self.told.repeated += 1
            return True
        status = await self._post(session, action.id, value)
        if status is None or status >= 500 or status in RETRIED:
            return False
        if status >= 300:
            self.told.refused += 1
            log.error("action %s was refused by the webhook with %d; left out", action.id, status)
        else:
            self.told.delivered += 1
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


async def run(connection: Connection, group: str, webhook: Webhook) -> None:
    """Delivers actions, those of the past that were not delivered first, until it is cancelled."""
    consumer = connection.consumer(group_id=group)
    first = _First(consumer, {})
    consumer.subscribe([connection.topic("actions")], listener=first)
    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    wait_s = FIRST_WAIT_S
    try:
        await consumer.start()
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                for tp, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                    for record in records:
                        if record.offset < first.offsets.get(tp, 0):
                            webhook.note(record.value)
                        elif await webhook.deliver(session, record.value):
                            wait_s = FIRST_WAIT_S
                            await consumer.commit({tp: record.offset + 1})
                        else:
                            consumer.seek(tp, record.offset)
                            await asyncio.sleep(wait_s)
                            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                            break
    finally:
        await consumer.stop()


@dataclass(slots=True)
class _First(ConsumerRebalanceListener):  # type: ignore[misc]
    """Where delivery begins in each partition that is ours: after the last action that was accepted."""

    consumer: AIOKafkaConsumer
    offsets: dict[TopicPartition, int]

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        tps = list(assigned)
        earliest = await self.consumer.beginning_offsets(tps) if tps else {}
        for tp in tps:
            self.offsets[tp] = await self.consumer.committed(tp) or 0
            self.consumer.seek(tp, max(earliest[tp], self.offsets[tp] - LOOK_BACK))

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        return None


def _read(value: bytes | None) -> Action | None:
    try:
        return _action(value) if value is not None else None
    except UNREADABLE:
        return None
