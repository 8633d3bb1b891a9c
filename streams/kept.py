"""One record of `state` → the judge that goes on from it, whatever the record is.

Anybody who may write to the topic may have written it: it is restored, or refused with SketchError, and nothing else.
"""

from __future__ import annotations

from streams.chunk_merge import BooksState
from streams.errors import SketchError
from streams.judge import BucketJudge
from streams.ledger import unpack_ledger
from streams.publication import BOOKS_KEY, LEDGER_KEY, UNIT_KEY, ledger_key, unit_key
from streams.state import ModelState, unpack_state, unpack_unit


def restore_record(judge: BucketJudge, key: bytes, value: bytes) -> None:
    """Gives a record to the judge of its bucket. Those of a model itself come before its roll-ups.

    Raises:
        NewerError: it is whole, and of a later release.
        SketchError: no worker has written it, or not under this key.
    """
    if key.startswith(BOOKS_KEY):
        topic = _text(key[len(BOOKS_KEY) :]) or judge.merge.topic
        judge.restore_books(topic, unpack_state(value, BooksState))
    elif key.startswith(UNIT_KEY):
        model, unit = unpack_unit(value)
        _require(key == unit_key(model, unit.id))
        judge.restore_unit(model, unit)
    elif key.startswith(LEDGER_KEY):
        ledger = unpack_ledger(value)
        _require(key == ledger_key(ledger.model))
        judge.restore_ledger(ledger)
    else:
        state = unpack_state(value, ModelState)
        _require(key == state.model.encode())
        judge.restore(state)


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise SketchError(seen="a key that is no UTF-8", expected="a name of a topic") from None


def _require(holds: bool) -> None:
    if not holds:
        raise SketchError(seen="a record under another one's key", expected="the key of what it holds")
