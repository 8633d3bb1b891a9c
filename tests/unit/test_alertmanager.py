"""Which incidents are open, and what an alert of one says."""

from __future__ import annotations

import msgspec

from agents.alertmanager import OpenIncidents, alert
from streams.action import Action
from tests.actions import action

NORTH = ("region", "north")


def after(*actions: Action) -> OpenIncidents:
    found = OpenIncidents()
    for item in actions:
        found.take(msgspec.json.encode(item))
    return found


def names(found: OpenIncidents) -> list[str]:
    return [item["labels"]["alertname"] for item in found.alerts(0.0)]


def test_an_incident_is_open_until_it_is_resolved() -> None:
    assert names(after(action("f", 1), action("f", 2, "other"))) == ["nulls", "other"]
    found = after(action("f", 1), action("f", 2, "other"), action("r", 3))
    assert list(found.firing.values()) == [action("f", 2, "other")] and list(found.over.values()) == [action("f", 1)]
    assert len(found.alerts(0.0)) == 2, "the end is told too"


def test_one_that_was_held_back_is_none_until_it_is_released() -> None:
    assert names(after(action("s", 1))) == []
    assert names(after(action("s", 1), action("l", 2))) == ["nulls"]
    assert after(action("s", 1), action("r", 2)).over == {}


def test_one_that_begins_again_before_its_end_was_told_is_open() -> None:
    found = after(action("f", 1), action("r", 2), action("f", 3, since=2))
    assert (len(found.firing), found.over) == (1, {})


def test_the_end_of_an_old_one_is_no_news() -> None:
    found = after(action("f", 1))
    assert not found.take(msgspec.json.encode(action("r", 2)), fresh=False)
    assert found.alerts(0.0) == []


def test_a_repeat_is_no_news() -> None:
    found = OpenIncidents()
    story = [msgspec.json.encode(item) for item in (action("f", 1), action("f", 1), action("r", 2))]
    assert list(map(found.take, story)) == [True, False, True]
    assert not found.take(b"no action") and not found.take(None)


def test_the_labels_of_an_alert_stay_the_same_while_it_lasts() -> None:
    first, news = (alert(action(letter, hour, "nulls", NORTH), "") for letter, hour in (("f", 1), ("w", 5)))
    assert first["labels"] == news["labels"]
    assert first["labels"] == {
        "alertname": "nulls",
        "model": "m",
        "model_version": "1",
        "response": "data_incident",
        "severity": "warning",
        "layer": "2",
        "segment_region": "north",
    }
    assert first["startsAt"] == news["startsAt"] == "1970-01-01T00:00:00Z"


def test_it_ends_soon_unless_it_is_repeated() -> None:
    (lasting,) = after(action("f", 1)).alerts(1_767_571_200.0)
    assert lasting["endsAt"] == "2026-01-05T00:05:00Z"
