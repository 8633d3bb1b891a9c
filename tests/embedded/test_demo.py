"""`foreshock demo` as a person runs it: ten months of real flights, three injected incidents, one real outage."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from agents.demo import chapters

WITHIN_S = 240.0
DAY_MS = 86_400_000
EVENTS = 284_821


@dataclass(frozen=True)
class Told:
    """An action in the demo's timeline."""

    at_ms: int
    state: str
    action: str
    rule: str
    evidence: str


@pytest.fixture(scope="module")
def said() -> str:
    """What the demo prints."""
    command = [sys.executable, "-m", "agents", "demo"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def timeline(said: str) -> list[Told]:
    line = re.compile(
        r"  → (?P<at>\S+)  (?P<state>\w+) +(?P<action>\w+) +flights\S*(?: \S+)*?  (?P<rule>[\w-]+):? ?(?P<evidence>.*)"
    )
    found = [match for match in map(line.fullmatch, said.splitlines()) if match]
    assert len(found) == said.count("\n  → ")
    return [
        Told(_ms(match["at"]), match["state"], match["action"], match["rule"], match["evidence"]) for match in found
    ]


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


FITTING = {
    "An upstream release renames": ("schema-changed", "missing_rate of wind_speed"),
    "A feature pipeline appends": ("categories-exploding", "cardinality of dest"),
    "40 % of the requests time out": ("requests-failing", "request_error_rate"),
    "the weather feed stops": ("values-missing", "null_rate of"),
}
"""How a chapter begins, the rule that should speak of it, and with what evidence."""


@pytest.mark.parametrize("beginning", FITTING)
def test_every_incident_is_told_as_what_it_is_and_over_when_it_is_over(timeline: list[Told], beginning: str) -> None:
    """The action comes with the first pane, a day, that the incident is in; the last one lasts till the end."""
    (chapter,) = [chapter for chapter in chapters() if chapter.what.startswith(beginning)]
    rule, evidence = FITTING[beginning]
    told = [action for action in timeline if action.rule == rule and action.at_ms > chapter.start_ms]
    assert (told[0].state, told[0].action) == ("firing", "data_incident")
    assert told[0].at_ms <= chapter.start_ms + DAY_MS
    assert evidence in told[0].evidence
    end_of_stream = max(action.at_ms for action in timeline)
    if chapter.end_ms + 4 * DAY_MS < end_of_stream:
        assert told[1].state == "resolved"
        assert chapter.end_ms < told[1].at_ms <= chapter.end_ms + 4 * DAY_MS
    else:
        assert len(told) == 1


def test_a_year_of_default_rules_keeps_within_an_action_a_week(timeline: list[Told]) -> None:
    """Outside the known events, news of open incidents included."""
    known = [(chapter.start_ms, chapter.end_ms + DAY_MS) for chapter in chapters()]
    firing = [action for action in timeline if action.state == "firing"]
    others = [a for a in firing if not any(start < a.at_ms <= end for start, end in known)]
    weeks = (max(action.at_ms for action in timeline) - _ms("2013-03-01T00:00Z")) / (7 * DAY_MS)
    assert 43 < weeks < 45
    assert 10 < len(others) <= weeks


def test_the_furlough_is_told_by_the_labels_of_its_first_day(timeline: list[Told]) -> None:
    """A story of its own: what came before it is not taken for its beginning."""
    (furlough,) = [chapter for chapter in chapters() if "furlough" in chapter.what]
    told = [action.at_ms for action in timeline if action.rule == "calibration-off" and action.state == "firing"]
    assert min(at for at in told if at > furlough.start_ms) <= furlough.start_ms + DAY_MS


def test_no_data_incident_is_told_before_there_is_one(timeline: list[Told]) -> None:
    first = min(chapter.start_ms for chapter in chapters())
    assert [action for action in timeline if action.at_ms < first and action.action == "data_incident"] == []


def test_the_demo_counts_every_flight(said: str) -> None:
    """Its books balance, and it says how long everything took."""
    assert "The ledger: " in said and " false alarms: " in said
    assert f"Books: read {EVENTS:,} = counted {EVENTS:,} + late 0 + rejected 0 + duplicate 0 (balanced)" in said
    assert "NOTHING WAS SAID" not in said
    assert "Labels: read 277,337 = matched 277,337 + pending 0 + duplicate 0 + orphan 0 + rejected 0 (balanced)" in said
    assert re.search(rf"{EVENTS:,} events and their labels replayed, joined and judged in [\d.]+ s", said)
