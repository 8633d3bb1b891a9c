"""Actions of the same past under two configurations → incidents that came, went, or moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from streams.action import Action, segment_id
from streams.incident_log import Incident, IncidentLog, Subject


class Spell(msgspec.Struct, frozen=True, kw_only=True):
    """An incident from its beginning to its end, in texts of UTC; `end` is None while it is open."""

    model: str
    version: str | None
    segment: dict[str, str] | None
    rule: str
    action: str
    suppressed: bool
    """It was suppressed from the beginning to the end."""
    start: str
    end: str | None = None

    @property
    def subject(self) -> Subject:
        """Of two spells with one subject only the time differs."""
        return Subject(self.model, self.rule, self.version, segment_id(self.segment))

    def overlaps(self, other: Spell) -> bool:
        return (other.end is None or self.start < other.end) and (self.end is None or other.start < self.end)


class Change(StrEnum):
    """How an incident differs between the two configurations."""

    SAME = "same"
    MOVED = "moved"
    CAME = "came"
    GONE = "gone"


class Difference(msgspec.Struct, frozen=True):
    """An incident under one configuration, the other, or both."""

    change: Change
    before: Spell | None
    after: Spell | None


class Spells:
    """The incidents of actions that come in order. A released incident began when it was released."""

    def __init__(self) -> None:
        self._log = IncidentLog()

    def take(self, action: Action) -> None:
        self._log.take(action)

    def all(self) -> list[Spell]:
        """The incidents in the order of their beginnings."""
        found = [spell for incident in self._log if (spell := _spell(incident)) is not None]
        return sorted(found, key=lambda spell: (spell.start, spell.subject.order))


def _spell(incident: Incident) -> Spell | None:
    """None if only its end is known."""
    start = incident.fired or incident.held_back
    if start is None:
        return None
    data = start.data
    return Spell(
        model=data.model,
        version=data.model_version,
        segment=data.segment,
        rule=data.rule,
        action=data.action,
        suppressed=incident.fired is None,
        start=data.window.end,
        end=incident.ended.data.window.end if incident.ended else None,
    )


def spells(actions: Iterable[Action]) -> list[Spell]:
    """The incidents of actions."""
    found = Spells()
    for action in actions:
        found.take(action)
    return found.all()


def compare(before: Iterable[Action], after: Iterable[Action]) -> list[Difference]:
    """Pairs incidents that are about the same and overlap, the earliest pairs first, and returns the differences."""
    mine, others = _by_subject(spells(before)), _by_subject(spells(after))
    found = [
        difference
        for subject in mine.keys() | others.keys()
        for difference in _paired(mine.get(subject, ()), others.get(subject, ()))
    ]
    return sorted(found, key=_place)


def _paired(before: Sequence[Spell], after: Sequence[Spell]) -> Iterator[Difference]:
    left = list(after)
    for spell in before:
        match = next((other for other in left if spell.overlaps(other)), None)
        if match is None:
            yield Difference(Change.GONE, spell, None)
            continue
        left.remove(match)
        yield Difference(Change.SAME if spell == match else Change.MOVED, spell, match)
    yield from (Difference(Change.CAME, None, other) for other in left)


def _by_subject(found: Iterable[Spell]) -> Mapping[Subject, list[Spell]]:
    grouped: dict[Subject, list[Spell]] = {}
    for spell in found:
        grouped.setdefault(spell.subject, []).append(spell)
    return grouped


def _place(difference: Difference) -> tuple[str, tuple[str, str, str, str]]:
    spell = difference.before or difference.after
    assert spell is not None
    return spell.start, spell.subject.order


def difference_line(difference: Difference) -> str:
    """One line for a person."""
    spell = difference.before or difference.after
    assert spell is not None
    model, rule, version, segment = spell.subject
    where = f"{model}{f' v{version}' if version else ''}{f' {segment}' if segment else ''}"
    times = [_span(side) for side in (difference.before, difference.after) if side is not None]
    return f"{difference.change:<5}  {where}  {rule} ({spell.action}): {' → '.join(dict.fromkeys(times))}"


def _span(spell: Spell) -> str:
    held = ", suppressed" if spell.suppressed else ""
    return f"{spell.start} to {spell.end or 'the end'}{held}"
