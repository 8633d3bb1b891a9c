"""Topic `actions` → alerts of Prometheus Alertmanager: one fires while an incident is open.

At its start the bridge reads the open incidents from `state`, which keeps all of them, and then their details from
`actions`, whose retention may have deleted some. Alertmanager resolves an alert that nobody repeats, so the bridge
sends all open ones every minute; a repeat changes nothing there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from agents import topics
from agents.clients import Connection
from agents.follow import going_on, read_all
from agents.loader import Records
from agents.logs import NO_ACTION
from streams.action import Action, action_line, read_action
from streams.config import Model
from streams.errors import NewerError, SketchError
from streams.incident_log import LatestIncidents, Subject, subject_of
from streams.open_incidents import open_actions
from streams.state import ModelState, unpack_state
from streams.text import plain
from streams.times import rfc3339

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 10.0
REPEAT_S, RETRY_S = 60.0, 2.0
LASTS_S = 300.0
"""Alertmanager resolves an alert that was not repeated for so long."""
POLL_MS = 500
STATE = "state"
"""The state of stage 2: compacted, so an open incident stays in it, however old."""


class OpenIncidents:
    """The open incidents by their key, and the ones that ended since the last message to Alertmanager."""

    def __init__(self) -> None:
        self._latest = LatestIncidents()
        self.over: dict[Subject, Action] = {}

    @property
    def firing(self) -> dict[Subject, Action]:
        return {found.key.subject: action for found in self._latest if (action := found.alert) is not None}

    def take(self, value: bytes | None, *, fresh: bool = True) -> bool:
        """Adds an action; true if it changes anything. The end of an incident changes nothing unless it is `fresh`."""
        action = read_action(value)
        if action is None:
            log.error(NO_ACTION, len(value or b""))
            return False
        known, incident = self._latest.of(subject_of(action)), self._latest.take(action)
        if incident is None:
            return False  # of an earlier incident: `state` knows a later one
        subject, before, now = incident.key.subject, known.alert if known else None, incident.alert
        if now is not None:
            self.over.pop(subject, None)
            return before is None or before.id != now.id
        if before is not None and fresh:
            self.over[subject] = before
        return before is not None and fresh

    def restore(self, action: Action) -> None:
        """Adds an incident that is open by `state`; a later record of `actions` about it replaces it."""
        self._latest.take(action)

    def alerts(self, now_s: float) -> list[dict[str, Any]]:
        """All alerts to send to Alertmanager."""
        now, later = (rfc3339(int(seconds * 1000)) for seconds in (now_s, now_s + LASTS_S))
        return [alert(a, later) for a in self.firing.values()] + [alert(a, now) for a in self.over.values()]


def alert(action: Action, ends: str) -> dict[str, Any]:
    """An alert of Alertmanager's API v2. Its labels identify the incident and do not change while it is open."""
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
    notes = {"summary": action_line(action), "runbook_url": data.runbook, "action_id": action.id}
    return {
        "labels": {name: plain(value) for name, value in labels.items() if value},
        "annotations": {name: value for name, value in notes.items() if value},
        "startsAt": data.since,
        "endsAt": ends,
    }


def _label(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)


async def restore(connection: Connection, models: Mapping[str, Model], incidents: OpenIncidents) -> None:
    """Adds every incident that is open by `state`.

    Raises:
        BrokerError: if the topic may not be read, or Kafka does not answer.
    """
    latest: dict[tuple[int, bytes], bytes] = {}

    def take(records: Records) -> None:
        for record in records:
            if record.key is not None and not record.key.startswith(b"\0"):  # others are not of a model as such
                latest[record.partition, record.key] = record.value or b""

    topic = connection.topic(STATE)
    if await topics.find(connection, topic) is None:
        log.warning(
            "no topic %s, or DESCRIBE on it is not allowed to us: open incidents are those on the actions topic alone",
            topic,
        )
        return
    await read_all(connection, take, STATE)
    for (_, key), value in latest.items():
        for action in _open_in(key, value, models):
            incidents.restore(action)


def _open_in(key: bytes, value: bytes, models: Mapping[str, Model]) -> list[Action]:
    if not value:
        return []
    try:
        state = unpack_state(value, ModelState, key)
        config = models.get(state.model)
        return [] if config is None else list(open_actions(state.model, config, state))
    except (NewerError, SketchError) as error:
        log.error("state %r: %s; its open incidents are those on the actions topic alone", key[:80], plain(str(error)))
        return []


async def run(connection: Connection, url: str, models: Mapping[str, Model]) -> None:
    """Sends every open incident of these models to Alertmanager at a base URL, until it is cancelled."""
    incidents = OpenIncidents()
    await restore(connection, models, incidents)

    def take(records: Records) -> None:
        known_ms = (time.time() - LASTS_S) * 1000  # what was over before, Alertmanager knows, or has let go of
        for record in records:
            incidents.take(record.value, fresh=record.timestamp >= known_ms)

    ends = await read_all(connection, take)
    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    async with (
        going_on(connection, ends) as consumer,
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
    ):
        due = 0.0
        while True:
            for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                if any([incidents.take(record.value) for record in records]):
                    due = 0.0
            if time.monotonic() >= due:
                told = await _post(session, url, incidents.alerts(time.time()))
                due = time.monotonic() + (REPEAT_S if told else RETRY_S)
                if told:
                    incidents.over.clear()


async def _post(session: aiohttp.ClientSession, url: str, alerts: list[dict[str, Any]]) -> bool:
    """Whether Alertmanager took them."""
    try:
        async with session.post(f"{url.rstrip('/')}/api/v2/alerts", json=alerts, allow_redirects=False) as answer:
            if answer.status == 200:
                return True
            log.warning("Alertmanager answered %d: %s; trying again", answer.status, (await answer.text())[:200])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("no answer from Alertmanager (%s); trying again", type(error).__name__)
    return False
