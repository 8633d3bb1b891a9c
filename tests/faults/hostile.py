"""Records that nobody of ours wrote, on every topic that workers read beside the events: noise, and near misses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from streams.seal import is_sealed
from tests.batches import GZIP, NONE, Batch, Item
from tests.faults.cluster import partitions_of_topic, read_topic
from tests.faults.stage import Stage
from tests.faults.stream import HOSTILE_MARK, Pair
from tests.faults.writers import ODD_HEADERS, raw_sender
from tests.later_release import LATER, later_release

OWN_TOPICS = ("partials", "progress", "state", "acks", "windows", "actions", "dead-letter")
RECORDS = 40
BOMB_BYTES = 12 << 20
"""What a few kilobytes inflate to; a topic of ours takes no larger record."""


def hostile(stage: Stage) -> None:
    """Noise, damaged copies of real records and bombs on every topic of ours; workers read on, and start from it."""
    stage.until(lambda: all(partitions_of_topic(stage.connection, name) for name in OWN_TOPICS))
    stage.until(lambda: bool(read_topic(stage.connection, "state")))
    for name in OWN_TOPICS:
        partitions = partitions_of_topic(stage.connection, name)
        known = [(record.key, record.value) for record in read_topic(stage.connection, name) if record.value][-20:]
        asyncio.run(_send(stage, name, partitions, known))
    stage.live(0.5, 2.0)
    victim = stage.pick()
    victim.kill()
    del stage.crew[victim.instance]
    stage.start(victim.instance)
    stage.live(1.0, 2.0)


async def _send(stage: Stage, name: str, partitions: int, known: Sequence[Pair]) -> None:
    rng = stage.rng
    async with raw_sender(stage.connection, stage.connection.topic(name)) as sender:
        for partition in range(partitions):
            items = [_item(rng, known) for _ in range(RECORDS)]
            await sender.send(partition, Batch(0, items, codec=rng.choice((NONE, GZIP))))
            await sender.send(partition, Batch(0, [Item(b"\0" * BOMB_BYTES, HOSTILE_MARK)], codec=GZIP))


def _item(rng: random.Random, known: Sequence[Pair]) -> Item:
    """A record under a key that none of ours has: under one of ours it would take the place of the true one."""
    key = rng.randbytes(rng.randrange(12))
    if known and rng.random() < 0.5:
        key = (rng.choice(known)[0] or b"")[: rng.randrange(1, 20)] + key
    headers = tuple(rng.sample(ODD_HEADERS, 1)) if rng.random() < 0.3 else ()
    return Item(_value(rng, [value for _, value in known]), key + HOSTILE_MARK, headers)


def _value(rng: random.Random, values: Sequence[bytes]) -> bytes | None:
    kind = rng.randrange(6)
    if kind == 0:
        return None
    if kind == 1:
        return b"{" * rng.randrange(1, 5_000)
    if kind == 2 or not values:
        return rng.randbytes(rng.randrange(0, 400))
    damaged = bytearray(rng.choice(values))
    if kind == 3:
        return bytes(damaged[: rng.randrange(len(damaged))])
    if kind == 4:
        return _of_a_later_format(rng, bytes(damaged))
    for at in rng.sample(range(len(damaged)), min(len(damaged), rng.randint(1, 4))):
        damaged[at] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _of_a_later_format(rng: random.Random, value: bytes) -> bytes:
    """A record that claims a later release's format: the format alone, or a whole one that stood under another key."""
    if rng.random() < 0.5:
        return later_release(value, b"another key")
    if is_sealed(value):
        return value[:4] + bytes([rng.randrange(LATER, 256)]) + value[5:]
    return b'{"format": %d}' % rng.randrange(LATER, 1 << 40)
