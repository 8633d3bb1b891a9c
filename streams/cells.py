"""Columns → profiles by pane, timeliness and cell: one pass of array work for a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from streams.arrays import Ints, Mask
from streams.batch import Columns
from streams.config import MAX_VERSION, OTHER
from streams.errors import SketchError
from streams.partial import Cell, CellKey, PanePart
from streams.sketch.counts import Counts
from streams.sketch.distinct import Distinct
from streams.sketch.heavy import HeavyValues
from streams.sketch.layout import Layout, requests
from streams.sketch.names import Names, rank
from streams.sketch.profile import Profile
from streams.sketch.quantiles import Quantiles

Cells = dict[CellKey, Profile]
Texts = dict[int, list[str]]

_DENSE_FACTOR = 4
"""Count in a dense matrix while it has no more than this many slots for each value counted."""


class Group(NamedTuple):
    """The common properties of a group of rows: pane, timeliness and model version."""

    pane_ms: int
    timeliness: int
    version: str


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The declared dimensions and their values, and the versions that are never folded."""

    dimensions: tuple[tuple[str, tuple[str, ...]], ...]
    versions: tuple[str, ...]
    max_versions: int

    @classmethod
    def of(
        cls, segments: Mapping[str, Sequence[str]], versions: Sequence[str] = (), max_versions: int = 8
    ) -> Segmentation:
        return cls(tuple((name, tuple(values)) for name, values in segments.items()), tuple(versions), max_versions)

    def declared(self) -> list[tuple[str, str]]:
        """The whole, and every declared segment, as dimension and value."""
        return [("", ""), *((name, value) for name, values in self.dimensions for value in values)]

    def keys(self, version: str, segments: Mapping[str, str]) -> Iterator[CellKey]:
        """The whole of a version, and the segments that are named; of a value that is not declared the folded rest."""
        yield version, "", ""
        for name, values in self.dimensions:
            if name in segments:
                yield version, name, segments[name] if segments[name] in values else OTHER

    def keys_at(self, version: str, positions: tuple[int, ...]) -> Iterator[CellKey]:
        """The whole of a version, and the segments at these positions; without positions the whole alone."""
        yield version, "", ""
        for (name, values), position in zip(self.dimensions, positions, strict=False):
            yield version, name, values[position] if position < len(values) else OTHER

    def takes(self, dimension: str, value: str) -> bool:
        """Whether this is the whole, a declared segment, or the folded rest of a declared dimension."""
        return (dimension, value) == ("", "") or any(
            name == dimension and value in (*values, OTHER) for name, values in self.dimensions
        )


