"""Faults 10 and 11: whatever bytes come, each record is counted in its class or kept as it was, and nothing falls."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents.clients import MAX_MESSAGE_BYTES, MIB, Connection
from tests.faults.harness import WorkerProcess, create, drain, send, write_config
from tests.faults.payloads import BROKEN, changed
from tests.faults.published import books, published
from tests.faults.stream import MODEL, PANE_MS, PARTITIONS, START_MS, event, make_stream

UNREADABLE: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    **BROKEN,
    "null": ("null_value", lambda good: None),
}


def test_a_thousand_broken_records_are_kept_as_they_were_and_cost_their_neighbours_nothing(
    kafka, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """Bad JSON, bad UTF-8, wrong types, null, 10,000 levels, 5 MB: each a dead letter with its place and bytes."""
    prefix = f"broken-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    create(connection, {"max.message.bytes": str(8 * MIB)})
    stream = make_stream(9_000, 10, garbage=False)
    rng = random.Random(10)
    records: list[tuple[str, bytes | None]] = [("", value) for _, value in stream.pairs]
    kinds = [*UNREADABLE] * (1_000 // len(UNREADABLE))
    for kind in kinds:
        reason, make = UNREADABLE[kind]
        records.insert(rng.randrange(len(records)), (reason, make(stream.pairs[0][1])))
    large = changed(stream.pairs[0][1], features={"amount": 1, "note": "x" * 5 * MIB})
    for _ in range(3):
        records.insert(rng.randrange(len(records)), ("too_large", large))
    placed = [(number % PARTITIONS, value) for number, (_, value) in enumerate(records)]
    places = send(connection, placed)
    injected = {place: found for place, found in zip(places, records, strict=True) if found[0]}

    with WorkerProcess(config, kafka.bootstrap, "--drain") as worker:
        assert worker.wait(60) == 0, worker.said[-2000:]
        assert not re.search("Traceback|ERROR|WARNING", worker.said)
    found, kept = published(connection), books(connection, config)
    assert {place: (letter.reason, letter.value) for place, letter in found.dead_letters.items()} == injected
    assert found.panes() == stream.panes
    assert sum(item.read for item in kept.values()) == len(records)
    assert all(item.balanced() for item in kept.values())
    reasons = sum((Counter(item.rejected) for item in kept.values()), Counter[str]())
    assert reasons == Counter(reason for reason, _ in injected.values())
    assert kept[MODEL].late == stream.late


def test_a_record_that_no_dead_letter_can_hold_is_kept_by_its_beginning(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """And says how long it was; those around it are kept whole."""
    prefix = f"huge-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    create(connection, {"max.message.bytes": str(4 * MAX_MESSAGE_BYTES)})
    good = event("a", START_MS, random.Random(1))
    huge = b"{" + b" " * (MAX_MESSAGE_BYTES + MIB)
    send(connection, [(0, good), (0, b"{"), (0, huge), (0, b"}"), (0, good)], max_request_size=4 * MAX_MESSAGE_BYTES)
    drain(config, kafka.bootstrap)
    letters = published(connection).dead_letters
    assert {place: letter.reason for place, letter in letters.items()} == {
        (0, 1): "bad_json",
        (0, 2): "too_large",
        (0, 3): "bad_json",
    }
    assert letters[0, 2].headers["foreshock.cut"] == str(len(huge)).encode()
    assert letters[0, 2].value and huge.startswith(letters[0, 2].value)
    assert (letters[0, 1].value, letters[0, 3].value) == (b"{", b"}")
    kept = books(connection, config)
    assert (kept[MODEL].counted, sum(item.read for item in kept.values())) == (2, 5)


# --- Values that are unusual and yet an event's

ODD_MODEL = 'shöp "1"\\ 🦔'
STRANGE = 'v"1\\\n\x00é\u2028'
NAMES = ("naïve\x00", 'quoted "name"', "back\\slash", "line\nbreak", "emoji 🦔", "", "\u202eright to left")
STRANGE_LABEL = 'v"1\\\n\\x00é '
NAME_LABELS = ("naïve\\x00", 'quoted "name"', "back\\slash", "line\nbreak", "emoji 🦔", "", "\\u202eright to left")
"""The same as labels of metrics, where control characters and overrides of direction are written out."""

Expected = Counter[tuple[str, str]]
CASES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    # feature, its value as JSON (or as some call JSON), the signals that count it
    ("amount", "NaN", (("null_rate", "amount"),)),
    ("amount", "null", (("null_rate", "amount"),)),
    ("amount", "Infinity", (("out_of_range_rate", "amount"),)),
    ("amount", "-Infinity", (("out_of_range_rate", "amount"),)),
    ("amount", "-0", (("out_of_range_rate", "amount"),)),
    ("amount", "-0.0", (("out_of_range_rate", "amount"),)),
    ("amount", "1e999", (("out_of_range_rate", "amount"),)),
    ("amount", str(10**400), (("out_of_range_rate", "amount"),)),
    ("amount", str(-(2**64)), (("out_of_range_rate", "amount"),)),
    ("age", str(2**63), (("out_of_range_rate", "age"),)),
    ("age", "40.0", ()),
    ("age", "4e1", ()),
    ("age", "true", (("type_mismatch_rate", "age"),)),
    ("age", "false", (("type_mismatch_rate", "age"),)),
    ("age", '"40"', (("type_mismatch_rate", "age"),)),
    ("age", "[40]", (("type_mismatch_rate", "age"),)),
    ("age", '{"a": {"b": 40}}', (("type_mismatch_rate", "age"),)),
    ("country", '"D\\u0000E"', (("unseen_rate", "country"),)),
    ("country", '"日本 🦔"', (("unseen_rate", "country"),)),
    ("country", '""', (("unseen_rate", "country"),)),
    ("country", '"D\\u0045"', ()),  # DE
    ("country", "1", (("type_mismatch_rate", "country"),)),
    ("country", "true", (("type_mismatch_rate", "country"),)),
    ("country", "NaN", (("null_rate", "country"),)),
    ("country", "", (("missing_rate", "country"),)),
)
PLAIN_FEATURES = {"amount": "20.5", "age": "40", "country": '"DE"'}
EVENTS_PER_CASE = 40


def raw_event(number: int, ts: int, version: str, features: dict[str, str], **rest: str) -> bytes:
    """An event of JSON texts; an empty one leaves the field out."""
    inner = ", ".join(f"{json.dumps(name)}: {text}" for name, text in features.items() if text)
    fields = {
        "event_id": f'"{number}"',
        "ts": str(ts),
        "model": json.dumps(ODD_MODEL),
        "model_version": json.dumps(version),
        "features": "{" + inner + "}",
        "score": "0.2",
        "prediction": "0",
        "latency_ms": "5.5",
    }
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in {**fields, **rest}.items()) + "}").encode()


def test_unusual_values_are_counted_in_their_class_and_come_out_as_json_and_metrics(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """NaN, infinities, −0, huge integers, booleans, unicode and NUL, in values and in names."""
    prefix = f"odd-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, idle="2s", model=ODD_MODEL)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    create(connection)
    records: list[tuple[int, bytes]] = []
    panes = 5
    for pane in range(panes):
        start = START_MS + pane * PANE_MS
        events = [
            raw_event(0, start, STRANGE, PLAIN_FEATURES | {feature: text})
            for feature, text, _ in CASES
            for _ in range(EVENTS_PER_CASE)
        ]
        events += [raw_event(0, start, STRANGE, PLAIN_FEATURES | {name: "1"}) for name in NAMES for _ in range(900)]
        events += [
            raw_event(0, start, STRANGE, PLAIN_FEATURES, score="NaN", latency_ms="Infinity", prediction='"\\u0000"'),
            raw_event(0, start, STRANGE, PLAIN_FEATURES, score="-0.0", latency_ms="-1", prediction="true"),
            raw_event(0, start, STRANGE, PLAIN_FEATURES, score="1e400", latency_ms="NaN", error='"\\u0000 \\"é"'),
            raw_event(0, start, STRANGE, PLAIN_FEATURES, segments='{"channel": "\\u0000", "\\n": true, "é": 1e999}'),
        ]
        records += [(number % PARTITIONS, value) for number, value in enumerate(events)]
    n = len(records) // panes
    send(connection, records)

    with WorkerProcess(config, kafka.bootstrap) as worker:
        worker.until(lambda: worker.books(ODD_MODEL).get("counted") == len(records))
        worker.until(lambda: any(version == STRANGE for _, version in published(connection).panes()))
        page = worker.get("/metrics")
        assert worker.terminate() == 0
        assert "Traceback" not in worker.said
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    signals = [sample for sample in samples if sample.name == "foreshock_signal_value"]
    assert {sample.labels["version"] for sample in signals} == {"", STRANGE_LABEL}
    assert {*NAME_LABELS} <= {s.labels["feature"] for s in signals if s.labels["signal"] == "schema_drift"}

    drain(config, kafka.bootstrap)
    found, kept = published(connection), books(connection, config)[ODD_MODEL]  # `published` takes no NaN or Infinity
    assert not found.dead_letters
    assert (kept.read, kept.counted) == (len(records), len(records))
    assert found.panes() == {(START_MS + pane * PANE_MS, STRANGE): n for pane in range(panes)}
    counted = Counter({signal: EVENTS_PER_CASE * times for signal, times in _times().items()})
    windows = [w for w in found.windows.values() if w["version"] == STRANGE and w["segment"] is None]
    assert len(windows) == panes
    for window in windows:
        assert window["counts"] == {"events": n, "errors": 1}
        seen = {(signal["name"], signal["feature"]): signal for signal in window["signals"]}
        for signal in {(name, feature) for name in _names() for feature in PLAIN_FEATURES} & seen.keys():
            assert seen[signal]["value"] * seen[signal]["n"] == pytest.approx(counted[signal], rel=1e-6), signal
        for name in NAMES:
            assert seen["schema_drift", name]["value"] == pytest.approx(900 / n, rel=1e-6)
        assert dict(window["top_unseen"]["country"]) == {"D\x00E": 40, "日本 🦔": 40, "": 40}
    assert {action["data"]["model_version"] for action in found.actions} <= {None, STRANGE}


def _names() -> set[str]:
    return {name for _, _, signals in CASES for name, _ in signals}


def _times() -> Counter[tuple[str, str]]:
    return Counter(signal for _, _, signals in CASES for signal in signals)
