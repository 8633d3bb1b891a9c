"""What was sent → what has to be on the topics, by a plain fold and by a backtest; and where what is there differs.

The first judge is `reference`, which shares no code with the product. The second is the backtest, which shares all of
it but Kafka, and so says what every signal and every action must be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from agents.clients import Connection
from streams.backtest import label_summary
from streams.config import OTHER
from streams.partial import Books
from tests.faults.edited import FINE_MS, announced_ms, layout_errors, orphans
from tests.faults.published import Published, books, expected, log_of, lost_labels, lost_records, published, rebuilt
from tests.faults.reference import Expected, LogRecord, ModelRules, incident_errors, reference, window_errors
from tests.faults.stream import GENERATION, MODEL, Pair, Stream

_NOT_MATCHED = ("duplicate", "unmatched", "rejected")
"""What a label is that matches no prediction, in the names of the label books."""
LostByTopic = Mapping[str, Mapping[int, int]]
"""By topic and partition: a number of records, or an offset."""

FUTURE_TOLERANCE_MS = 300_000
"""Where the configuration does not say it."""


@dataclass(frozen=True)
class Verdict:
    """What a run gave beside what it should have given."""

    events: int
    lost: int
    """Events that should have been counted, or told as late, rejected or duplicate, and were not."""
    duplicated: int
    """Those that were, and should not have been, or once more than they should."""
    missing: int
    """Ids of actions."""
    surplus: int
    wrong: tuple[str, ...]
    """Every place where anything differs."""
    deleted: int = 0
    """Events that a fault deleted before they could be counted."""


@dataclass(frozen=True)
class Logs:
    """What the topics held when everything had been read, as a reader of committed records gets it."""

    events: Sequence[LogRecord]
    labels: Sequence[LogRecord] = ()

    def without(self, lost: LostByTopic, cut_at: LostByTopic) -> Logs:
        """Without the records that were lost: by topic and partition, so many right before where the log was cut."""
        return Logs(
            _without(self.events, lost["inference"], cut_at["inference"]),
            _without(self.labels, lost["labels"], cut_at["labels"]),
        )


def _without(records: Sequence[LogRecord], lost: Mapping[int, int], cut_at: Mapping[int, int]) -> list[LogRecord]:
    return [r for r in records if not 0 < cut_at.get(r.partition, 0) - r.offset <= lost.get(r.partition, 0)]


def logs_of(
    connection: Connection,
    collected: Mapping[str, Sequence[LogRecord]] = MappingProxyType({}),
    anew: Collection[str] = (),
) -> Logs:
    """The logs as they are now, with what was collected of them before records were deleted.

    `anew`: topics that were made anew since. Offsets of theirs go on after those of the log before.
    """

    def records(topic: str) -> list[LogRecord]:
        now = log_of(connection, topic)
        if topic in anew:
            now = [replace(record, offset=record.offset + GENERATION) for record in now]
        return sorted({*collected.get(topic, ()), *now}, key=lambda r: (r.partition, r.offset))

    return Logs(records("inference"), records("labels"))


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What happened to the logs and the configuration on the way."""

    cut_at: Mapping[int, int] = field(default_factory=dict)
    """By partition of the events, where records before were deleted."""
    labels_cut_at: Mapping[int, int] = field(default_factory=dict)
    """The same of the labels."""
    edits: Sequence[str] = ()
    """Of the configuration's rules."""
    layouts: AbstractSet[int] = frozenset()
    """The panes, in ms, of configurations between which the layout was edited."""
    text: str = ""
    """The configuration before any edit; empty: as it is now."""
    in_other_order: bool = False
    """The order of the events' log is not that of the backtest."""


