"""Decisions → actions: CloudEvents that a consumer can trust, with ids that repeat when the action does."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import msgspec
import pytest

from streams.action import Action, Evidence, Reason, action_id, line_of
from streams.action_of import action_of, layer_of
from streams.baseline import WHOLE
from streams.config import Model, Response, Rule, Severity
from streams.decide import Decision
from streams.rule_state import RuleState
from streams.signals.result import Window
from streams.times import rfc3339

M = 60_000
START = 1_767_571_200_000
RULE = Rule(name="nulls", signals=("null_rate",), response=Response.DATA_INCIDENT, severity=Severity.CRITICAL)
MODEL = Model(owner="team-a", runbook="https://wiki/nulls")
EVIDENCE = Evidence("quality", "null_rate", "age", 0.31, 0.01, 0.05, 1200)


def decision(**options: Any) -> Decision:
    return Decision(
        **{
            "rule": RULE,
            "version": "7",
            "segment": WHOLE,
            "window": Window(START, START + 15 * M, 15 * M, {}),
            "reason": Reason.FIRED,
            "state": RuleState(firing=True, since_ms=START, breached=1),
            "evidence": (EVIDENCE,),
            **options,
        }
    )


def sent(action: Action) -> dict[str, Any]:
    """As a consumer reads it."""
    found = json.loads(msgspec.json.encode(action))
    assert isinstance(found, dict)
    return found


def test_it_is_a_cloud_event_with_everything_that_a_consumer_needs() -> None:
    found = sent(action_of("elec2", MODEL, decision()))
    assert {key: value for key, value in found.items() if key not in ("id", "data")} == {
        "specversion": "1.0",
        "source": "foreshock/elec2",
        "type": "foreshock.action.v1",
        "subject": "elec2",
        "time": "2026-01-05T00:15:00Z",
        "datacontenttype": "application/json",
    }
    assert found["data"] == {
        "action": "data_incident",
        "state": "firing",
        "model": "elec2",
        "model_version": "7",
        "segment": None,
        "layer": 2,
        "rule": "nulls",
        "severity": "critical",
        "window": {"start": "2026-01-05T00:00:00Z", "end": "2026-01-05T00:15:00Z"},
        "since": "2026-01-05T00:00:00Z",
        "revision": 0,
        "reason": "fired",
        "owner": "team-a",
        "runbook": "https://wiki/nulls",
        "suppressed_by": None,
        "signals": [
            {
                "family": "quality",
                "name": "null_rate",
                "feature": "age",
                "value": 0.31,
                "baseline": 0.01,
                "threshold": 0.05,
                "n": 1200,
            }
        ],
    }


def test_a_rules_owner_and_runbook_come_before_the_models() -> None:
    rule = msgspec.structs.replace(RULE, owner="team-b", runbook="https://wiki/b")
    data = action_of("m", MODEL, decision(rule=rule)).data
    assert (data.owner, data.runbook) == ("team-b", "https://wiki/b")


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (Reason.FIRED, "firing"),
        (Reason.WIDENED, "firing"),
        (Reason.RESOLVED, "resolved"),
        (Reason.NO_TRAFFIC, "resolved"),
    ],
)
def test_its_state_is_firing_or_resolved_and_its_reason_says_why(reason: Reason, state: str) -> None:
    data = action_of("m", MODEL, decision(reason=reason)).data
    assert (data.state, data.reason) == (state, reason)


def test_a_segment_is_an_object() -> None:
    assert sent(action_of("m", MODEL, decision(segment=("region", "north"))))["data"]["segment"] == {"region": "north"}


def test_the_model_as_a_whole_has_no_version() -> None:
    assert sent(action_of("m", MODEL, decision(version=None)))["data"]["model_version"] is None


@pytest.mark.parametrize(
    ("signals", "layer"),
    [
        (("request_rate",), 1),
        (("feature_drift",), 2),
        (("score_drift",), 3),
        (("score_drift", "null_rate", "latency_p99"), 1),
    ],
)
def test_its_layer_is_the_lowest_that_the_rule_looks_at(signals: tuple[str, ...], layer: int) -> None:
    assert layer_of(msgspec.structs.replace(RULE, signals=signals)) == layer


class TestIds:
    def test_the_same_action_has_the_same_id_in_every_release(self) -> None:
        """Frozen: consumers tell repeats by it, over restarts and upgrades."""
        assert action_of("elec2", MODEL, decision()).id == action_id("nulls", "elec2", "7", WHOLE, START, "firing", 0)
        assert action_id("nulls", "elec2", "7", WHOLE, START, "firing", 0) == "ed58af3af088f6c2fdd939a8b1f1ab8a"

    def test_what_an_action_is_about_tells_it_from_any_other(self) -> None:
        parts = product(
            ("nulls", "other"),
            ("a", "b"),
            (None, "", "1"),
            (WHOLE, ("r", "n"), ("r", "s")),
            (START, START + M),
            ("firing", "resolved"),
            (0, 1),
        )
        ids = [action_id(*part) for part in parts]
        assert len(set(ids)) == len(ids) == 2 * 2 * 3 * 3 * 2 * 2 * 2

    def test_parts_are_not_run_together(self) -> None:
        assert action_id("a", "b", "c", WHOLE, 1, "firing", 0) != action_id("a", "bc", "", WHOLE, 1, "firing", 0)
        assert action_id("a", "b", "1", ("x", "y"), 1, "firing", 0) != action_id(
            "a", "b", "1", ("xy", ""), 1, "firing", 0
        )

    def test_it_does_not_depend_on_what_was_measured(self) -> None:
        """A restart may see a column more or less in the evidence; it is the same action."""
        other = decision(evidence=(), window=Window(START + M, START + 16 * M, 15 * M, {}))
        assert action_of("m", MODEL, other).id == action_of("m", MODEL, decision()).id

    def test_news_of_an_incident_and_its_end_have_ids_of_their_own(self) -> None:
        state = RuleState(firing=True, since_ms=START, revision=1)
        ids = {
            action_of("m", MODEL, decision()).id,
            action_of("m", MODEL, decision(reason=Reason.WIDENED, state=state)).id,
            action_of("m", MODEL, decision(reason=Reason.RESOLVED, state=state)).id,
        }
        assert len(ids) == 3


class TestLine:
    def test_a_person_reads_one_line(self) -> None:
        line = line_of(msgspec.json.encode(action_of("elec2", MODEL, decision(segment=("region", "north")))))
        assert line.startswith("2026-01-05T00:15:00Z  firing   data_incident elec2 v7 region=north  nulls: ")
        assert "null_rate of age 0.31 (limit 0.05, usual 0.01)" in line

    def test_much_evidence_is_counted(self) -> None:
        many = tuple(msgspec.structs.replace(EVIDENCE, feature=f"f{i}") for i in range(9))
        assert line_of(msgspec.json.encode(action_of("m", MODEL, decision(evidence=many)))).endswith(" and 6 more")

    @pytest.mark.parametrize(
        "value", [b"", b"{}", b"\xff", b"[1]", b"null", b'{"specversion": "1.0"}', b'{"id": "\xff"}']
    )
    def test_what_is_no_action_is_shown_by_its_beginning(self, value: bytes) -> None:
        assert line_of(value).startswith("no action: b")


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (START, "2026-01-05T00:00:00Z"),
        (START + 1, "2026-01-05T00:00:00.001Z"),
        (2**47, "6429-10-17T02:45:55.328Z"),
        (-(2**45), "0855-01-19T11:18:31.168Z"),
    ],
)
def test_times_are_written_in_utc(time_ms: int, text: str) -> None:
    assert rfc3339(time_ms) == text
