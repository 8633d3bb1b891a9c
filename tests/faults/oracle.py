"""What was sent → what has to be on the topics, by a plain count and by a backtest; and where what is there differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.clients import Connection
from streams.backtest import label_summary
from streams.config import OTHER
from streams.partial import Books
from tests.faults.harness import MODEL, Pair, Stream, books, expected, published, rebuilt


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


def judge(
    connection: Connection, config: Path, stream: Stream, labels: Sequence[Pair] = (), *, counts_only: bool = False
) -> Verdict:
    """Holds what is on the topics against the plain count and the backtest of what was sent.

    `counts_only`: nothing is asked of signals and actions, where the order of the log is not that of the backtest.
    """
    found, reference = published(connection), expected(config, stream, labels)
    kept = books(connection, config)
    should = Counter({("pane", *pane): n for pane, n in stream.panes.items()})
    should += Counter({"late": stream.late, "duplicate": stream.duplicate, OTHER: stream.strangers})
    should += Counter(stream.broken)
    does = Counter({("pane", *pane): n for pane, n in found.panes().items()})
    does += Counter({"late": kept[MODEL].late, "duplicate": kept[MODEL].duplicate})
    does += Counter({OTHER: kept[OTHER].counted if OTHER in kept else 0})
    does += Counter((letter.reason, letter.value) for letter in found.dead_letters.values())
    wrong = [*_unbalanced(kept, stream)]
    if not counts_only:
        wrong += differences(found.windows, reference.windows)
    if reference.panes() != stream.panes:
        wrong.append("the backtest and the plain count differ")
    if not reference.action_ids:
        wrong.append("the oracle has no action: this proves nothing of actions")
    if labels:
        if {window["clock"] for window in reference.windows.values()} < {"event", "arrival", "cohort"}:
            wrong.append("the oracle has no windows of labels: this proves nothing of them")
        wrong += differences(_settled(label_books(connection, config)), _settled(reference.label_books[MODEL]))
    lost, duplicated = should - does, does - should
    wrong += [f"lost {place}: {n}" for place, n in lost.items()]
    wrong += [f"duplicated {place}: {n}" for place, n in duplicated.items()]
    missing, surplus = reference.action_ids - found.action_ids, found.action_ids - reference.action_ids
    if counts_only:
        missing, surplus = set(), set()
    wrong += [f"no action {id}" for id in missing] + [f"surplus action {id}" for id in surplus]
    sums = lost.total(), duplicated.total(), len(missing), len(surplus)
    return Verdict(len(stream.pairs), *sums, tuple(wrong))


def _unbalanced(kept: Mapping[str, Books], stream: Stream) -> Iterator[str]:
    """Where the books do not say what was sent: produced = counted + late + rejected + duplicate."""
    if not all(item.balanced() for item in kept.values()):
        yield "books that do not balance"
    read = sum(item.read for item in kept.values())
    if read != len(stream.pairs):
        yield f"the books say {read} of {len(stream.pairs)} records"
    if kept[MODEL].counted != stream.counted:
        yield f"the books say that {kept[MODEL].counted} of {stream.counted} events were counted"
    reasons = sum((Counter(item.rejected) for item in kept.values()), Counter[str]())
    injected: Counter[str] = Counter()
    for (reason, _), n in stream.broken.items():
        injected[reason] += n
    if reasons != injected:
        yield f"the books say that {dict(reasons)} were rejected, not {dict(injected)}"


def _settled(books: Mapping[str, int]) -> dict[str, int]:
    """A label without a prediction is an orphan when its time is over by the clock: until then it is pending."""
    rest = {name: n for name, n in books.items() if name not in ("pending", "orphan")}
    return {**rest, "unmatched": books["pending"] + books["orphan"]}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Every place where two answers differ, one a line: window, field, what was found, what was expected."""
    lines: list[str] = []

    def compare(place: str, one: Any, other: Any) -> None:
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            for key in sorted(one.keys() | other.keys(), key=str):
                compare(f"{place} {key}", one.get(key, "nothing"), other.get(key, "nothing"))
        elif one != other:
            lines.append(f"{place}: {one} instead of {other}")

    compare("", found, expected)
    return lines


def label_books(connection: Connection, config: Path, model: str = MODEL) -> dict[str, int]:
    """The model's books of labels, of stage 2 as it is on the topics."""
    (found,) = [merge.models[model] for merge in rebuilt(connection, config) if model in merge.models]
    return label_summary(found.outcomes.total())