def profiles(
    batch: Columns, layout: Layout, segmentation: Segmentation, pane_ms: int, classes: Ints
) -> Iterator[tuple[Group, CellKey, Profile]]:
    """A profile for every group of rows and every cell that they belong to.

    Parameters:
        pane_ms: length of a pane.
        classes: (n,) timeliness of the rows; a row with a negative one is left out.
    """
    groups, member = _groups(batch.versions, batch.ts_ms // pane_ms, pane_ms, classes)
    if len(groups) > segmentation.max_versions:
        groups, member = _capped(groups, member, segmentation)
    kept = member >= 0
    unseen, extras = _unseen(batch, member), _by_cell(batch.extras, member)
    for at, vector in enumerate(_count(batch.slots, member, len(groups), layout.length)):
        group = groups[at]
        yield group, (group.version, "", ""), _whole(batch, vector, member, at, unseen, extras)
    for (dimension, values), codes in zip(segmentation.dimensions, batch.segments, strict=True):
        width = len(values) + 1
        cell = member * width + codes
        present, found = numbered(cell[kept])
        dense = _spread(found, kept)
        unseen = _unseen(batch, dense)
        vectors = _count(batch.slots, dense, len(present), layout.length)
        for position, (code, vector) in enumerate(zip(present.tolist(), vectors, strict=True)):
            group = groups[code // width]
            value = (*values, OTHER)[code % width]
            yield group, (group.version, dimension, value), _segment(batch, vector, dense, position, unseen)


def _groups(versions: Sequence[str], panes: Ints, pane_ms: int, classes: Ints) -> tuple[list[Group], Ints]:
    """The distinct groups, and each row's (negative: left out)."""
    names = {version: code for code, version in enumerate(dict.fromkeys(versions))}
    codes = np.fromiter(map(names.__getitem__, versions), np.int64, len(versions)) if len(names) > 1 else 0
    present_panes, pane_codes = numbered(panes)
    packed = (pane_codes * 4 + classes) * len(names) + codes
    kept = classes >= 0
    present, found = numbered(packed[kept])
    texts = [name if len(name) <= MAX_VERSION else OTHER for name in names]
    groups = [
        Group(int(present_panes[code // len(names) // 4]) * pane_ms, code // len(names) % 4, texts[code % len(names)])
        for code in present.tolist()
    ]
    return groups, _spread(found, kept)


def _spread(found: Ints, kept: Mask) -> Ints:
    """What was found of the rows that are kept, at their places (n,); −1 at the others."""
    if len(found) == len(kept):
        return found
    spread = np.full(len(kept), -1)
    spread[kept] = found
    return spread


def numbered(values: Ints) -> tuple[Ints, Ints]:
    """The distinct values in rising order, and (n,) the index of each value among them."""
    if not len(values):
        return values, values
    low = int(values.min())
    offsets = values - low
    if int(offsets.max()) > _DENSE_FACTOR * len(values):
        present, codes = np.unique(values, return_inverse=True)
        return present, codes
    present = np.flatnonzero(np.bincount(offsets))
    places = np.zeros(int(present[-1]) + 1, np.int64)
    places[present] = np.arange(len(present))
    return present + low, places[offsets]


def _capped(groups: Sequence[Group], member: Ints, segmentation: Segmentation) -> tuple[list[Group], Ints]:
    """The groups with no more versions of a span than the cap: as `cap_versions`, before there are any profiles."""
    versions: dict[tuple[int, int], set[str]] = {}
    for group in groups:
        versions.setdefault(group[:2], set()).add(group.version)
    kept = {span: _kept(names, segmentation) for span, names in versions.items()}
    places: dict[Group, int] = {}
    place = [
        places.setdefault(group if group.version in kept[group[:2]] else group._replace(version=OTHER), len(places))
        for group in groups
    ]
    return list(places), np.where(member >= 0, np.array(place)[member], -1)


def _by_cell(pairs: Sequence[tuple[int, str]], member: Ints) -> Texts:
    """Of (row, text) the texts of each cell; `member` says which one a row is in."""
    found: Texts = {}
    for at, (_, text) in zip(member[[row for row, _ in pairs]].tolist() if pairs else (), pairs, strict=True):
        found.setdefault(at, []).append(text)
    return found


def _unseen(batch: Columns, member: Ints) -> dict[int, Texts]:
    return {column: _by_cell(pairs, member) for column, pairs in batch.unseen.items()}


def _count(slots: Ints, member: Ints, groups: int, length: int) -> Iterator[Counts]:
    """Counts of each group from the (columns + 1, n) slots of its rows."""
    kept = member >= 0
    if not kept.all():
        slots, member = slots[:, kept], member[kept]
    if groups == 1:
        yield Counts.of(np.bincount(slots.ravel(), minlength=length))
        return
    flat = (slots + member * length).ravel()
    if groups * length <= _DENSE_FACTOR * len(flat):
        for vector in np.bincount(flat, minlength=groups * length).reshape(groups, length):
            yield Counts.of(vector.copy())
        return
    found, counts = np.unique(flat, return_counts=True)
    bounds = np.searchsorted(found, np.arange(groups + 1) * length)
    for at in range(groups):
        part = slice(bounds[at], bounds[at + 1])
        yield Counts(length, found[part] - at * length, counts[part])


def _whole(
    batch: Columns, counts: Counts, member: Ints, at: int, unseen: Mapping[int, Texts], extras: Texts
) -> Profile:
    profile = _segment(batch, counts, member, at, unseen)
    for column, texts in unseen.items():
        if at in texts:
            profile.heavy[column] = HeavyValues()
            profile.heavy[column].update(texts[at])
    if at in extras:
        profile.extras = Names.of(extras[at])
    return profile


def _segment(batch: Columns, counts: Counts, member: Ints, at: int, unseen: Mapping[int, Texts]) -> Profile:
    profile = Profile(counts)
    for column, texts in unseen.items():
        if at in texts:
            profile.distinct[column] = Distinct()
            profile.distinct[column].update(texts[at])
    for column, numbers in batch.numbers.items():
        sketch = Quantiles()
        sketch.update(numbers[member == at])
        if sketch.n:
            profile.quantiles[column] = sketch
    return profile


def packed(cells: Cells) -> list[Cell]:
    """The cells as partials and the state carry them."""
    return [Cell(*key, profile.to_bytes()) for key, profile in cells.items()]


def opened(found: Iterable[Cell]) -> Cells:
    """The cells of their packed form: the reverse of `packed`."""
    return {cell.key: Profile.from_bytes(cell.profile) for cell in found}


Takes = Callable[[str, str], bool]
"""Whether cells of a dimension and a value are counted."""


MOST_COUNT, MOST_SUM = 1 << 40, 1 << 62
"""No count and no sum in fixed point can be larger; statistics of larger counts would take for ever."""


def checked_part(part: PanePart, length: int, takes: Takes, most: int) -> PanePart:
    """The part with those cells that this configuration counts; another configuration may have written the others.

    Cells are kept packed, and opened when their pane is evaluated. So a cell that does not open is refused here, where
    it comes in.

    Raises:
        SketchError: unless every cell opens, and was counted by a layout of this length, in numbers up to `most`.
    """
    for cell in (*part.on_time, *part.welcome):
        counts = Profile.from_bytes(cell.profile).counts
        if counts.length != length:
            raise SketchError(seen=f"a cell of {counts.length} slots", expected=f"{length}, as its layout has")
        if counts.highest > most:
            raise SketchError(seen=f"a count of {counts.highest}", expected=f"at most {most}")
    on_time, welcome = ([c for c in found if takes(c.dimension, c.value)] for found in (part.on_time, part.welcome))
    return PanePart(part.model, part.layout, on_time, welcome)


def added(cells: Cells, key: CellKey, profile: Profile, segmentation: Segmentation) -> None:
    """Adds a profile to a pane's cells, keeping no more versions than the cap."""
    cells[key] = cells[key].merged(profile) if key in cells else profile
    cap_versions(cells, segmentation)


def cap_versions(cells: Cells, segmentation: Segmentation) -> None:
    """Keeps the declared versions, then those with the smallest hash: a function of the set, in any order.

    What a union keeps, each of its parts keeps too, so a union of capped cells has exact counts.
    """
    versions = {version for version, _, _ in cells} - {OTHER}
    if len(versions) <= segmentation.max_versions:
        return
    folded = versions - _kept(versions, segmentation)
    for key in [key for key in cells if key[0] in folded]:
        profile = cells.pop(key)
        other = (OTHER, *key[1:])
        cells[other] = cells[other].merged(profile) if other in cells else profile


def _kept(versions: set[str], segmentation: Segmentation) -> set[str]:
    order = sorted(versions - {OTHER}, key=lambda version: (version not in segmentation.versions, rank(version)))
    return set(order[: segmentation.max_versions])


def count_events(cells: Cells) -> int:
    """Requests in the cells of whole models, over all versions."""
    return sum(int(requests(profile.counts.dense())) for key, profile in cells.items() if key[1:] == ("", ""))
