"""The demo's data: what is in the file, and what the incidents change."""

import copy
import math
from datetime import UTC, datetime
from statistics import median

import numpy as np
import pytest

from agents.flights import FEATURES, FILE, INCIDENTS, TIMEOUT_MS, Event, events, injected, reference

RENAMED, EXPLODED, FAILED = INCIDENTS
FIELDS = {"event_id", "ts", "model", "model_version", "features", "segments", "score", "prediction", "latency_ms"}
CATEGORIES = {"carrier", "origin", "dest", "weekday"}
NEVER_NULL = CATEGORIES | {"sched_minute", "distance"}


@pytest.fixture(scope="module")
def baseline() -> list[Event]:
    return list(reference())


@pytest.fixture(scope="module")
def stream() -> list[Event]:
    return list(events())


@pytest.fixture(scope="module")
def hurt(stream: list[Event]) -> list[Event]:
    return list(injected(stream, INCIDENTS))


def utc(ts: int) -> datetime:
    return datetime.fromtimestamp(ts / 1000, UTC)


def test_reference_and_stream_have_their_flights(baseline: list[Event], stream: list[Event]) -> None:
    assert (len(baseline), len(stream)) == (25_522, 284_821)


def test_reference_is_even_days_of_winter_and_the_stream_the_rest_of_the_year(
    baseline: list[Event], stream: list[Event]
) -> None:
    days = {datetime.strptime(event["event_id"].rsplit("-", 1)[1][:8], "%Y%m%d") for event in baseline}
    assert {day.timetuple().tm_yday for day in days} == set(range(2, 60, 2))
    assert stream[0]["event_id"].endswith("20130301T0500") and stream[-1]["event_id"].endswith("20131231T2359")


def test_events_come_in_order_of_time(baseline: list[Event], stream: list[Event]) -> None:
    times = [event["ts"] for event in [*baseline, *stream]]
    assert times == sorted(times)


def test_event_ids_are_unique(baseline: list[Event], stream: list[Event]) -> None:
    assert len({event["event_id"] for event in [*baseline, *stream]}) == len(baseline) + len(stream)


def test_every_event_has_the_wire_formats_fields_and_types(baseline: list[Event], stream: list[Event]) -> None:
    for event in [*baseline, *stream]:
        assert event.keys() == FIELDS and tuple(event["features"]) == FEATURES
        assert type(event["ts"]) is int and type(event["score"]) is float and event["prediction"] in (0, 1)
        assert 0 < event["score"] < 1 and 0 < event["latency_ms"] < 1000
        assert event["segments"] == {"origin": event["features"]["origin"]}
        for name, value in event["features"].items():
            assert type(value) in ((str,) if name in CATEGORIES else (int, float, type(None))), (name, value)
            assert value is not None or name not in NEVER_NULL, name


def test_time_is_new_yorks_clock_in_utc_before_and_after_the_change_of_clocks(stream: list[Event]) -> None:
    first = {event["event_id"].rsplit("-", 1)[1]: utc(event["ts"]) for event in reversed(stream)}
    assert first["20130309T0600"] == datetime(2013, 3, 9, 11, 0, tzinfo=UTC)
    assert first["20130310T0600"] == datetime(2013, 3, 10, 10, 0, tzinfo=UTC)
    assert first["20131103T0600"] == datetime(2013, 11, 3, 11, 0, tzinfo=UTC)


def test_weekday_and_minute_are_those_of_the_local_departure(stream: list[Event]) -> None:
    for event in stream[::997]:
        local = datetime.strptime(event["event_id"].rsplit("-", 1)[1], "%Y%m%dT%H%M")
        features = event["features"]
        assert (features["weekday"], features["sched_minute"]) == (f"{local:%a}", local.hour * 60 + local.minute)


def test_a_row_is_the_sources_row(stream: list[Event]) -> None:
    """American 701 of 15 July at 5:40, and the weather at JFK at 9:00 UTC, as they stand in the source."""
    event = next(event for event in stream if event["event_id"] == "AA701-JFK-20130715T0540")
    assert utc(event["ts"]) == datetime(2013, 7, 15, 9, 40, tzinfo=UTC)
    schedule = ("AA", "JFK", "MIA", "Mon", 340, 1089)
    weather = (78.98, 71.06, 76.74, 0.0, 0.0, None, 0.0, 1024.1, 10.0)
    assert tuple(event["features"].values()) == schedule + weather