def judge(
    connection: Connection,
    config: Path,
    stream: Stream,
    labels: Sequence[Pair] = (),
    *,
    logs: Logs | None = None,
    circumstances: Circumstances | None = None,
) -> Verdict:
    """Holds what was published against a plain fold of the logs, and then against a backtest of what was sent.

    `logs`: by default, what the topics hold now. Of records that were deleted those are left out that the workers say
    they have lost.
    """
    known = circumstances or Circumstances()
    logs = logs_of(connection) if logs is None else logs
    found, kept = published(connection), books(connection, config)
    text = known.text or config.read_text(encoding="utf-8")
    rules = ModelRules.of(yaml.safe_load(text), MODEL, future_ms=FUTURE_TOLERANCE_MS)
    should = reference(rules, logs.events, logs.labels)
    most, wrong, letters_of_lost = should, [*_unlike(should, stream)], Counter[Any]()
    gone = {"inference": lost_records(connection, config), "labels": lost_labels(connection)}
    cut_at = {"inference": known.cut_at, "labels": known.labels_cut_at}
    if any(gone.values()):
        unasked = [(topic, at, n) for topic, lost in gone.items() for at, n in lost.items() if at not in cut_at[topic]]
        wrong += [f"lost {n} of {topic} partition {at}, and nothing was deleted" for topic, at, n in unasked]
        left = logs.without(gone, cut_at)
        whole, should = should, reference(rules, left.events, left.labels)
        letters_of_lost = whole.rejected - should.rejected
        # A join that had read events which were never published as counted knows them all the same.
        most = reference(rules, logs.events, left.labels)
    wrong += _unbalanced(kept, should)
    if known.layouts:
        fine = reference(replace(rules, pane_ms=FINE_MS), logs.events)
        wrong += layout_errors(rules, fine, known.layouts, found.windows.values(), announced_ms(config.parent))
    else:
        wrong += window_errors(rules, should, found.windows.values(), most)
    wrong += orphans(config, found.actions) if known.edits else incident_errors(rules, should, found.actions)
    if labels:
        least, highest = _books_of(should.labels), _books_of(most.labels)
        wrong += _not_between(_settled(label_books(connection, config)), least, highest)
    lost, duplicated = _lost_and_duplicated(should, found, kept, panes=not known.layouts)
    duplicated -= letters_of_lost  # written when they were read, before they were counted and so durable
    wrong += [f"lost {place}: {n}" for place, n in lost.items()]
    wrong += [f"duplicated {place}: {n}" for place, n in duplicated.items()]
    missing, surplus = set[str](), set[str]()
    if not (any(gone.values()) or known.in_other_order or known.edits):  # the backtest knows nothing of those
        second = expected(config, stream, labels)
        wrong += [*_not_telling(second, labelled=bool(labels)), *differences(found.windows, second.windows)]
        missing, surplus = second.action_ids - found.action_ids, found.action_ids - second.action_ids
        names = {action["id"]: _name(action) for action in (*found.actions, *second.actions)}
        wrong += [f"no action {names[id]}" for id in missing] + [f"surplus action {names[id]}" for id in surplus]
    sums = lost.total(), duplicated.total(), len(missing), len(surplus)
    return Verdict(len(stream.pairs), *sums, tuple(wrong), len(logs.events) - should.read)


def _name(action: Mapping[str, Any]) -> str:
    data = action["data"]
    return f"{data['rule']} {data['state']} {data['model_version']} {data['segment']} {data['window']} {action['id']}"


def _lost_and_duplicated(
    should: Expected, found: Published, kept: Mapping[str, Books], *, panes: bool
) -> tuple[Counter[Any], Counter[Any]]:
    """Events by what became of them: those that the log has and the topics do not, and the other way round."""
    whole = (
        {} if not panes else {key: pane for key, pane in should.panes.items() if key[1] is not None and key[2] is None}
    )
    log: Counter[Any] = Counter({("pane", start, version): pane.events for (start, version, _), pane in whole.items()})
    log += Counter({"late": should.late, "duplicate": should.duplicate, OTHER: should.strangers})
    log += should.rejected
    does: Counter[Any] = Counter({("pane", *pane): n for pane, n in found.panes().items() if panes})
    does += Counter({"late": kept[MODEL].late, "duplicate": kept[MODEL].duplicate})
    does += Counter({OTHER: kept[OTHER].counted if OTHER in kept else 0})
    does += Counter((letter.reason, letter.value) for letter in found.dead_letters.values())
    return log - does, does - log


