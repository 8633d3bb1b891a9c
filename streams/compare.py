"""Actions of the same past under two configurations → incidents that came, went, or moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from streams.action import Action, IncidentKey, State, incident_key


class Spell(msgspec.Struct, frozen=True, kw_only=True):
    """An incident from its beginning to its end, in texts of UTC; `end` is None while it lasts."""

    model: str
    version: str | None
    segment: dict[str, str] | None
    rule: str
    action: str
    suppressed: bool
    """It was held back from the beginning to the end."""
    start: str
    end: str | None = None

    @property
    def key(self) -> IncidentKey:
        """Of two spells with one key only the time differs."""
        return incident_key(self.model, self.rule, self.version, self.segment)

    def overlaps(self, other: Spell) -> bool:
        return (other.end is None or self.start < other.end) and (self.end is None or other.start < self.end)


class Change(StrEnum):
    """What became of an incident."""

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
    """The incidents of actions that come in order. One that was released began when it was released."""

    def __init__(self) -> None:
        self._open: dict[IncidentKey, Spell] = {}
        self._over: list[Spell] = []

    def take(self, action: Action) -> None:
        data = action.data
        spell = Spell(
            model=data.model,
            version=data.model_version,
            segment=data.segment,
            rule=data.rule,
            action=data.action,
            suppressed=data.state is State.SUPPRESSED,
            start=data.window.end,
        )
        known = self._open.get(spell.key)
        if data.state is State.RESOLVED:
            if known is not None:
                self._over.append(msgspec.structs.replace(known, end=data.window.end))
                del self._open[spell.key]
        elif known is None or (known.suppressed and not spell.suppressed):
            self._open[spell.key] = spell

    def all(self) -> list[Spell]:
        """In the order of their beginnings."""
        return sorted([*self._over, *self._open.values()], key=lambda spell: (spell.start, spell.key))


def spells(actions: Iterable[Action]) -> list[Spell]:
    """The incidents of actions in order."""
    found = Spells()
    for action in actions:
        found.take(action)
    return found.all()


def compare(before: Iterable[Action], after: Iterable[Action]) -> list[Difference]:
    """Two incidents are one if they are about the same and overlap; the earliest pairs first."""
    mine, others = _by_key(spells(before)), _by_key(spells(after))
    found = [
        difference
        for key in mine.keys() | others.keys()
        for difference in _paired(mine.get(key, ()), others.get(key, ()))
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


def _by_key(found: Iterable[Spell]) -> Mapping[IncidentKey, list[Spell]]:
    grouped: dict[IncidentKey, list[Spell]] = {}
    for spell in found:
        grouped.setdefault(spell.key, []).append(spell)
    return grouped


def _place(difference: Difference) -> tuple[str, IncidentKey]:
    spell = difference.before or difference.after
    assert spell is not None
    return spell.start, spell.key


def difference_line(difference: Difference) -> str:
    """One line for a person."""
    spell = difference.before or difference.after
    assert spell is not None
    model, rule, version, segment = spell.key
    where = f"{model}{f' v{version}' if version else ''}{f' {segment}' if segment else ''}"
    times = [_span(side) for side in (difference.before, difference.after) if side is not None]
    return f"{difference.change:<5}  {where}  {rule} ({spell.action}): {' → '.join(dict.fromkeys(times))}"


def _span(spell: Spell) -> str:
    held = ", suppressed" if spell.suppressed else ""
    return f"{spell.start} to {spell.end or 'the end'}{held}"
