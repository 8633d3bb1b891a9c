"""The fault tests' own fold of the logs and the backtest agree, and the fold notices what is not so."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults.harness import write_config
from tests.faults.published import Published, expected
from tests.faults.reference import (
    Expected,
    LogRecord,
    ModelRules,
    incident_errors,
    reference,
    window_errors,
)
from tests.faults.stream import MODEL, Pair, labels_of, make_stream

EVENTS = 12_000


def log(pairs: Iterable[Pair]) -> list[LogRecord]:
    now_ms = time.time_ns() // 1_000_000
    return [LogRecord(0, offset, now_ms, value) for offset, (_, value) in enumerate(pairs)]


@functools.cache
def both(labelled: bool, seed: int) -> tuple[ModelRules, Expected, Published]:
    """What the plain fold and the backtest make of the same stream."""
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), "", labelled=labelled)
        stream = make_stream(EVENTS, seed, repeats=True, deduplicated=labelled, evolving=not labelled, strangers=50)
        labels = labels_of(stream.pairs, seed) if labelled else []
        rules = ModelRules.of(yaml.safe_load(config.read_text()), MODEL, future_ms=3_600_000)
        found = reference(rules, log(stream.pairs), log(labels))
        assert (found.late, found.duplicate, found.strangers) == (stream.late, stream.duplicate, stream.strangers)
        assert found.rejected == stream.broken
        return rules, found, expected(config, stream, labels)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_plain_fold_and_the_backtest_agree(labelled: bool) -> None:
    rules, found, second = both(labelled, 5)
    assert not window_errors(rules, found, second.windows.values())
    assert not incident_errors(rules, found, second.actions)
    if labelled:
        books = second.label_books[MODEL]
        assert {**found.labels, "unmatched": 0} | {"unmatched": books["pending"] + books["orphan"]} == found.labels
        assert all(books[name] == found.labels[name] for name in ("matched", "corrected", "duplicate", "rejected"))


def changed(windows: dict[str, Any], clock: str, **counts: int) -> list[Any]:
    """The windows, of one of which counts are others."""
    key = next(key for key, window in windows.items() if window["clock"] == clock)
    return [*({**windows, key: {**windows[key], "counts": {**windows[key]["counts"], **counts}}}).values()]


@pytest.mark.parametrize(("clock", "name"), [("event", "events"), ("event", "errors"), ("cohort", "labels")])
def test_another_count_is_noticed(clock: str, name: str) -> None:
    rules, found, second = both(True, 5)
    assert len(window_errors(rules, found, changed(second.windows, clock, **{name: 1}))) == 1


def test_a_window_that_is_missing_is_noticed() -> None:
    rules, found, second = both(True, 5)
    assert len(window_errors(rules, found, list(second.windows.values())[1:])) == 1


@pytest.mark.parametrize(
    ("rule", "state"), [("values-missing", "firing"), ("values-missing", "resolved"), ("requests-failing", "firing")]
)
def test_an_action_that_is_missing_is_noticed(rule: str, state: str) -> None:
    rules, found, second = both(False, 5)
    kept = [a for a in second.actions if (a["data"]["rule"], a["data"]["state"]) != (rule, state)]
    assert len(kept) < len(second.actions) and incident_errors(rules, found, kept)
