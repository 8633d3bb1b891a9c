"""The demo: a year of flights through an embedded broker and one worker, and the results."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import msgspec

from agents import flights, topics
from agents.app import Worker
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.loader import Records, read_to_end
from agents.progress import Told
from agents.replay import generate
from agents.web_options import WebOptions
from streams.action import Action, action_line
from streams.configure import load
from streams.duration import DAY_MS
from streams.events import time_ms
from streams.learn import learn
from streams.ledger_text import proxy_lines, realised_line
from streams.plan import Plan, compile_plan
from streams.scaffold import foreshock_yaml
from streams.snapshot import snapshots
from streams.times import rfc3339

Say = Callable[[str], None]

PARTITIONS = 4
INFERENCE, LABELS = "inference", "labels"
STRETCH = 16_384
FOREVER_MS = 2**62
BASELINE_FILE = "flights.baseline"
READ_WITHIN_S = 60.0
TRUTH = ("calibration", "performance")
FURLOUGH_MS = (1_366_502_400_000, 1_367_107_200_000)
"""21 to 27 April 2013, UTC."""
STORMS_MS = (1_372_032_000_000, 1_372_636_800_000)
"""24 to 30 June 2013, UTC."""
WEATHER_STOPS_MS = 1_388_448_000_000
"""2013-12-31T00:00Z: from here on the real data has no weather."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """An event in the stream, and the layer that should detect it."""

    start_ms: int
    end_ms: int
    what: str
    injected: bool
    families: tuple[str, ...] = ()
    """Families of signals that can detect it where no data incident can."""


def chapters() -> list[Chapter]:
    made_up = [Chapter(item.start_ms, item.end_ms, item.what, True) for item in flights.INCIDENTS]
    real = [
        Chapter(WEATHER_STOPS_MS, WEATHER_STOPS_MS + DAY_MS, "the weather feed stops: nine features are null", False),
        Chapter(
            *FURLOUGH_MS,
            "air-traffic controllers are on furlough: more flights are late, inputs as usual",
            False,
            TRUTH,
        ),
        Chapter(*STORMS_MS, "a week of storms", False, TRUTH),
    ]
    return sorted([*made_up, *real], key=lambda chapter: chapter.start_ms)


def stream() -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every record of the demo's stream."""
    encode = msgspec.json.encode
    for event in flights.injected(flights.events(), flights.INCIDENTS):
        yield event["event_id"].encode(), encode(event)


def told_labels() -> Iterator[tuple[bytes, bytes, int]]:
    """Key, value and time of every label, in the order in which the flights land."""
    for label in flights.labels():
        yield label["event_id"].encode(), msgspec.json.encode(label), label["label_ts"]


def learned() -> tuple[str, bytes, Plan]:
    """The text of the configuration, the baseline's bytes, and the plan of both."""
    encode = msgspec.json.encode
    truth = map(encode, flights.reference_labels())
    found = learn(flights.MODEL, lambda: map(encode, flights.reference()), labels=truth)
    text = foreshock_yaml(found, "flights of January and February 2013", BASELINE_FILE)
    return text, found.baseline.to_bytes(), compile_plan(load(text), {flights.MODEL: found.baseline})


def write(folder: Path, say: Say) -> None:
    """Writes the demo's files: configuration, baseline, reference and stream, for use with the other commands."""
    folder.mkdir(parents=True, exist_ok=True)
    text, baseline, _ = learned()
    (folder / "foreshock.yaml").write_text(text, encoding="utf-8")
    (folder / BASELINE_FILE).write_bytes(baseline)
    _write_lines(folder / "reference.ndjson.gz", map(msgspec.json.encode, flights.reference()))
    _write_lines(folder / "events.ndjson.gz", (value for _, value in stream()))
    _write_lines(folder / "reference_labels.ndjson.gz", map(msgspec.json.encode, flights.reference_labels()))
    _write_lines(folder / "labels.ndjson.gz", map(msgspec.json.encode, flights.labels()))
    say(f"wrote foreshock.yaml, {BASELINE_FILE}, and the reference, the events and the labels of both in {folder}")


def _write_lines(file: Path, values: Iterator[bytes]) -> None:
    with gzip.GzipFile(file, "wb", compresslevel=3, mtime=0) as out:
        while block := list(islice(values, 4096)):
            out.write(b"\n".join(block) + b"\n")


