"""What is known of every event id: kept in a key-value store until nothing can change it any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import compress, islice, repeat
from typing import Any

import msgspec
import numpy as np

from streams.arrays import Ints
from streams.duration import HOUR_MS
from streams.sketch.outcomes import Prediction
from streams.store import Changes, Store

LONGEST_KEY = 64
MAX_LISTED = 4_096
"""Keys of one list of the expiry index: so many are looked at together."""
EXPIRY_PACE = 4
"""A commit lets go of so many times what it adds at the most, so that no hour's end stops the stream."""

_EXPIRY = b"x"


class Entry(msgspec.Struct, array_like=True, gc=False):
    """A label as it is remembered. `joined`: it has met a prediction."""

    offset: int
    arrival_ms: int
    model: str
    label: float | str | bool | None
    joined: bool = False


class History(msgspec.Struct, array_like=True, gc=False):
    """The predictions and labels of one event id; models may share ids."""

    predictions: list[Prediction]
    labels: list[Entry]

    def is_over(self, limit_ms: int) -> bool:
        """Whether all of it is older."""
        times = (*(given.ts_ms for given in self.predictions), *(entry.arrival_ms for entry in self.labels))
        return max(times, default=limit_ms - 1) < limit_ms


_pack = msgspec.msgpack.Encoder().encode
_history = msgspec.msgpack.Decoder(History).decode
_keys = msgspec.msgpack.Decoder(list[bytes]).decode


class Histories:
    """Histories by key over a store. What is put waits in memory until the owner writes `changes` to the store."""

    def __init__(self, store: Store, sequence: int) -> None:
        """`sequence`: how many lists of the expiry index were ever written."""
        self.sequence = sequence
        self._store = store
        self._expired_hour = -(2**40)
        """Everything of earlier hours has been looked at."""
        self._changed: Changes = {}
        self._listed: dict[int, list[bytes]] = {}
        """Keys by the hour that has to be over before they are looked at again."""

    def find(self, keys: Sequence[bytes]) -> dict[bytes, History]:
        """Those that there are."""
        waiting: dict[bytes, bytes] = {}
        if not self._changed.keys().isdisjoint(keys):  # of predictions hardly one is there
            waiting = {key: value for key in keys if (value := self._changed.get(key)) is not None}
        stored = [key for key in keys if key not in waiting] if waiting else keys
        values = self._store.get_many(stored)
        if values.count(None) < len(values):
            waiting.update((key, value) for key, value in zip(stored, values, strict=True) if value is not None)
        return {key: _history(value) for key, value in waiting.items()}

    def put(self, key: bytes, history: History, time_ms: int) -> None:
        """`time_ms`: of what is new in it."""
        self._changed[key] = _pack(history)
        self._listed.setdefault(time_ms // HOUR_MS, []).append(key)

    def put_new(self, keys: Sequence[bytes], given: Iterable[tuple[Any, ...]], times_ms: Ints) -> None:
        """Histories that begin with a prediction: `given` are its fields, in the order of `Prediction`."""
        self._changed.update(
            zip(keys, map(_pack, zip(zip(given, strict=False), repeat(()), strict=False)), strict=True)
        )
        hours = times_ms // HOUR_MS
        first, last = (int(hours.min()), int(hours.max())) if len(hours) else (0, 0)
        if first == last:
            self._listed.setdefault(first, []).extend(keys)
            return
        for hour in np.unique(hours).tolist():
            self._listed.setdefault(hour, []).extend(compress(keys, (hours == hour).tolist()))

    def expired(self, limit_ms: int) -> tuple[Changes, list[History]]:
        """What to write so as to forget histories that are over, and these; a part of them, if they are many."""
        hour, left = limit_ms // HOUR_MS, EXPIRY_PACE * max(MAX_LISTED, len(self._changed))
        changes: Changes = {}
        over: dict[bytes, History] = {}
        for index, value in self._store.scan(_EXPIRY) if hour > self._expired_hour else ():
            if index >= _EXPIRY + _ordered(hour):
                break
            if left <= 0:
                hour = self._expired_hour
                break
            keys = _keys(value)
            left -= len(keys)
            over |= {key: found for key, found in self.find(keys).items() if found.is_over(limit_ms)}
            changes[index] = None
        self._expired_hour = hour
        for key in over:
            self._changed.pop(key, None)
        return changes | dict.fromkeys(over), list(over.values())

    def changes(self) -> Changes:
        """What has been put since the last call."""
        changes, self._changed = self._changed, {}
        for hour, keys in self._listed.items():
            rest = iter(keys)
            while part := list(islice(rest, MAX_LISTED)):
                self.sequence += 1
                changes[_EXPIRY + _ordered(hour) + _ordered(self.sequence)] = _pack(part)
        self._listed = {}
        return changes


def keys_of(event_ids: Sequence[str]) -> list[bytes]:
    """The keys of histories; long ids are hashed."""
    raws = [event_id.encode("utf-8", "surrogatepass") for event_id in event_ids]
    return [b"p" + raw if len(raw) <= LONGEST_KEY else b"h" + blake2b(raw, digest_size=24).digest() for raw in raws]


def _ordered(number: int) -> bytes:
    return (number + 2**63).to_bytes(8, "big")
