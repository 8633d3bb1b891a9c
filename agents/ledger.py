"""Topics → ledgers: the workers' own snapshots, and what has been published since."""

from __future__ import annotations

import logging

import msgspec

from agents.clients import Connection
from agents.follow import read_all
from agents.loader import Records
from streams.ack import read_ack
from streams.action import read_action
from streams.errors import UNREADABLE, NewerError, SketchError
from streams.events import Invalid
from streams.ledger import Ledger, terms_of, unpack_ledger
from streams.plan import Plan
from streams.publication import LEDGER_KEY
from streams.text import plain
from streams.window import WindowRecord

log = logging.getLogger(__name__)

_window = msgspec.json.Decoder(WindowRecord).decode


async def from_topics(connection: Connection, plan: Plan) -> list[Ledger]:
    """The ledgers of all models: a worker's snapshot, then the records on the topics; known records change nothing.

    Raises:
        BrokerError: if a topic is missing.
    """
    reading = _Reading(plan)
    for name in ("state", "windows", "actions", "acks"):
        await read_all(connection, getattr(reading, name), name)
    return list(reading.ledgers.values())


class _Reading:
    """Takes the records of each topic."""

    def __init__(self, plan: Plan) -> None:
        self.ledgers = {name: Ledger(terms_of(model)) for name, model in plan.models.items()}

    def state(self, records: Records) -> None:
        for record in records:
            if record.value is None or not (record.key or b"").startswith(LEDGER_KEY):
                continue
            try:
                found = unpack_ledger(record.value, record.key)
            except (NewerError, SketchError) as error:
                log.error("state %r: %s; left out", record.key[:80], plain(str(error)))
                continue
            if found.model in self.ledgers:
                self.ledgers[found.model] = Ledger(self.ledgers[found.model].terms, found)

    def windows(self, records: Records) -> None:
        for record in records:
            try:
                window = _window(record.value or b"")
            except UNREADABLE:
                continue  # of a later release, or none of ours
            if window.model in self.ledgers:
                self.ledgers[window.model].take_window(window)

    def actions(self, records: Records) -> None:
        for record in records:
            action = read_action(record.value)
            if action is not None and action.data.model in self.ledgers:
                self.ledgers[action.data.model].take_action(action)

    def acks(self, records: Records) -> None:
        for record in records:
            try:
                ack = read_ack(record.value)
            except Invalid:
                continue  # the workers tell of it
            for ledger in self.ledgers.values():
                if ledger.knows(ack.action_id):
                    ledger.take_ack(ack)
