"""The `state` topic, read and not written → what a restart under a configuration would make of it."""

from __future__ import annotations

from agents.clients import Connection
from agents.follow import read_all
from agents.loader import Records
from streams.against_state import state_lines
from streams.plan import Plan


async def lines_of(connection: Connection, plan: Plan) -> list[str]:
    """Sentences, by model.

    Raises:
        BrokerError: there is no such topic, it may not be read, or Kafka is away.
    """
    kept: dict[tuple[int, bytes], bytes] = {}

    def take(records: Records) -> None:
        for record in records:
            if record.key is not None:
                kept[record.partition, record.key] = record.value or b""

    await read_all(connection, take, "state")
    return list(state_lines(plan, {place: value for place, value in kept.items() if value}))
