"""Whatever a file holds, a command ends within seconds and little memory, in one line if it cannot use it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.baseline import WHOLE, Baseline, Block, Statistics
from streams.errors import ConfigError
from streams.sketch.counts import Counts
from streams.sketch.outcomes import LABELLED
from tests import scenario

MOST = 4_000
WITHIN_S = 300.0
EACH_S = 30.0
"""On a machine with other work; alone each takes a second or two."""


@dataclass
class Ended:
    arguments: list[str]
    refused: bool | None
    code: int
    said: str
    seconds: float


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    folder = tmp_path_factory.mktemp("hostile")
    sound = folder / "sound.yaml"
    sound.write_text(
        "models: {m: {features: {a: {type: numeric}}, labels: {task: regression}, "
        "kpis: {k: {aggregate: sum, better: lower}}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile_files", folder, sound],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return [Ended(*json.loads(line)) for line in done.stdout.splitlines()]


def test_every_command_ends_in_one_line_or_does_its_work(ended: list[Ended]) -> None:
    assert len(ended) > 60
    wrong = []
    for found in ended:
        lines = found.said.strip().splitlines()
        one_line = found.code in (1, 2) and lines[-1:] and lines[-1].startswith("foreshock: ") and len(lines[-1]) < MOST
        sound = found.code == 0 and found.refused is not True
        if not (sound or (one_line and found.refused is not False)) or "Traceback" in found.said:
            wrong.append((found.arguments, found.code, found.said[-300:]))
        if found.seconds > EACH_S:
            wrong.append((found.arguments, found.seconds, "too slow"))
    assert not wrong


# --- A sealed baseline of impossible content


def changed(baseline: Baseline, **fields: object) -> Baseline:
    return msgspec.structs.replace(baseline, **fields)


def with_slot(data: bytes, slot: int, value: int) -> bytes:
    vector = Counts.from_bytes(data).dense().copy()
    vector[slot] = value
    return Counts.of(vector).to_bytes()


def impossible() -> Iterator[tuple[str, Baseline]]:
    sound = scenario.reference().baseline
    numeric, outcomes, first = sound.columns[0], sound.outcomes, sound.blocks[0]
    assert outcomes is not None and len(numeric.edges) > 2
    rest, known = sound.columns[1:], sound.statistics

    def column(**fields: object) -> tuple[object, ...]:
        return (msgspec.structs.replace(numeric, **fields), *rest)

    def statistics(**fields: object) -> tuple[Statistics, ...]:
        return (msgspec.structs.replace(known[0], **fields), *known[1:])

    def total(slot: int, value: int) -> dict[tuple[str, str], bytes]:
        return sound.total | {WHOLE: with_slot(sound.total[WHOLE], slot, value)}

    low, high, *others = numeric.edges
    yield "negative counts", changed(sound, total=total(5, -1))
    yield "counts beyond the events", changed(sound, total=total(5, 10**15))
    yield "more requests than events", changed(sound, total=total(0, sound.events + 1))
    yield "a column that counts twice", changed(sound, total=total(2, sound.events))
    yield "edges that fall", changed(sound, columns=column(edges=(high, low, *others)))
    yield "edges that are equal", changed(sound, columns=column(edges=(low, low, *others)))
    yield "an edge that is no number", changed(sound, columns=column(edges=(float("nan"), high, *others)))
    yield "an infinite edge", changed(sound, columns=column(edges=(float("-inf"), high, *others)))
    yield "other lengths", changed(sound, columns=column(edges=(low, high)))
    yield "centres that are no numbers", changed(sound, statistics=statistics(centres=(float("nan"),) * numeric.bins))
    yield "centres of other bins", changed(sound, statistics=statistics(centres=(1.0,)))
    yield "negative numbers of values", changed(sound, statistics=statistics(distinct=-1))
    yield "more common values than there are", changed(sound, statistics=statistics(common=7))
    yield "too few statistics", changed(sound, statistics=known[1:])
    yield "one name twice", changed(sound, columns=(msgspec.structs.replace(numeric, name=rest[0].name), *rest))
    yield "no whole", changed(sound, total={})
    yield "an end before the beginning", changed(sound, end_ms=sound.start_ms - 1)
    yield "a time that is none", changed(sound, end_ms=1 << 60)
    yield "a negative pane", changed(sound, pane_ms=-1)
    yield "no thinning", changed(sound, thinning=0)
    yield "negative events", changed(sound, events=-5)
    yield "fewer events than counts", changed(sound, events=3)
    yield "blocks out of order", changed(sound, blocks=sound.blocks[::-1])
    yield "a block twice", changed(sound, blocks=(first, *sound.blocks))
    yield "a block of another time", changed(sound, blocks=(Block(0, first.counts), *sound.blocks))
    more = {WHOLE: with_slot(first.counts[WHOLE], 0, sound.events)}
    yield "a block of more than the whole", changed(sound, blocks=(Block(first.start_ms, more), *sound.blocks[1:]))
    strange = {("strange", "x"): first.counts[WHOLE]}
    yield "a block of another segment", changed(sound, blocks=(Block(first.start_ms, strange), *sound.blocks[1:]))
    for what, fields in (
        ("outcomes that are negative", {"total": {WHOLE: with_slot(outcomes.total[WHOLE], LABELLED, -4)}}),
        ("outcomes of no whole", {"total": {}}),
        ("labels before there were any", {"arrivals": {0: -1}}),
        ("a threshold that is no number", {"layout": msgspec.structs.replace(outcomes.layout, threshold=float("nan"))}),
        ("a spread of nothing", {"layout": msgspec.structs.replace(outcomes.layout, spread=0.0)}),
    ):
        yield what, changed(sound, outcomes=msgspec.structs.replace(outcomes, **fields))


def test_a_baseline_that_says_what_cannot_be_is_refused_in_one_line() -> None:
    sound = scenario.reference().baseline
    assert Baseline.from_bytes(sound.to_bytes()) == sound
    accepted = []
    for what, baseline in impossible():
        try:
            Baseline.from_bytes(baseline.to_bytes(), "m.baseline")
            accepted.append(what)
        except ConfigError as error:
            assert str(error).startswith("m.baseline: no baseline (") and "\n" not in str(error)
    assert not accepted


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_baseline_with_any_slot_of_any_size_opens_or_is_refused(data: st.DataObject) -> None:
    sound = scenario.reference().baseline
    slot = data.draw(st.integers(0, Counts.from_bytes(sound.total[WHOLE]).length - 1))
    value = data.draw(st.integers(-(2**63), 2**63 - 1) | st.integers(0, sound.events))
    hostile = changed(sound, total=sound.total | {WHOLE: with_slot(sound.total[WHOLE], slot, value)})
    try:
        opened = Baseline.from_bytes(hostile.to_bytes())
    except ConfigError:
        return
    assert np.all(opened.totals[WHOLE].dense() >= 0)
