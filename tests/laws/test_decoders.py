"""Whatever bytes come in, a decoder gives a value or the one documented error: a short run of `make fuzz`."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings

from streams.action import read_action
from streams.configure import load
from streams.errors import ConfigError, SketchError
from streams.partial import Cell, PanePart, PanePartial
from streams.plan import Facts
from streams.seal import MAX_BYTES, inflate
from streams.sketch.profile import Profile
from tests import scenario
from tests.damage import BOMBS
from tests.decoders import MODEL, Target, judge_all, layouts, names_of, plan, profile, sound_cell, targets

EXAMPLES = 25
TARGETS = targets()


def fuzzed(target: Target, examples: int) -> Callable[[], None]:
    @settings(max_examples=examples, deadline=None, database=None)
    @given(target.drawn)
    def check(drawn: object) -> None:
        target.check(drawn)

    return check


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_gives_a_value_or_its_own_error(name: str) -> None:
    fuzzed(TARGETS[name], EXAMPLES)()


def test_a_few_bytes_never_become_gigabytes() -> None:
    """A bomb is refused before it has taken more than a record may."""
    bomb = zlib.compress(b"\0" * (8 * MAX_BYTES), 9)
    tracemalloc.start()
    try:
        with pytest.raises(SketchError, match="no end of their own"):
            inflate(bomb)
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_BYTES
    finally:
        tracemalloc.stop()
    with pytest.raises(SketchError):
        inflate(zlib.compress(b"x") + b"tail")
    assert inflate(zlib.compress(b"x")) == b"x"


def test_an_action_that_is_nested_too_deep_is_none() -> None:
    for bomb in BOMBS:
        assert read_action(bomb) is None


def test_an_unknown_key_of_an_optional_section_is_told_by_its_place() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'uhreshold'; .*did you mean 'threshold'"):
        load("models: {m: {labels: {task: binary, uhreshold: 0.4}}}")


STRANGE = {
    "a segment that is not declared": (Facts.FEEDBACK, "strange", "x"),
    "a turn of a run at no time": (Facts.RUNS, scenario.JOB, "x/FAIL/1"),
    "a turn without a run": (Facts.RUNS, scenario.JOB, "/"),
    "a turn that there is not": (Facts.RUNS, scenario.JOB, "1/NO/1"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_cell_that_nobody_counts_is_left_out(what: str) -> None:
    """Another configuration may have written it, or a liar; its pane is judged without it."""
    kind, dimension, value = STRANGE[what]
    by_topic = {topic: (layout, length) for topic, layout, length in layouts()}
    kafka, bucket = plan().config.kafka, plan().config.bucket(MODEL)
    found = []
    for topic, name, place in (
        (kafka.inference, MODEL, ("strange", "x")),
        (plan().topic_of(kind), names_of(kind)[0], (dimension, value)),
    ):
        layout, length = by_topic[topic]
        strange = Cell("1", *place, profile(length).to_bytes())
        part = PanePart(name, layout, [sound_cell(length), strange], [])
        found.append(PanePartial(topic, 0, 0, 1, bucket, scenario.START_MS, [part]))
    assert judge_all([*found]) > 0


@pytest.mark.parametrize("data", [b"", b"noise", Profile.empty(3).to_bytes()])
def test_a_cell_that_does_not_open_is_refused_when_it_comes(data: bytes) -> None:
    """And not when its pane is judged: then the worker would end, at every restart again."""
    topic, layout, _ = layouts()[0]
    cell = Cell("1", "", "", data)
    hostile = PanePartial(
        topic, 0, 0, 1, plan().config.bucket(MODEL), scenario.START_MS, [PanePart(MODEL, layout, [cell], [])]
    )
    assert judge_all([hostile]) == 0