def test_the_weather_feed_ends_on_30_december(stream: list[Event]) -> None:
    end = datetime(2013, 12, 31, tzinfo=UTC)
    temps = [(utc(event["ts"]), event["features"]["temp"]) for event in stream]
    assert all(temp is None for at, temp in temps if at >= end)
    assert any(temp is not None for at, temp in temps if (end - at).total_seconds() <= 3600 and at < end)


def test_synthetic_latency_is_log_normal_around_its_median(stream: list[Event]) -> None:
    logs = [math.log(event["latency_ms"]) for event in stream]
    assert math.exp(median(logs)) == pytest.approx(12, rel=0.01)
    assert np.std(logs) == pytest.approx(0.5, rel=0.01)


def test_reading_twice_gives_the_same(baseline: list[Event]) -> None:
    assert list(reference()) == baseline


def test_the_reference_predicts_late_about_as_often_as_flights_were_late(baseline: list[Event]) -> None:
    with np.load(FILE, allow_pickle=False) as file:
        labels = file["label"][file["reference"]]
    late = np.mean(labels[labels != 255])
    assert np.mean([event["prediction"] for event in baseline]) == pytest.approx(late, abs=0.02)


def test_a_label_is_known_when_there_is_one_and_after_take_off() -> None:
    with np.load(FILE, allow_pickle=False) as file:
        label, arrival = file["label"], file["arrival_min"]
    assert set(np.unique(label)) == {0, 1, 255}
    assert np.array_equal(label == 255, arrival == -1)
    assert arrival[label != 255].min() > 15


def test_incidents_change_events_in_their_spans_and_nowhere_else(stream: list[Event], hurt: list[Event]) -> None:
    assert len(hurt) == len(stream)
    for before, after in zip(stream, hurt, strict=True):
        spans = [incident.name for incident in INCIDENTS if incident.start_ms <= before["ts"] < incident.end_ms]
        assert (after["event_id"], after["ts"]) == (before["event_id"], before["ts"])
        if spans and spans != ["error_burst"]:
            assert after != before
        if not spans:
            assert after is before


def test_incidents_last_as_long_as_declared() -> None:
    hours = [(incident.end_ms - incident.start_ms) / 3_600_000 for incident in INCIDENTS]
    months = [utc(incident.start_ms).month for incident in INCIDENTS]
    assert (hours, months) == ([72, 48, 6], [5, 8, 10])


def test_an_incident_leaves_the_event_it_was_given_alone(stream: list[Event]) -> None:
    given = [event for event in stream if any(i.start_ms <= event["ts"] < i.end_ms for i in INCIDENTS)]
    kept = copy.deepcopy(given)
    list(injected(given, INCIDENTS))
    assert given == kept


def test_the_renamed_field_keeps_its_values_under_the_other_name(stream: list[Event], hurt: list[Event]) -> None:
    for before, after in zip(stream, hurt, strict=True):
        renamed = RENAMED.start_ms <= before["ts"] < RENAMED.end_ms
        assert ("windspeed" in after["features"], "wind_speed" in after["features"]) == (renamed, not renamed)
        if renamed:
            assert after["features"]["windspeed"] == before["features"]["wind_speed"]


def test_the_exploded_category_has_a_new_value_in_every_event(stream: list[Event], hurt: list[Event]) -> None:
    known = {event["features"]["dest"] for event in stream}
    fresh = [event["features"]["dest"] for event in hurt if EXPLODED.start_ms <= event["ts"] < EXPLODED.end_ms]
    assert len(fresh) == len(set(fresh)) > 1000
    assert {value.split("-")[0] for value in fresh} < known and not known & set(fresh)


def test_the_error_burst_fails_two_requests_in_five(hurt: list[Event]) -> None:
    burst = [event for event in hurt if FAILED.start_ms <= event["ts"] < FAILED.end_ms]
    failed = [event for event in burst if "error" in event]
    assert len(failed) / len(burst) == pytest.approx(0.4, abs=0.06)
    for event in failed:
        assert event["error"] == "timeout" and event["latency_ms"] > TIMEOUT_MS
        assert not event.keys() & {"score", "prediction"}
    assert sum("error" in event for event in hurt) == len(failed)


def test_an_incident_does_not_depend_on_which_events_come_before(stream: list[Event], hurt: list[Event]) -> None:
    every_third = list(injected(stream[::3], INCIDENTS))
    assert every_third == hurt[::3]
    assert list(injected(stream, ())) == stream
