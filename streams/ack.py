"""Values of the topic `acks` → Ack, what a consumer did about an action; or the reason why it is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from streams.envelope import Headers, checked_size, read_object
from streams.fields import Invalid, Reason, time_ms
from streams.times import instant_ms

MAX_ACK_BYTES = 16_384
MAX_ID, MAX_BY, MAX_NOTE = 128, 256, 2_000
MOST_ACKED = 50_000
MAX_KEPT_BYTES = 32 << 20
"""Actions whose acks are kept, and the bytes of all of them; beyond either, the actions that were acked first are
evicted."""


class Status(StrEnum):
    """What was done about an action."""

    SEEN = "seen"
    ACTED = "acted"
    DISMISSED = "dismissed"
    DONE = "done"


class Ack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a person or a program did about an action. The record's key is the action's id."""

    action_id: Annotated[str, Meta(min_length=1, max_length=MAX_ID, description="The id of the action.")]
    status: Annotated[Status, Meta(description="`acted`: begun; `done`: finished; `dismissed`: a false alarm.")]
    by: Annotated[str, Meta(min_length=1, max_length=MAX_BY, description="Who: a person or a program.")]
    ts: Annotated[str | int, Meta(description="When: RFC 3339, or milliseconds since 1970.")]
    note: Annotated[str, Meta(max_length=MAX_NOTE, description="Why, for the next reader.")] = ""

    @property
    def ts_ms(self) -> int:
        """Epoch milliseconds of `ts`; NO_TIME for a text that is no time."""
        return self.ts if isinstance(self.ts, int) else instant_ms(self.ts)


def read_ack(value: bytes | None, headers: Headers = ()) -> Ack:
    """The ack of a record's value, as plain JSON or in a CloudEvent.

    Raises:
        Invalid: with the reason, if it is none.
    """
    plain, _ = read_object(checked_size(value, MAX_ACK_BYTES), headers)
    try:
        ack = msgspec.convert(plain, Ack)
    except msgspec.ValidationError as error:
        missing = "missing required field" in str(error)
        raise Invalid(Reason.MISSING_FIELD if missing else Reason.WRONG_TYPE, str(error)) from None
    time_ms(ack.ts)
    return ack


class Acks:
    """Per action and status the time of the first ack, within MAX_KEPT_BYTES.

    The author and the note are not kept: they may be a hundred times as long, and nothing here needs them.
    """

    def __init__(self, acks: Iterable[Ack] = ()) -> None:
        self._by_action: dict[str, dict[Status, int]] = {}
        self._bytes = 0
        for ack in acks:
            self.take(ack)

    def take(self, ack: Ack) -> None:
        """Keeps the ack if it is the first of its status, and evicts the actions that were acked first when there are
        too many."""
        known = self._by_action.get(ack.action_id)
        if known is None:
            known = self._by_action[ack.action_id] = {}
            self._bytes += _cost(ack.action_id)
        known[ack.status] = min(ack.ts_ms, known.get(ack.status, ack.ts_ms))
        while len(self._by_action) > MOST_ACKED or self._bytes > MAX_KEPT_BYTES:
            oldest = next(iter(self._by_action))
            del self._by_action[oldest]
            self._bytes -= _cost(oldest)

    def of(self, action_id: str) -> Iterator[Ack]:
        """The acks of an action, without author and note."""
        for status, ts_ms in self._by_action.get(action_id, {}).items():
            yield Ack(action_id=action_id, status=status, by="", ts=ts_ms)

    def __iter__(self) -> Iterator[Ack]:
        for action_id in self._by_action:
            yield from self.of(action_id)


def _cost(action_id: str) -> int:
    """Bytes that an action takes at the most: its id, a dictionary of four times, and its place in another."""
    return 4 * len(action_id) + 600
