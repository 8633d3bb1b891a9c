"""Models, decoders and records that the tests about decoding share."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from streams.batch import Columnizer, Gathered
from streams.decode import Decoder, ModelCodec
from streams.sketch.layout import Column, Kind, Layout, Role

MODEL, MULTI = "fraud", "triage"
NOW_MS = 1_767_571_210_714
FUTURE_MS = 3_600_000
MAX_BYTES = 1_048_576
AMOUNT, RATIO, COUNTRY, MEMBER, CHANNEL, SCORE, PREDICTION = range(7)


def feature(name: str, kind: Kind, **options: Any) -> Column:
    return Column(name=name, role=Role.FEATURE, kind=kind, **options)


FEATURES = (
    feature("amount", Kind.NUMERIC, edges=(0.0, 10.0, 20.0)),
    feature("ratio", Kind.NUMERIC),
    feature("country", Kind.CATEGORICAL, categories=("GB", "", "\0", "東京", "a")),
    feature("member", Kind.BOOLEAN, categories=("true",)),
    feature("channel", Kind.CODE, categories=("1", "-3", "18446744073709551616")),
)
TAIL = (
    Column(name="prediction", role=Role.PREDICTION, kind=Kind.CODE, categories=("0", "1")),
    Column(name="latency_ms", role=Role.LATENCY, kind=Kind.NUMERIC, edges=(1.0, 10.0)),
)
SINGLE_SCORE = (Column(name="score", role=Role.SCORE, kind=Kind.NUMERIC, edges=(0.0, 0.5, 1.0)),)
CLASS_SCORES = tuple(
    Column(name=f"score.{name}", role=Role.SCORE, kind=Kind.NUMERIC, edges=(0.0, 1.0)) for name in ("low", "high")
)
SEGMENTS = {"region": ("north", "true", "1.5"), "plan": ("free",)}
LAYOUTS = {
    MODEL: Layout((*FEATURES, *SINGLE_SCORE, *TAIL)),
    MULTI: Layout((*FEATURES, *CLASS_SCORES, *TAIL)),
}


def codecs() -> dict[str, ModelCodec]:
    return {name: ModelCodec(name, layout.columns, tuple(SEGMENTS)) for name, layout in LAYOUTS.items()}


def decoder() -> Decoder:
    return Decoder(codecs(), MAX_BYTES, FUTURE_MS)


def event(**fields: Any) -> dict[str, Any]:
    return {"event_id": "e1", "ts": NOW_MS, "model": MODEL, "features": {}, **fields}


def raw(fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def outcome(one: Decoder, *values: bytes | None, headers: Any = ()) -> list[Any]:
    """What became of each record: its reason, or all that is counted of it."""
    decoded = one.decode(values, [NOW_MS] * len(values), headers)
    found: list[Any] = [None] * len(values)
    for reject in decoded.rejects:
        found[reject.index] = (reject.reason, reject.model)
    for model, rows in decoded.models.items():
        assert (np.diff(rows.indices) > 0).all()
        if model not in LAYOUTS:
            for index in rows.indices.tolist():
                found[index] = model
            continue
        columnizer = Columnizer(LAYOUTS[model], SEGMENTS)
        columnizer.gather(columnizer.parts(rows), gathered := Gathered())
        batch = columnizer.columns(gathered)
        for at, index in enumerate(rows.indices.tolist()):
            found[index] = _counted(model, batch, rows.rows[at].event_id, at)
    assert None not in found, "every record is a row or a reject"
    return found


def _counted(model: str, batch: Any, event_id: str, at: int) -> Any:
    starts = (0, *LAYOUTS[model].starts)
    return {
        "model": model,
        "event_id": event_id,
        "ts_ms": int(batch.ts_ms[at]),
        "version": batch.versions[at],
        "segments": [int(codes[at]) for codes in batch.segments],
        "places": [int(slot) - start for slot, start in zip(batch.slots[:, at], starts, strict=True)],
        "unseen": {column: text for column, items in batch.unseen.items() for row, text in items if row == at},
        "numbers": {column: str(values[at]) for column, values in batch.numbers.items()},
        "extras": sorted(name for row, name in batch.extras if row == at),
    }


def place(value: str, column: int, model: str = MODEL) -> int:
    """Where a feature's JSON text is counted in its column, or where a whole event's is."""
    names = {column: FEATURES[column].name} if column < len(FEATURES) else {}
    features = f'"{names[column]}":{value}' if names else ""
    own = "" if names else f',"{LAYOUTS[model].columns[column].name}":{value}'
    body = f'{{"event_id":"e","ts":{NOW_MS},"model":"{model}","features":{{{features}}}{own}}}'
    (found,) = outcome(decoder(), body.encode())
    return int(found["places"][column + 1])
