"""The actions topic → alerts of Prometheus Alertmanager, which rise with an incident and clear when it is over.

An alert is an incident: the log says which are open, so a restart reads the topic again. Alertmanager forgets an alert
that nobody repeats, so all open ones are sent every minute; a repeat changes nothing there.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import aiohttp

from agents.clients import Connection
from agents.follow import going_on, read_all
from agents.loader import Records
from agents.logs import NO_ACTION
from streams.action import Action, IncidentKey, State, action_line, incident_key, read_action
from streams.times import rfc3339

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 10.0
REPEAT_S, RETRY_S = 60.0, 2.0
LASTS_S = 300.0
"""Alertmanager takes an alert for over when it has not been repeated for so long."""
POLL_MS = 500


class OpenIncidents:
    """Which incidents are open, by what they are about, and which are over since Alertmanager was told."""

    def __init__(self) -> None:
        self.firing: dict[IncidentKey, Action] = {}
        self.over: dict[IncidentKey, Action] = {}

    def take(self, value: bytes | None, *, fresh: bool = True) -> bool:
        """Whether it is news. The end of an incident is none if it is not `fresh`."""
        action = read_action(value)
        if action is None:
            log.error(NO_ACTION, len(value or b""))
            return False
        data = action.data
        key = incident_key(data.model, data.rule, data.model_version, data.segment)
        if data.state is State.FIRING:
            before, self.firing[key] = self.firing.get(key), action
            self.over.pop(key, None)
            return before is None or before.id != action.id
        began = self.firing.pop(key, None)
        if began is None or not fresh:
            return False
        self.over[key] = began
        return True

    def alerts(self, now_s: float) -> list[dict[str, Any]]:
        """All that Alertmanager has to be told."""
        now, later = (rfc3339(int(seconds * 1000)) for seconds in (now_s, now_s + LASTS_S))
        return [alert(a, later) for a in self.firing.values()] + [alert(a, now) for a in self.over.values()]


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
    notes = {"summary": action_line(action), "runbook_url": data.runbook, "action_id": action.id}
    return {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {name: value for name, value in notes.items() if value},
        "startsAt": data.since,
        "endsAt": ends,
    }


def _label(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)


async def run(connection: Connection, url: str) -> None:
    """Tells Alertmanager at a base URL of every open incident, until it is cancelled."""
    incidents = OpenIncidents()

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
