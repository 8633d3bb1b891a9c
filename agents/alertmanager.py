"""The actions topic → alerts of Prometheus Alertmanager, which rise with an incident and clear when it is over.

An alert is an incident: the log says which are open, so a restart reads the topic again. Alertmanager forgets an alert
that nobody repeats, so all open ones are sent every minute; a repeat changes nothing there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
from aiokafka import TopicPartition

from agents import topics
from agents.clients import Connection
from agents.loader import Records, read_to_end
from streams.action import Action, IncidentKey, State, action_line, incident_key
from streams.errors import UNREADABLE, BrokerError
from streams.times import rfc3339

log = logging.getLogger(__name__)

READ_WITHIN_S = 120.0
ANSWER_WITHIN_S = 10.0
REPEAT_S = 60.0
LASTS_S = 300.0
"""Alertmanager takes an alert for over when it has not been repeated for so long."""
POLL_MS = 500

_action = msgspec.json.Decoder(Action).decode


class OpenIncidents:
    """Which incidents are open, by what they are about, and what Alertmanager has to be told."""

    def __init__(self) -> None:
        self.firing: dict[IncidentKey, Action] = {}
        self.over: list[Action] = []
        """Told once, then forgotten."""

    def take(self, value: bytes | None) -> bool:
        """Whether it is news."""
        try:
            action = _action(value) if value is not None else None
        except UNREADABLE:
            action = None
        if action is None:
            log.error("no action: %r; left out", (value or b"")[:80])
            return False
        data = action.data
        key = incident_key(data.model, data.rule, data.model_version, data.segment)
        if data.state is State.FIRING:
            news = key not in self.firing or self.firing[key].id != action.id
            self.firing[key] = action
            return news
        began = self.firing.pop(key, None)
        if began is not None:
            self.over.append(began)
        return began is not None

    def alerts(self, now_s: float) -> list[dict[str, Any]]:
        """What is open, and what is over since the last call that succeeded."""
        lasting = rfc3339(int((now_s + LASTS_S) * 1000))
        return [
            *(alert(action, lasting) for action in self.firing.values()),
            *(alert(action, rfc3339(int(now_s * 1000))) for action in self.over),
        ]


def alert(action: Action, ends: str) -> dict[str, Any]:
    """An alert of Alertmanager's API v2. Its labels say what it is about and never change while it lasts."""
    data = action.data
    labels = {
        "alertname": data.rule,
        "model": data.model,
        "model_version": data.model_version or "",
        "response": data.action,
        "severity": str(data.severity),
        "layer": str(data.layer),
        "owner": data.owner,
        **{f"segment_{_label(name)}": value for name, value in (data.segment or {}).items()},
    }
    notes = {"summary": action_line(msgspec.json.encode(action)), "runbook_url": data.runbook, "action_id": action.id}
    return {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {name: value for name, value in notes.items() if value},
        "startsAt": data.since,
        "endsAt": ends,
    }


def _label(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)


async def run(connection: Connection, url: str, clock: Callable[[], float] = time.time) -> None:
    """Tells Alertmanager at a base URL of every open incident, until it is cancelled."""
    topic = connection.topic("actions")
    partitions = await topics.find(connection, topic)
    if partitions is None:
        raise BrokerError(
            seen=f"no topic {topic} on {connection.broker}",
            expected="a worker to have made it",
            mend="start 'foreshock worker', or check --broker and the prefix",
        )
    incidents = OpenIncidents()

    def take(records: Records) -> None:
        for record in records:
            incidents.take(record.value)
            if record.timestamp < (clock() - LASTS_S) * 1000:
                incidents.over.clear()  # Alertmanager was told, or has let go of them by itself

    ends = await read_to_end(connection, topic, range(partitions), take, deadline_s=READ_WITHIN_S)
    consumer = connection.consumer()
    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    try:
        await consumer.start()
        consumer.assign([TopicPartition(topic, partition) for partition in ends])
        for partition, offset in ends.items():
            consumer.seek(TopicPartition(topic, partition), offset)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            due = clock()
            while True:
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    if any([incidents.take(record.value) for record in records]):
                        due = clock()
                if clock() >= due:
                    due = clock() + (REPEAT_S if await _post(session, url, incidents, clock()) else POLL_MS / 1000)
    finally:
        await consumer.stop()


async def _post(session: aiohttp.ClientSession, url: str, incidents: OpenIncidents, now_s: float) -> bool:
    """Whether Alertmanager took it."""
    found = incidents.alerts(now_s)
    if not found:
        return True
    told = len(incidents.over)
    try:
        async with session.post(f"{url.rstrip('/')}/api/v2/alerts", json=found, allow_redirects=False) as answer:
            if answer.status == 200:
                del incidents.over[:told]
                return True
            log.warning("Alertmanager answered %d: %s; trying again", answer.status, (await answer.text())[:200])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("no answer from Alertmanager (%s); trying again", type(error).__name__)
    await asyncio.sleep(1)
    return False
