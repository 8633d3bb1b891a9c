"""`foreshock check --against-state`: what a restart would keep, align, begin anew and close, before it does."""

from __future__ import annotations

import pytest

from streams.against_state import check_counted, state_lines
from streams.config import Kafka
from streams.errors import ConfigError
from streams.progress import Progress
from streams.publication import UNIT_KEY
from tests.laws.test_changed_config import base, before, compiled


def lines(edit: str = "", to: str = "") -> list[str]:
    text = base()
    assert edit in text
    kept = {
        (0, UNIT_KEY + key if key.startswith(b"unit/") else b"\0books" if key == b"books" else key): value
        for key, value in before().state.items()
        if value
    }
    kept[0, b"\xff no UTF-8"] = b'{"model": 1}'
    return list(state_lines(compiled(text.replace(edit, to) if edit else text), kept))


def test_nothing_begins_anew_under_the_same_configuration() -> None:
    found = lines()
    assert "credit: nothing of it begins anew" in found
    assert any(line.startswith("credit: keeps ") and "with 3 open incidents" in line for line in found)
    assert "1 records of `state` are none that a worker has written: they would be left out" in found


def test_a_pane_moves_the_clock_and_keeps_the_incidents() -> None:
    found = "\n".join(lines("pane: 1m", "pane: 30s"))
    assert "the pane was 1m and is 30s: events are judged from 2026-01-01T00:16:00Z on" in found
    assert "with 3 open incidents" in found


def test_incidents_that_would_be_closed_are_named() -> None:
    found = "\n".join(lines("name: values-missing", "name: values-gone"))
    assert "credit: values-missing: the rule is gone; its open incident is closed as of 2026-01-01T00:16:00Z" in found


def test_a_model_that_is_gone_is_named_with_its_incidents() -> None:
    found = "\n".join(lines("  credit:\n", "  loans:\n"))
    assert "loans: begins anew: `state` does not know it" in found
    assert "credit: is in `state`, but not in this configuration" in found
    assert "credit: values-missing: the model is gone; its open incident is closed" in found


def test_features_that_changed_begin_the_roll_ups_anew() -> None:
    found = "\n".join(lines("      member:  {type: boolean}", "      members:  {type: boolean}"))
    assert "features, bins or segments were changed: events are judged from" in found


@pytest.mark.parametrize(
    ("kafka", "place"),
    [(Kafka(buckets=8, chunk_size=512), "kafka.buckets"), (Kafka(buckets=4, chunk_size=1024), "kafka.chunk_size")],
)
def test_what_a_worker_would_refuse_to_go_on_from_is_no_restart(kafka: Kafka, place: str) -> None:
    counted = [Progress(0, {}), Progress(512, {}, chunk_size=512)]
    with pytest.raises(ConfigError) as found:
        check_counted(kafka, 4, counted)
    assert found.value.exit_code == 2
    assert str(found.value).startswith(f"{place}: ")
    check_counted(Kafka(buckets=4, chunk_size=512), 4, counted)
