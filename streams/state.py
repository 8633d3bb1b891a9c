"""What stage 2 keeps of a model ↔ bytes: its state, the books of a bucket, and roll-ups as units.

What is read back may have been written by anybody who may write to the topic: it is whole and within bounds, or it is
refused. Whether it fits the configuration is asked in `streams.restore`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from streams.calibrate import MOST_RESIDUALS, Calibration
from streams.cells import MOST_COUNT, MOST_SUM, opened, packed
from streams.config import MAX_VERSION, OTHER
from streams.errors import UNREADABLE, SketchError
from streams.events import MAX_NAME, MAX_TIME_MS, MIN_TIME_MS
from streams.fingerprint import MAX_SPAN_MS, Made, unit_length, unit_print
from streams.inhibit import MOST_OVER, Incident
from streams.judge_outcomes import Arrival
from streams.model_panes import BooksState
from streams.partial import Cell, Start, first_books
from streams.plan import ModelPlan
from streams.rollup import Unit
from streams.rule_state import RuleState, rule_cell
from streams.seal import KEYED, READS, WRITES, is_sealed, seal, unseal
from streams.signals.cusum import Sums
from streams.signals.jobs import MOST_RUNS, JobState
from streams.sketch.counts import Counts
from streams.sketch.names import Names
from streams.sketch.outcomes import DELAYS
from streams.sketch.profile import Profile

MAX_GAPS = 16
"""Of one clock; the oldest are forgotten first."""
MAX_KEYS = 1_000_000
"""Entries of any mapping of a state: versions by segments by rules stay far below."""
MAX_TEXT = 4 * MAX_NAME + MAX_VERSION + 64
"""Characters of a key that names a rule, a version and a segment."""

Gap = tuple[int, int]
"""From one time to another: what was counted in between is not known as a whole."""


class ModelState(msgspec.Struct, kw_only=True):
    """What stage 2 remembers of a model, as plain fields."""

    model: str
    judged_until_ms: int
    first_pane_ms: int
    last_event_pane_ms: int
    windows: int = 0
    decisions: dict[str, int] = {}
    """Decisions by reason."""
    actions: dict[str, int] = {}
    """Incidents by response: those that began, and below those that ended."""
    resolved: dict[str, int] = {}
    suppressed: dict[str, int] = {}
    shadow: dict[str, int] = {}
    """Incidents by shadow rule."""
    incidents: tuple[Incident, ...] = ()
    """Those that hold rules of higher layers back."""
    rules: dict[str, RuleState] = {}
    labels_until_ms: int | None = None
    """Arrival panes up to here are judged."""
    sums: Sums = {}
    calibrations: dict[str, Calibration] = {}
    arrival: Arrival | None = None
    jobs: dict[str, JobState] = {}
    kpis_until_ms: dict[str, int] = {}
    """Panes of each KPI up to here are judged."""
    kpis_first_ms: dict[str, int] = {}
    """Start of the first pane of each KPI that was judged; a KPI that an earlier release judged has none."""
    made: Made | None = None
    """The configuration that it was made under; None: of release 0.1, which did not say it."""
    gaps: dict[str, list[Gap]] = {}
    """By clock (`EVENTS_CLOCK`, or a KPI's name): where a change of the configuration left times of which not all is
    known."""
    judged_events: list[int] = []
    """Events that the panes before `judged_until_ms` were judged by, the latest first; -1 where nothing says it."""


MAX_JUDGED = 64
"""Panes of which a state says by how many events they were judged: one that has others after a rebuild is revised."""


class _Head(msgspec.Struct):
    format: int = 1
    """The first states did not say it."""


State = TypeVar("State", ModelState, BooksState)


def pack_state(state: ModelState | BooksState, key: bytes = b"") -> bytes:
    """Bytes that every release reads which reads this format: JSON, and from format `KEYED` on sealed with the key."""
    said = msgspec.structs.asdict(state)
    if isinstance(state, BooksState):
        said["totals"] = {name: first_books(books) for name, books in state.totals.items()}
    packed_json = msgspec.json.encode({"format": WRITES, **said})
    return packed_json if WRITES < KEYED else seal(packed_json, key=key)


def unpack_state(data: bytes, kind: type[State], key: bytes = b"") -> State:
    """Raises NewerError for a state of a later release, SketchError for what is none or is out of bounds.

    What says that it is of a later release, and is not sealed as one, is damage.
    """
    sealed = is_sealed(data)
    found = unseal(data, key) if sealed else data
    try:
        written = msgspec.json.decode(found, type=_Head).format
        if not sealed and (written not in READS or written >= KEYED):
            raise SketchError(seen=f"a state of format {written} without a seal", expected=f"format {WRITES}")
        state: State = msgspec.json.decode(found, type=kind)
    except UNREADABLE as error:
        raise SketchError(seen=f"a state that does not open ({error})", expected="a packed state") from None
    if isinstance(state, ModelState):
        _check(state)
    else:
        _require(len(state.folded) <= 1 << 20 and len(state.totals) <= MAX_KEYS, "books of too many")
        chunks = [state.folded, *state.unnamed.values(), state.folded_ms, *state.unnamed_ms.values()]
        _require(len(state.unnamed) <= MAX_KEYS and len(state.unnamed_ms) <= MAX_KEYS, "chunks of too many")
        _require(all(len(found) <= 1 << 20 for found in chunks), "chunks of too many")
        _require(
            all(0 <= at < 1 << 20 and -1 <= c <= 1 << 62 for found in chunks for at, c in found.items()), "a chunk"
        )
    return state


def _require(holds: bool, seen: str) -> None:
    if not holds:
        raise SketchError(seen=f"{seen} out of bounds", expected="what a worker writes")


def _check(state: ModelState) -> None:
    """Raises SketchError unless every time, number, text and size is one that a worker can have written."""
    _require(_is_name(state.model), "a name of a model")
    times = [state.judged_until_ms, state.first_pane_ms, state.last_event_pane_ms, *state.kpis_until_ms.values()]
    times += state.kpis_first_ms.values()
    times += [] if state.labels_until_ms is None else [state.labels_until_ms]
    times += [at for gaps in state.gaps.values() for gap in gaps for at in gap]
    _require(_are_times(times), "a time")
    _require(state.first_pane_ms <= state.judged_until_ms, "a first pane after the last one")
    _require(state.last_event_pane_ms <= state.judged_until_ms, "events after the last pane")
    _require(len(state.judged_events) <= MAX_JUDGED, "events of too many panes")
    _require(all(len(gaps) <= MAX_GAPS and all(a <= b for a, b in gaps) for gaps in state.gaps.values()), "a gap")
    tallies = (state.decisions, state.actions, state.resolved, state.suppressed, state.shadow)
    _require(all(0 <= n <= 1 << 62 for tally in tallies for n in (*tally.values(), state.windows)), "a count")
    kpis = (state.kpis_until_ms, state.kpis_first_ms)
    sizes = (*tallies, state.rules, state.sums, state.calibrations, state.jobs, *kpis, state.gaps)
    _require(all(len(found) <= MAX_KEYS for found in sizes), "a number of entries")
    _check_rules(state)
    _check_labels(state)
    _check_jobs(state.jobs)


def _check_rules(state: ModelState) -> None:
    for key, rule in state.rules.items():
        cell = rule_cell(key)
        _require(all(map(_is_text, (cell.rule, cell.version or "", cell.dimension, cell.value))), "a rule's key")
        counts = (rule.breached, rule.quiet, rule.starved, rule.revision)
        _require(all(0 <= n <= 1 << 40 for n in counts), "a rule's count")
        _require(
            _are_times([rule.since_ms, *([] if rule.resolved_ms is None else [rule.resolved_ms])]), "a rule's time"
        )
        _require(len(rule.told) <= MAX_KEYS and all(far >= 0 for far in rule.told.values()), "a rule's evidence")
        _require(_is_text(rule.suppressed_by), "a rule's cause")
    _require(len(state.incidents) <= MOST_OVER + MAX_KEYS, "incidents")
    for incident in state.incidents:
        over_ms = incident.began_ms if incident.over_ms is None else incident.over_ms
        _require(_are_times([incident.began_ms, over_ms]), "an incident's time")
        _require(0 <= incident.rank <= 1 << 20, "an incident's rank")


def _check_labels(state: ModelState) -> None:
    for n, excess, _ in state.sums.values():
        _require(0 <= n <= MOST_COUNT and math.isfinite(excess), "a sum")
    for found in state.calibrations.values():
        numbers = (found.intercept, found.slope, *found.information)
        _require(all(map(math.isfinite, numbers)), "a calibration")
        _require(len(found.residuals) <= MOST_RESIDUALS, "residuals")
        _require(_are_times(at for at, _ in found.residuals), "a residual's time")
    if state.arrival is not None:
        delays = state.arrival.delays
        _require(len(delays) in (0, DELAYS) and all(0 <= n <= MOST_COUNT for n in delays), "delays of labels")
        _require(not state.arrival.learned or len(delays) == DELAYS, "delays of labels")
        _require(_are_times([state.arrival.since_ms, state.arrival.learned_ms]), "a time of labels")


def _check_jobs(jobs: dict[str, JobState]) -> None:
    for job in jobs.values():
        parts = (job.started, job.failed, job.succeeded)
        _require(all(len(part) <= MOST_RUNS for part in parts), "runs of a job")
        _require(_are_times(at for part in parts for at in part.values()), "a run's time")
        _require(job.success_ms is None or _are_times([job.success_ms]), "a run's time")


def _are_times(times_ms: Iterable[int]) -> bool:
    return all(MIN_TIME_MS - MAX_SPAN_MS <= at <= MAX_TIME_MS + MAX_SPAN_MS for at in times_ms)


def _is_text(text: str) -> bool:
    return len(text) <= MAX_TEXT  # a version may hold any character: whoever shows it takes care of that


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME and text.isprintable()


class _PackedUnit(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    model: str
    level_ms: Annotated[int, Meta(ge=1, le=MAX_SPAN_MS)]
    start_ms: Start
    cells: list[Cell]
    stream: str = ""


def pack_unit(model: str, unit: Unit, key: bytes = b"") -> bytes:
    """Sealed bytes that release 0.1 reads too: it takes the last of two cells with one key, so the first one carries
    the fingerprint."""
    cells = packed(unit.cells)
    if unit.made and cells:
        carrier = Profile(Counts(1), extras=Names({unit.made: 1}))
        cells = [Cell(*cells[0].key, carrier.to_bytes()), *cells]
    found = _PackedUnit(model, unit.level_ms, unit.start_ms, cells, unit.stream)
    return seal(msgspec.msgpack.encode(found), key=key)


def _carried(cells: list[Cell]) -> str:
    """The fingerprint of a unit; empty where none was written down."""
    if len(cells) < 2 or cells[0].key != cells[1].key:
        return ""
    names = list(Profile.from_bytes(cells[0].profile).extras.counts)
    if len(names) != 1:
        raise SketchError(seen="a roll-up with two cells of one key", expected="one")
    return names[0]


def unpack_unit(data: bytes, key: bytes = b"") -> tuple[str, Unit]:
    """Raises SketchError for what is no unit, NewerError for one of a later release."""
    try:
        found = msgspec.msgpack.decode(unseal(data, key), type=_PackedUnit)
    except UNREADABLE as error:
        raise SketchError(seen=f"a roll-up that does not open ({error})", expected="a packed roll-up") from None
    cells = opened(found.cells)
    if any(profile.counts.highest > MOST_SUM for profile in cells.values()):
        raise SketchError(seen="a count in a roll-up out of bounds", expected="what a worker writes")
    if found.start_ms % found.level_ms:
        raise SketchError(seen=f"a roll-up of {found.level_ms} ms from {found.start_ms}", expected="an aligned one")
    return found.model, Unit(found.level_ms, found.start_ms, cells, found.stream, _carried(found.cells))


def is_folded(unit: Unit) -> bool:
    """Whether versions beyond the cap were folded in it."""
    return any(version == OTHER for version, _, _ in unit.cells)


def fits(unit: Unit, plan: ModelPlan) -> bool:
    """Whether a roll-up was counted as the plan counts. One of release 0.1 fits by the length of its counts alone."""
    length = unit_length(plan, unit.stream)
    if length is None or (unit.made and unit.made != unit_print(plan, unit.stream, folded=is_folded(unit))):
        return False
    columns = 0 if unit.stream else len(plan.layout.columns)
    return all(
        profile.counts.length == length
        and all(at < columns for sketches in (profile.distinct, profile.heavy, profile.quantiles) for at in sketches)
        for profile in unit.cells.values()
    )