def _not_telling(second: Published, *, labelled: bool) -> Iterator[str]:
    """What the backtest proves nothing of."""
    if not second.action_ids:
        yield "the backtest has no action: this proves nothing of actions"
    if labelled and {window["clock"] for window in second.windows.values()} < {"event", "arrival", "cohort"}:
        yield "the backtest has no windows of labels: this proves nothing of them"


def _unlike(should: Expected, stream: Stream) -> Iterator[str]:
    """Where the logs are not what was sent: then it is the harness that is wrong."""
    panes = {(start, version): pane.events for (start, version, segment), pane in should.panes.items() if not segment}
    if {key: n for key, n in panes.items() if key[1] is not None} != +stream.panes:
        yield "the logs hold other events than were sent"
    made = should.read, should.late, should.duplicate, should.strangers, should.rejected
    if made != (len(stream.pairs), stream.late, stream.duplicate, stream.strangers, stream.broken):
        yield f"the logs say {made[:4]} of read, late, duplicate and undeclared events, and other than was sent"


def _unbalanced(kept: Mapping[str, Books], should: Expected) -> Iterator[str]:
    """Where the books do not say what the log holds: read = counted + late + rejected + duplicate."""
    if not all(item.balanced() for item in kept.values()):
        yield "books that do not balance"
    read = sum(item.read for item in kept.values())
    if read != should.read:
        yield f"the books say {read} of {should.read} records"
    if kept[MODEL].counted != should.counted:
        yield f"the books say that {kept[MODEL].counted} of {should.counted} events were counted"
    reasons = sum((Counter(item.rejected) for item in kept.values()), Counter[str]())
    if reasons != should.reasons:
        yield f"the books say that {dict(reasons)} were rejected, not {dict(should.reasons)}"


def _books_of(labels: Mapping[str, int]) -> dict[str, int]:
    """In the names of the label books."""
    names = ("matched", "corrected", "duplicate", "unmatched", "rejected")
    read = sum(labels.get(name, 0) for name in names if name != "corrected")
    return {"read": read, **{name: labels.get(name, 0) for name in names}}


def _not_between(found: Mapping[str, int], one: Mapping[str, int], other: Mapping[str, int]) -> list[str]:
    """Where label books are beyond both of two others, or do not balance: with more predictions more labels match."""
    if found.keys() != one.keys() or found["read"] != sum(found[name] for name in ("matched", *_NOT_MATCHED)):
        return [f"label books {dict(found)}"]
    pairs = {name: sorted((one[name], other[name])) for name in one}
    return [
        f"label books {name}: {found[name]} instead of {least} to {highest}"
        for name, (least, highest) in pairs.items()
        if not least <= found[name] <= highest
    ]


def _settled(books: Mapping[str, int]) -> dict[str, int]:
    """A label without a prediction is an orphan when its time is over by the clock: until then it is pending."""
    rest = {name: n for name, n in books.items() if name not in ("pending", "orphan")}
    return {**rest, "unmatched": books["pending"] + books["orphan"]}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], place: str = "") -> list[str]:
    """Every place where two answers differ, one a line: window, field, what was found, what was expected."""
    lines: list[str] = []

    def compare(place: str, one: Any, other: Any) -> None:
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            for key in sorted(one.keys() | other.keys(), key=str):
                compare(f"{place} {key}", one.get(key, "nothing"), other.get(key, "nothing"))
        elif one != other:
            lines.append(f"{place}: {one} instead of {other}")

    compare(place, found, expected)
    return lines


def label_books(connection: Connection, config: Path, model: str = MODEL) -> dict[str, int]:
    """The model's books of labels, of stage 2 as it is on the topics."""
    (found,) = [merge.models[model] for merge in rebuilt(connection, config) if model in merge.models]
    return label_summary(found.outcomes.total())
