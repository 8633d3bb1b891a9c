"""The same past under two configurations: incidents that came, went, moved, or are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.action import Action
from streams.compare import Change, Difference, compare, difference_line, spells
from tests.actions import action


def told(*steps: Any) -> list[Action]:
    """An incident begins where none is open."""
    found: list[Action] = []
    since: dict[tuple[Any, ...], int] = {}
    for letter, hour, *about in steps:
        began = since.setdefault(tuple(about), hour - 1)
        found.append(action(letter, hour, *about, since=began))
        if letter == "r":
            del since[tuple(about)]
    return found


def changes(found: Sequence[Difference]) -> list[str]:
    return [str(item.change) for item in found]


def test_an_incident_lasts_from_its_first_action_to_its_resolution() -> None:
    (spell,) = spells(told(("f", 2), ("w", 3), ("r", 5)))
    assert (spell.start, spell.end, spell.suppressed) == ("1970-01-01T02:00:00Z", "1970-01-01T05:00:00Z", False)
    (lasting,) = spells(told(("f", 2)))
    assert lasting.end is None


def test_what_was_released_began_then_and_what_never_was_is_suppressed() -> None:
    (released,) = spells(told(("s", 2), ("l", 4), ("r", 5)))
    assert (released.start, released.suppressed) == ("1970-01-01T04:00:00Z", False)
    (held,) = spells(told(("s", 2), ("r", 5)))
    assert held.suppressed


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([("f", 2), ("r", 5)], [("f", 2), ("r", 5)], ["same"]),
        ([("f", 2), ("r", 5)], [("f", 3), ("r", 5)], ["moved"]),
        ([("f", 2), ("r", 5)], [("f", 5), ("r", 6)], ["gone", "came"]),  # they touch, and do not overlap
        ([("f", 2)], [("f", 9)], ["moved"]),  # both last to the end
        ([("f", 2), ("r", 5)], [], ["gone"]),
        ([], [("f", 2), ("r", 5)], ["came"]),
        ([("f", 2), ("r", 5)], [("f", 2, "other"), ("r", 5, "other")], ["gone", "came"]),
        ([("f", 2), ("r", 5)], [("f", 2, "nulls", ("region", "north"))], ["gone", "came"]),
        ([("f", 2), ("r", 9)], [("f", 2), ("r", 4), ("f", 6), ("r", 9)], ["moved", "came"]),
        ([("f", 2), ("r", 5)], [("s", 2), ("r", 5)], ["moved"]),
    ],
)
def test_what_became_of_incidents(before: list[Any], after: list[Any], found: list[str]) -> None:
    assert changes(compare(told(*before), told(*after))) == found


@given(st.lists(st.sampled_from("frsl"), max_size=12), st.lists(st.sampled_from("frsl"), max_size=12))
def test_every_incident_is_told_once(before: list[str], after: list[str]) -> None:
    sides = [told(*((letter, hour) for hour, letter in enumerate(steps, 1))) for steps in (before, after)]
    found = compare(*sides)
    for side, actions in (("before", sides[0]), ("after", sides[1])):
        mine = [spell for item in found if (spell := getattr(item, side)) is not None]
        assert sorted(mine, key=repr) == sorted(spells(actions), key=repr)
    assert all((item.change is Change.SAME) == (item.before == item.after) for item in found)


def test_a_difference_is_a_line_for_a_person() -> None:
    (moved,) = compare(told(("f", 2), ("r", 5)), told(("f", 3)))
    before, after = "1970-01-01T02:00:00Z to 1970-01-01T05:00:00Z", "1970-01-01T03:00:00Z to the end"
    assert difference_line(moved) == f"moved  m v1  nulls (data_incident): {before} → {after}"
