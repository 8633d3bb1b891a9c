"""One record of `state` → the evaluator that continues from it.

Anybody who may write to the topic may have written it: it is restored, or refused with SketchError, and nothing else. A
record with the seal of a later release parks its models: ignoring it would give wrong numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from streams.errors import NewerError, SketchError
from streams.judge import BucketJudge
from streams.ledger import unpack_ledger
from streams.model_panes import BooksState
from streams.parking import Phase
from streams.publication import BOOKS_KEY, LEDGER_KEY, UNIT_KEY, ledger_key, unit_key
from streams.state import ModelState, unpack_state, unpack_unit


def restore_record(judge: BucketJudge, key: bytes, value: bytes) -> None:
    """Passes a record to the evaluator of its bucket. A model's own records come before its roll-ups.

    Raises:
        NewerError: it is whole, and of a later release.
        SketchError: no worker has written it, or not under this key.
    """
    if key.startswith(BOOKS_KEY):
        topic = _text(key[len(BOOKS_KEY) :]) or judge.merge.topic
        judge.restore_books(topic, unpack_state(value, BooksState, key))
    elif key.startswith(UNIT_KEY):
        model, unit = unpack_unit(value, key)
        _require(key == unit_key(model, unit.id))
        judge.restore_unit(model, unit)
    elif key.startswith(LEDGER_KEY):
        ledger = unpack_ledger(value, key)
        _require(key == ledger_key(ledger.model))
        judge.restore_ledger(ledger)
    else:
        state = unpack_state(value, ModelState, key)
        _require(key == state.model.encode())
        judge.restore(state)


_UNIT_ID = re.compile(rb"[0-9]+[a-z]+/-?[0-9]+(/.*)?", re.DOTALL)


def models_of(key: bytes, names: Iterable[str]) -> list[str]:
    """The models that a record of `state` with this key belongs to: one, none, or all of its bucket.

    >>> models_of(b"a", ["a", "b"]), models_of(UNIT_KEY + b"a/1h/0", ["a", "a/1h"]), models_of(BOOKS_KEY, ["a", "b"])
    (['a'], ['a'], ['a', 'b'])
    """
    if key.startswith(BOOKS_KEY):
        return list(names)
    if not key.startswith(UNIT_KEY):
        return [name for name in names if key in (name.encode(), ledger_key(name))]
    begins = {name: UNIT_KEY + name.encode() + b"/" for name in names}
    return [n for n, begin in begins.items() if key.startswith(begin) and _UNIT_ID.fullmatch(key[len(begin) :])]


def park_for(judge: BucketJudge, key: bytes, error: NewerError) -> list[str]:
    """Parks the models of a later release's record of `state`, and returns their names.

    This process evaluates, publishes and deletes nothing of them, so that release continues from where it stopped.
    """
    if key.startswith(BOOKS_KEY):
        return judge.stand_still(error)
    names = models_of(key, judge.merge.models)
    for name in names:
        judge.parking.park(name, Phase.RESTORE, error)
    return names


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise SketchError(seen="a key that is no UTF-8", expected="a name of a topic") from None


def _require(holds: bool) -> None:
    if not holds:
        raise SketchError(seen="a record under another one's key", expected="the key of what it holds")
