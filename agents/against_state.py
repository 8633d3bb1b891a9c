"""Topic `state`, read and not written → what a restart under a configuration would do with it."""

from __future__ import annotations

from contextlib import suppress

from agents.clients import Connection
from agents.follow import read_all
from agents.loader import Records
from streams.against_state import check_counted, state_lines
from streams.errors import NewerError, SketchError
from streams.plan import Plan
from streams.progress import Progress


async def lines_of(connection: Connection, plan: Plan) -> list[str]:
    """Sentences, by model.

    Raises:
        BrokerError: there is no such topic, it may not be read, or Kafka does not answer.
        ConfigError: a worker would refuse to continue from what is there.
    """
    counted: dict[tuple[int, bytes], Progress] = {}

    def take_progress(records: Records) -> None:
        for record in records:
            with suppress(SketchError, NewerError):  # the worker leaves it out, and says so
                counted[record.partition, record.key or b""] = Progress.from_bytes(
                    record.value or b"", record.key or b""
                )

    kept: dict[tuple[int, bytes], bytes] = {}

    def take(records: Records) -> None:
        for record in records:
            if record.key is not None:
                kept[record.partition, record.key] = record.value or b""

    buckets = len(await read_all(connection, take, "state"))
    await read_all(connection, take_progress, "progress")
    check_counted(plan.config.kafka, buckets, counted.values())
    return list(state_lines(plan, {place: value for place, value in kept.items() if value}))
