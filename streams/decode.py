"""Values of a batch of records → rows by model, and rejects: the fast path.

msgspec decodes a record in one pass into a struct that is made for its model: declared features as typed slots, nothing
else allowed. A record that does not fit goes through `events.read_event`, which either explains the difference (a wrong
type in a feature, an unknown field, NaN, a CloudEvent) or rejects it. Both paths give the same row.

A numeric slot without a number holds a NaN whose payload is the class of the value; a text slot holds a sentinel.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import attrgetter
from typing import Annotated, Any, Union

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from streams.arrays import Ints
from streams.config import OTHER
from streams.envelope import Headers, checked_size
from streams.events import Event, read_event
from streams.fields import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    Invalid,
    Reason,
    Reject,
    nearest,
    segment_text,
    time_ms,
)
from streams.sketch.layout import SCORE, Column, Kind, Role
from streams.times import instants_ms

MAX_LEARNED_EXTRAS = 64
MAX_LEARNED_NAME = 256
"""A longer name of an unknown field is never learned."""
FEW_MODELS, RECORDS_A_MODEL = 64, 8
"""With few models, names are learned at once. With more, compiling takes so long that it waits for so many records with
unknown names as there are models, times the latter: so a stream of new names costs a record no more than that."""
MAX_LEARNERS = 64
"""Models that learn at a time: compiling blocks the event loop."""


def _nan(payload: int) -> float:
    number: float = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0000 | payload))[0]
    return number


NULL_PAYLOAD, ABSENT_PAYLOAD, WRONG_PAYLOAD = 0, 1, 2
ABSENT_NUMBER, WRONG_NUMBER = _nan(ABSENT_PAYLOAD), _nan(WRONG_PAYLOAD)
"""Quiet NaNs with a payload. JSON has no NaN, so the fast path cannot bring one; a null becomes payload 0."""


class Wrong:
    """Sentinel in a text slot for a value of another type."""

    def __repr__(self) -> str:
        return "WRONG"


WRONG = Wrong()

_Time = str | Annotated[int, msgspec.Meta(ge=MIN_TIME_MS, le=MAX_TIME_MS)]
_Scalar = float | str | bool | None
_Unknown = _Scalar | list[_Scalar] | dict[str, _Scalar] | UnsetType
"""A learned slot's value. It is read, not skipped: msgspec lets pass in what it skips what the careful path rejects."""
_FEATURES, _SEGMENTS = "features.", "segments."
_TEXT_TYPES: Mapping[Kind, Any] = {
    Kind.CATEGORICAL: str | None | UnsetType,
    Kind.BOOLEAN: bool | None | UnsetType,
    Kind.CODE: int | None | UnsetType,
}
_CLASSES = {Kind.NUMERIC: float, Kind.CATEGORICAL: str, Kind.BOOLEAN: bool, Kind.CODE: int}
_ESCAPED = {'"', "\\", *map(chr, range(32))}


class Row(msgspec.Struct, gc=False, kw_only=True):
    """Fields that the event structs of all models share; `features` and `segments` are structs of the model's own."""

    event_id: str
    ts: _Time
    features: Any
    model_version: str = ""
    segments: Any = None
    score: Any = None
    prediction: float | str | bool | None = None
    latency_ms: float | None = None
    error: str | None = None


@dataclass(slots=True)
class Rows:
    """Events of one model in record order. `extras` names unknown fields: (index in `rows`, name)."""

    indices: Ints
    rows: list[Any]
    times_ms: Ints
    extras: list[tuple[int, str]] = field(default_factory=list)

    def only(self, kept: Sequence[int]) -> Rows:
        """The rows at these indices."""
        places = {old: new for new, old in enumerate(kept)}
        extras = [(places[at], name) for at, name in self.extras if at in places]
        return Rows(self.indices[kept], [self.rows[at] for at in kept], self.times_ms[kept], extras)


@dataclass(slots=True)
class Decoded:
    """Result of a batch: every record is in exactly one of the two."""

    models: dict[str, Rows]
    rejects: list[Reject]