async def run(say: Say, web: WebOptions, *, keep: bool) -> None:
    """Runs the whole demo. Raises the error that made the worker fail."""
    began, embedded = time.monotonic(), EmbeddedBroker()
    say("Foreshock demo: 284,821 flights that left New York from March to December 2013, scored by a model that was")
    say("fitted on January and February: will it arrive more than 15 minutes late? The labels come as they land.")
    say("")
    say("learning the baseline from 25,522 flights of January and February …")
    _, _, plan = await asyncio.get_running_loop().run_in_executor(None, learned)
    config = plan.models[flights.MODEL].config
    say(f"  pane {config.pane}, {len(config.features)} features, {len(config.rules)} rules, no tuning")
    async with embedded as broker:
        connection = broker.connection()
        await topics.create(connection, INFERENCE, PARTITIONS)
        await topics.create(connection, LABELS, PARTITIONS)
        worker = Worker(plan, connection, web, keep=True)
        task = asyncio.create_task(worker.run())
        await _ready(worker, task)
        say(f"  broker (embedded) at {broker.bootstrap}, metrics at {worker.web.url}/metrics")
        replayed = time.monotonic()
        with Told("replaying ten months", 284_821) as told:
            sent = await _replay(connection, told)
        worker.finish()
        finished = asyncio.create_task(worker.finished.wait())
        await asyncio.wait({task, finished}, return_when=asyncio.FIRST_COMPLETED)
        finished.cancel()
        if not worker.finished.is_set():
            await task
        taken = time.monotonic() - replayed
        say(f"  {sent:,} events and their labels replayed, joined and judged in {taken:.1f} s, one process")
        say("")
        await _tell(connection, worker, say)
        say("")
        say(f"done in {time.monotonic() - began:.0f} s.")
        if keep:
            say(f"still up: {worker.web.url}/metrics (broker {broker.bootstrap}); Ctrl-C ends it")
        else:
            worker.stop.set()
        await task


async def _replay(connection: Connection, told: Told) -> int:
    """Sends the events, and after each stretch of them the labels that have come by then; how many events."""
    events, labels = stream(), told_labels()
    waiting = next(labels, None)
    sent = 0
    while block := list(islice(events, STRETCH)):
        await generate(connection, INFERENCE, block)
        sent += len(block)
        told(sent)
        reached_ms = msgspec.json.decode(block[-1][1], type=_Time).ts if len(block) == STRETCH else FOREVER_MS
        due: list[tuple[bytes, bytes]] = []
        while waiting is not None and waiting[2] <= reached_ms:
            due.append(waiting[:2])
            waiting = next(labels, None)
        await generate(connection, LABELS, due)
    return sent


class _Time(msgspec.Struct):
    ts: int


async def _ready(worker: Worker, task: asyncio.Task[None]) -> None:
    ready = asyncio.create_task(worker.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if task.done():
        await task


async def _tell(connection: Connection, worker: Worker, say: Say) -> None:
    found = await _published(connection)
    say("Timeline (event time; * injected by this demo, the rest is in the data)")
    events = [(chapter.start_ms, 0, _chapter_line(chapter)) for chapter in chapters()]
    events += [(_window_end_ms(action), 1, "  → " + action_line(action)) for action in found]
    for _, _, line in sorted(events):
        say(line)
    say("")
    say("How long it took to say so (a pane is judged when it closes: a day here)")
    for chapter in chapters():
        say("  " + _answer(chapter, found, worker.plan.models[flights.MODEL].config.pane_ms))
    say("")
    models = chain.from_iterable(map(snapshots, worker.merge.judges.values()))
    model = next(model for model in models if model.model == flights.MODEL)
    books, labels = model.books, model.labels
    assert books is not None and labels is not None and model.decisions is not None and model.decisions.ledger
    ledger = model.decisions.ledger
    say("The ledger: what signals said before the labels came, held against what the labels said")
    for line in (*proxy_lines(ledger.proxies), *map(realised_line, ledger.realised)):
        say(line)
    say("")
    rejected = sum(books.rejected.values())
    say(
        f"Books: read {books.read:,} = counted {books.counted:,} + late {books.late:,} + rejected {rejected:,} "
        f"+ duplicate {books.duplicate:,} ({'balanced' if books.balanced() else 'NOT BALANCED'})"
    )
    say(
        f"Labels: read {labels.read:,} = matched {labels.matched:,} + pending {labels.pending:,} "
        f"+ duplicate {labels.duplicate:,} + orphan {labels.orphan:,} + rejected {sum(labels.rejected.values()):,} "
        f"({'balanced' if labels.balanced() else 'NOT BALANCED'})"
    )


async def _published(connection: Connection) -> list[Action]:
    found: list[Action] = []

    def take(records: Records) -> None:
        found.extend(msgspec.json.decode(record.value, type=Action) for record in records)

    count = await topics.find(connection, "actions") or 0
    await read_to_end(connection, "actions", range(count), take, deadline_s=READ_WITHIN_S)
    return found


def _window_end_ms(action: Action) -> int:
    return time_ms(action.data.window.end)


def _chapter_line(chapter: Chapter) -> str:
    mark = "*" if chapter.injected else " "
    return f"{rfc3339(chapter.start_ms)[:16]} {mark} {chapter.what}"


def _answer(chapter: Chapter, found: list[Action], pane_ms: int) -> str:
    """The first incident that the chapter caused, and how long after its beginning it was published."""
    for action in found:
        end_ms = _window_end_ms(action)
        during = chapter.start_ms < end_ms <= chapter.end_ms + pane_ms
        saw = next((signal for signal in action.data.signals if signal.family in chapter.families), None)
        fits = saw is not None if chapter.families else action.data.action == "data_incident"
        if fits and action.data.state == "firing" and during:
            hours = (end_ms - chapter.start_ms) / 3_600_000
            layer = f" ({saw.family}: {saw.name})" if saw else ""
            return f"{chapter.what}: {action.data.rule}{layer} after {hours:.0f} h of event time"
    return f"{chapter.what}: NOTHING WAS SAID"
