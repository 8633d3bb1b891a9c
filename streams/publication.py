"""Evaluated pane → the records that stage 2 publishes, in the order in which they are acknowledged.

The live worker sends these records; a backtest packs the same ones and opens them again. So what cannot be written, or
not be read again, fails in a backtest too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from streams.duration import format_ms
from streams.errors import SketchError
from streams.judge_model import Outcome
from streams.ledger import pack_ledger, unpack_ledger
from streams.rollup import UnitId
from streams.state import ModelState, pack_state, pack_unit, unpack_state, unpack_unit

BOOKS_KEY = b"\0books"
UNIT_KEY = b"\0rollup/"
LEDGER_KEY = b"\0ledger/"


class Record(NamedTuple):
    """One record. `topic` is the name without the prefix; `value` None deletes the key.

    Records of `state` go to the partition of the model's bucket, all others to the partition that their key gives.
    """

    topic: Literal["windows", "actions", "state"]
    key: bytes
    value: bytes | None


def publications(outcome: Outcome) -> Iterator[Sequence[Record]]:
    """Groups of records: each group is acknowledged before the next one is sent.

    Windows and actions; then units and the ledger; and last the state, which confirms that all of them are out.
    """
    encode = msgspec.json.encode
    results = [Record("windows", item.key, encode(item)) for item in outcome.windows]
    results += [Record("actions", item.subject.encode(), encode(item)) for item in outcome.actions]
    if results:
        yield results
    if outcome.state is None:
        return
    name = outcome.model
    units = [(unit_key(name, unit.id), unit) for unit in outcome.units]
    kept = [Record("state", key, pack_unit(name, unit, key)) for key, unit in units]
    kept += [Record("state", unit_key(name, unit), None) for unit in outcome.forgotten]
    if outcome.ledger is not None:
        kept.append(Record("state", ledger_key(name), pack_ledger(outcome.ledger, ledger_key(name))))
    if kept:
        yield kept
    yield [Record("state", name.encode(), pack_state(outcome.state, name.encode()))]


def check_publication(outcome: Outcome) -> None:
    """Packs all records of an evaluated pane, and opens those that a restart reads.

    Raises:
        SketchError: if a record opens as something else than what was packed.
        TypeError: if something cannot be packed at all.
    """
    for topic, key, value in (record for group in publications(outcome) for record in group):
        if topic != "state" or value is None:
            continue
        if key.startswith(UNIT_KEY):
            same = pack_unit(*unpack_unit(value, key), key) == value
        elif key.startswith(LEDGER_KEY):
            same = unpack_ledger(value, key) == outcome.ledger
        else:
            same = unpack_state(value, ModelState, key) == outcome.state
        if not same:
            raise SketchError(seen=f"state {key[:80]!r} that opens as another one", expected="what was packed")


def unit_key(model: str, unit: UnitId) -> bytes:
    stream, level_ms, start_ms = unit
    return UNIT_KEY + f"{model}/{format_ms(level_ms)}/{start_ms}{f'/{stream}' if stream else ''}".encode()


def ledger_key(model: str) -> bytes:
    return LEDGER_KEY + model.encode()