class ModelCodec:
    """The event struct of one model, and the conversion of a carefully read event to it."""

    def __init__(self, model: str, columns: Sequence[Column], segments: Sequence[str]) -> None:
        self.model = model
        self.features = [column for column in columns if column.role is Role.FEATURE]
        self._slots = {column.name: (f"f{i}", column.kind) for i, column in enumerate(self.features)}
        self.multi_class = any(column.name != SCORE for column in columns if column.role is Role.SCORE)
        self.dimensions = tuple(segments)
        self.extra_names: list[str] = []
        self._compile()

    def _compile(self) -> None:
        names = [column.name for column in self.features]
        fields = [
            (f"f{i}", float | None, ABSENT_NUMBER)
            if column.kind is Kind.NUMERIC
            else (f"f{i}", _TEXT_TYPES[column.kind], UNSET)
            for i, column in enumerate(self.features)
        ]
        extras: dict[str, list[str]] = {_FEATURES: [], _SEGMENTS: [], "": []}
        for name in self.extra_names:
            extras[_section(name)].append(name)
        self.Features = _record("Features", fields, names, _bare(extras[_FEATURES]))
        dimensions = [(f"s{i}", str | None, None) for i in range(len(self.dimensions))]
        self.Segments = _record("Segments", dimensions, self.dimensions, _bare(extras[_SEGMENTS]))
        self.Row = _record(
            "Event",
            [
                ("features", self.Features, msgspec.NODEFAULT),
                ("segments", self.Segments | None, None),
                ("score", (dict[str, float] if self.multi_class else float) | None, None),
            ],
            ["features", "segments", "score"],
            extras[""],
            bases=(Row,),
            tag=self.model,
        )
        self.extra_getters = [
            *((name, attrgetter(f"features.x{at}")) for at, name in enumerate(extras[_FEATURES])),
            *((name, attrgetter(f"x{at}")) for at, name in enumerate(extras[""])),
        ]

    def learn(self, names: Sequence[str]) -> bool:
        """Adds slots for unknown fields, so that they no longer slow the decoder; true if it added any."""
        room = MAX_LEARNED_EXTRAS - len(self.extra_names)
        taken = {*self.extra_names, *(_FEATURES + column.name for column in self.features)}
        taken |= {_SEGMENTS + name for name in self.dimensions}
        new = [
            n for n in dict.fromkeys(names) if n not in taken and len(n) <= MAX_LEARNED_NAME and not _ESCAPED & set(n)
        ]
        if not new or not room:
            return False
        self.extra_names += new[:room]
        self._compile()
        return True

    def row(self, event: Event) -> tuple[Any, list[str]]:
        """The event as this model's struct, and the names of its unknown fields, undeclared segments among them."""
        features = event.features
        known = {
            slot: value if value.__class__ is _CLASSES[kind] and value == value else _slot(kind, value)
            for name, (slot, kind) in self._slots.items()
            if (value := features.get(name, UNSET)) is not UNSET
        }
        extras = [*event.extras, *(_FEATURES + name for name in features if name not in self._slots)]
        extras += [_SEGMENTS + name for name in event.segments if name not in self.dimensions]
        segments = {f"s{i}": segment_text(event.segments.get(name)) for i, name in enumerate(self.dimensions)}
        row = self.Row(
            event_id=event.event_id,
            ts=event.ts_ms,
            features=self.Features(**known),
            segments=self.Segments(**segments),
            model_version=event.model_version,
            score=event.score,
            prediction=event.prediction,
            latency_ms=event.latency_ms,
            error=event.error,
        )
        return row, extras


def _record(
    name: str,
    fields: list[tuple[str, Any, Any]],
    names: Sequence[str],
    extras: Sequence[str],
    **options: Any,
) -> Any:
    rename = dict(zip((key for key, _, _ in fields), names, strict=True))
    rename |= {f"x{i}": extra for i, extra in enumerate(extras)}
    slots = [*fields, *((f"x{i}", _Unknown, UNSET) for i in range(len(extras)))]
    if "tag" in options:
        options |= {"tag_field": "model", "kw_only": True}
    return msgspec.defstruct(name, slots, rename=rename, gc=False, forbid_unknown_fields=True, **options)


def _section(name: str) -> str:
    """Where an unknown field stands. A top-level one with such a name is taken for one there: it is never learned."""
    return next((prefix for prefix in (_FEATURES, _SEGMENTS) if name.startswith(prefix)), "")


def _bare(names: Sequence[str]) -> list[str]:
    return [name.partition(".")[2] for name in names]


def _slot(kind: Kind, value: Any) -> Any:
    """A feature's JSON value as its slot holds it."""
    if value is None or value != value:
        return None
    if kind is Kind.NUMERIC:
        return WRONG_NUMBER if isinstance(value, bool) or not isinstance(value, int | float) else nearest(value)
    if kind is Kind.CATEGORICAL:
        return value if isinstance(value, str) else WRONG
    if kind is Kind.BOOLEAN:
        return value if isinstance(value, bool) else WRONG
    return value if isinstance(value, int) and not isinstance(value, bool) else WRONG


