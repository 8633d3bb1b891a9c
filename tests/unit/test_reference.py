"""What the reference's own blocks say of windows, when the file was edited or the reference was long."""

from __future__ import annotations

import pytest

from streams import learn
from streams.baseline import WHOLE
from streams.signals.reference import Reference
from tests.synthetic import MODEL, events, learned, lines, plan

MINUTE = 60_000


def usual_rate(reference: Reference, minutes: float) -> float | None:
    limits = reference.limits(int(minutes * MINUTE), WHOLE)
    return limits.usual_rate if limits else None


def test_the_usual_volume_is_the_same_in_windows_of_any_length() -> None:
    reference = Reference(plan(learned()).models[MODEL])
    assert [usual_rate(reference, minutes) for minutes in (1, 2, 4, 5)] == pytest.approx([10] * 4)


def test_a_long_reference_of_which_few_blocks_are_kept_knows_its_volume_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 blocks every fourth is kept: a window of five minutes holds one or two of them."""
    monkeypatch.setattr(learn, "MAX_BLOCKS", 5)
    written = lines(events(20, 1))
    found = learn.learn(MODEL, lambda: written)
    assert len(found.baseline.blocks) == 5
    reference = Reference(plan(found).models[MODEL])
    assert [usual_rate(reference, minutes) for minutes in (1, 2, 4)] == pytest.approx([10] * 3)
    assert usual_rate(reference, 5) == pytest.approx(10, rel=0.25)


@pytest.mark.parametrize("minutes", [0.5, 1.5])
def test_a_window_that_no_number_of_blocks_fills_is_not_judged_by_them(minutes: float) -> None:
    """A pane that was made shorter by hand has no blocks of its length: half of one holds half the events."""
    assert usual_rate(Reference(plan(learned()).models[MODEL]), minutes) is None