class Decoder:
    """Decodes batches for a set of declared models."""

    def __init__(self, codecs: Mapping[str, ModelCodec], max_record_bytes: int, future_ms: int) -> None:
        self.codecs = dict(codecs)
        self.max_record_bytes = max_record_bytes
        self.future_ms = future_ms
        self._other = ModelCodec(OTHER, (), ())
        self._careful = 0
        """Records with unknown names that were read carefully since the structs were compiled."""
        self._compile_after = 0 if len(self.codecs) <= FEW_MODELS else RECORDS_A_MODEL * len(self.codecs)
        self._compile()

    def _compile(self) -> None:
        # The tag is demanded of a union only, so there are always two: undeclared models are the second.
        codecs = (*self.codecs.values(), self._other)
        self._decode = msgspec.json.Decoder(Union[tuple(codec.Row for codec in codecs)]).decode  # noqa: UP007
        self._model_of = {codec.Row: codec.model for codec in codecs}

    def decode(
        self, values: Sequence[bytes | None], stamps_ms: Sequence[int], headers: Sequence[Headers] = ()
    ) -> Decoded:
        """Rows by model, and rejects.

        Parameters:
            stamps_ms: the records' own times; an event dated ahead of its record by more than the limit is rejected.
            headers: Kafka headers of the records: as many, or none.
        """
        rejects: list[Reject] = []
        extras: dict[int, list[str]] = {}
        rows = self._rows(values, headers, extras, rejects)
        indices = np.arange(len(values))
        if rejects:
            indices = np.delete(indices, [reject.index for reject in rejects])
        times = times_ms(rows)
        ahead = times - np.array(stamps_ms, np.int64)[indices]
        if len(rows) and (ahead.max() > self.future_ms or times.min() < MIN_TIME_MS or times.max() > MAX_TIME_MS):
            dated = (ahead <= self.future_ms) & (times >= MIN_TIME_MS) & (times <= MAX_TIME_MS)
            for at in np.flatnonzero(~dated).tolist():
                rejects.append(self._misdated(int(indices[at]), rows[at], int(ahead[at])))
            indices, times, rows = indices[dated], times[dated], list(compress(rows, dated.tolist()))
        decoded = Decoded(_by_model(indices, rows, times, self._model_of), rejects)
        self._note_extras(decoded, extras)
        return decoded

    def _rows(
        self,
        values: Sequence[bytes | None],
        headers: Sequence[Headers],
        extras: dict[int, list[str]],
        rejects: list[Reject],
    ) -> list[Any]:
        """Usual records in stretches, at full speed; one by one those between them, of which some are rejected."""
        rows: list[Any] = []
        rest = iter(self._fitting(values))
        while True:
            try:
                rows.extend(map(self._decode, rest))
                return rows
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
                index = len(rows) + len(rejects)  # a list keeps what it was extended by before an error
            try:
                rows.append(self._read(index, values[index], headers[index] if headers else (), extras))
            except Invalid as invalid:
                rejects.append(Reject(index, invalid.reason, invalid.detail, self._known(invalid.model)))

    def _fitting(self, values: Sequence[bytes | None]) -> Sequence[Any]:
        """The values, None in the place of those that are too large or damaged."""
        most = self.max_record_bytes
        if set(map(type, values)) <= {bytes} and max(map(len, values), default=0) <= most:  # type: ignore[arg-type]
            return values
        return [value if type(value) is bytes and len(value) <= most else None for value in values]

    def _read(self, index: int, value: bytes | None, headers: Headers, extras: dict[int, list[str]]) -> Any:
        event = read_event(checked_size(value, self.max_record_bytes), headers)
        row, names = self.codecs.get(event.model, self._other).row(event)
        if names and event.model in self.codecs:
            extras[index] = names
        return row

    def _misdated(self, index: int, row: Any, ahead: int) -> Reject:
        model = self._model_of[type(row)]
        try:
            time_ms(row.ts)
        except Invalid as invalid:
            return Reject(index, invalid.reason, invalid.detail, model)
        return Reject(index, Reason.FUTURE, f"{ahead} ms ahead of its record, the limit is {self.future_ms}", model)

    def _known(self, model: str) -> str:
        return model if not model or model in self.codecs else OTHER

    def _note_extras(self, decoded: Decoded, extras: Mapping[int, list[str]]) -> None:
        """Names of unknown fields: of carefully read events, and of those in the slots that the decoder learned."""
        changed, learners = False, 0
        self._careful += len(extras)
        learns = self._careful > self._compile_after
        for model, rows in decoded.models.items():
            codec = self.codecs.get(model)
            if codec is None:
                continue
            for name, get in codec.extra_getters:
                rows.extras += [(at, name) for at, row in enumerate(rows.rows) if get(row) is not UNSET]
            if extras:
                careful = [
                    (at, name) for at, index in enumerate(rows.indices.tolist()) for name in extras.get(index, ())
                ]
                rows.extras += [item for item in careful if _section(item[1]) != _SEGMENTS]
                if learns and careful and learners < MAX_LEARNERS:
                    learned = codec.learn([name for _, name in careful])
                    changed, learners = changed or learned, learners + learned
        if changed:
            self._careful = 0
            self._compile()


def _by_model(indices: Ints, rows: list[Any], times: Ints, model_of: Mapping[type, str]) -> dict[str, Rows]:
    kinds = list(map(type, rows))
    if len(set(kinds)) == 1:
        return {model_of[kinds[0]]: Rows(indices, rows, times)}
    places: dict[type, list[int]] = {}
    for at, kind in enumerate(kinds):
        places.setdefault(kind, []).append(at)
    return {model_of[kind]: Rows(indices[at], [rows[i] for i in at], times[at]) for kind, at in places.items()}


def times_ms(rows: Sequence[Any]) -> Ints:
    """Event times of rows in epoch milliseconds."""
    moments = [row.ts for row in rows]
    if set(map(type, moments)) == {str}:
        return instants_ms(moments)
    times = np.array([0 if moment.__class__ is str else moment for moment in moments], np.int64)
    texts = [at for at, moment in enumerate(moments) if moment.__class__ is str]
    times[texts] = instants_ms([moments[at] for at in texts])
    return times
