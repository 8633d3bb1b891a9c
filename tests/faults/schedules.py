"""A seed → a stream, faults at random moments, a drain, and what the oracle says of what was published.

    python -m tests.faults.schedules --seeds 50          as many schedules, every kind of fault among them
    python -m tests.faults.schedules --seed 4711         that one again
    python -m tests.faults.schedules --faults kill,node  with these faults alone

Of what is drawn the seed decides everything; how fast the machine is, and so what a worker was doing when a fault came,
it cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aiokafka.admin import NewPartitions

from agents import topics
from agents.clients import Connection
from tests.faults.cluster import delete_topic, wait_until
from tests.faults.draw import BEHIND_SHARES, BETWEEN_S, EVENTS, KINDS, STREAMS, WRITTEN_ODDLY, Schedule, drawn
from tests.faults.harness import PLAIN, create, drain, fill, write_config
from tests.faults.injections import FAULTS
from tests.faults.oracle import Circumstances, Verdict, judge, logs_of
from tests.faults.pressure import busy_processes
from tests.faults.stage import FIRST, Ground, Stage
from tests.faults.stream import PARTITIONS, Pair, Stream, labels_of, partition_of

CHUNK = 2_048
COUNTED_WITHIN_S = 60.0
GROWN = PARTITIONS + 2
REPORT = Path("docs/reliability.md")
BEGIN, END = "<!-- written by make test-faults: begin -->", "<!-- end -->"


# --- One schedule


def run(schedule: Schedule, ground: Ground, folder: Path) -> Verdict:
    """Plays it, drains, and judges; AssertionError where a fault's own condition does not hold."""
    rng, faults = random.Random(f"acts of {schedule.seed}"), [FAULTS[name] for name in schedule.faults]
    kafka = ground.cluster if any(fault.replicated for fault in faults) else ground.broker
    prefix = f"s{schedule.seed}-{time.time_ns() % 10**6}-"
    idle = "3s" if "silent partition" in schedule.streams else "1m"
    config = write_config(folder, prefix, chunk_size=CHUNK, idle=idle, labelled=schedule.labelled)
    text = config.read_text(encoding="utf-8")
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    stream = schedule.stream()
    labels = labels_of(stream.pairs, schedule.seed) if schedule.labelled else []
    (folder / "state").mkdir()  # where a disk may be mounted
    through = next((fault.through(folder / "state") for fault in faults if fault.through), PLAIN)
    with busy_processes() if any(fault.loaded for fault in faults) else nullcontext():
        with Stage(rng, kafka, connection, config, CHUNK, through) as stage:
            stage.wake()
            _play(schedule, stage, stream, labels)
        drain(config, connection.broker)
    logs = logs_of(connection, stage.collected, stage.anew)
    known = Circumstances(
        cut_at=stage.cut_at["inference"],
        labels_cut_at=stage.cut_at["labels"],
        edits=stage.edits,
        layouts=stage.layouts,
        text=text,
        in_other_order="added partitions" in schedule.streams or schedule.behind > BEHIND_SHARES[0],
    )
    with Stage(rng, kafka, connection, config, CHUNK) as stage:
        for fault in faults:
            if fault.afterwards:
                fault.strike(stage)
    return judge(connection, config, stream, labels, logs=logs, circumstances=known)


def _play(schedule: Schedule, stage: Stage, stream: Stream, labels: Sequence[Pair]) -> None:
    faults = [FAULTS[name] for name in schedule.faults]
    names = [FIRST, "two", "three"][: max((fault.workers for fault in faults), default=1)]
    if "late topic" in schedule.streams:
        for name in names:
            stage.start(name)
            stage.until(lambda name=name: "waiting for topic" in stage.crew[name].said)  # type: ignore[misc]
    create(stage.connection)
    _write(schedule, stage, stream, labels)
    for name in names:
        if name not in stage.crew:
            stage.start(name)
    for fault in faults:
        if fault.afterwards:
            continue
        stage.live(*BETWEEN_S)
        fault.strike(stage)
    stage.write_out(schedule.lasts_s + 60)
    worker = stage.gather()
    _look_at_the_metrics(worker.get("/metrics"))
    stage.dismiss(FIRST)


def _write(schedule: Schedule, stage: Stage, stream: Stream, labels: Sequence[Pair]) -> None:
    """Writers that take about as long as the faults do."""
    to = stage.connection
    for name in schedule.streams & WRITTEN_ODDLY.keys():
        for topic, pairs in {"inference": stream.pairs, **({"labels": labels} if labels else {})}.items():
            rate = max(1.0, len(pairs) / schedule.lasts_s)
            stage.write(partial(WRITTEN_ODDLY[name], to, pairs, schedule.seed, rate=rate, topic=topic))
        return
    if "made anew" in schedule.streams:
        stage.write(partial(_fill_and_make_anew, stage, stream.pairs, labels, schedule.lasts_s))
        return
    if schedule.labelled:
        create(to, topic="labels")
        stage.write(partial(fill, to, labels, rate=len(labels) / schedule.lasts_s, topic="labels"))
    rate = len(stream.pairs) / schedule.lasts_s
    if "added partitions" in schedule.streams:
        stage.write(partial(_fill_and_grow, stage, stream.pairs, rate))
    elif "lagging partition" in schedule.streams:
        lagging = schedule.seed % PARTITIONS
        behind = [pair for pair in stream.pairs if partition_of(pair[0] or b"") == lagging]
        ahead = [pair for pair in stream.pairs if partition_of(pair[0] or b"") != lagging]
        stage.write(partial(fill, to, ahead, rate=rate))
        stage.write(partial(_fill_later, to, behind, rate / 2, stage.rng.uniform(1.0, 5.0)))
    else:
        stage.write(partial(fill, to, stream.pairs, rate=rate))


def _fill_later(to: Connection, pairs: Sequence[Pair], rate: float, after_s: float) -> None:
    time.sleep(after_s)
    fill(to, pairs, rate=rate)


def _fill_and_grow(stage: Stage, pairs: Sequence[Pair], rate: float) -> None:
    """In the middle the topic gets more partitions, and the keys of the rest go elsewhere."""
    to = stage.connection

    async def grow() -> None:
        async with topics.admin(to) as client:
            await client.create_partitions({to.topic("inference"): NewPartitions(GROWN)})
            await topics._wait_until_visible(client, {to.topic("inference"): GROWN})

    middle = len(pairs) // 2
    fill(to, pairs[:middle], rate=rate)
    asyncio.run(grow())
    stage.partitions = GROWN
    fill(to, pairs[middle:], rate=rate)


def _fill_and_make_anew(stage: Stage, events: Sequence[Pair], labels: Sequence[Pair], seconds: float) -> None:
    """In the middle, when all has been counted, one of the topics or both are deleted and made anew."""
    to, topics_ = stage.connection, {"inference": events, **({"labels": labels} if labels else {})}
    halves = {topic: len(pairs) // 2 for topic, pairs in topics_.items()}
    for topic, pairs in topics_.items():
        create(to, topic=topic)
        fill(to, pairs[: halves[topic]], rate=2 * len(pairs) / seconds, topic=topic)
    wait_until(lambda: stage.counted("foreshock_books_records_total") == halves["inference"], COUNTED_WITHIN_S)
    if labels:
        wait_until(lambda: stage.counted("foreshock_label_records") == halves["labels"], COUNTED_WITHIN_S)
    for topic in stage.rng.sample(sorted(topics_), stage.rng.randint(1, len(topics_))):
        stage.collect(topic)
        stage.anew.append(topic)
        delete_topic(to, topic)
        create(to, topic=topic)
    for topic, pairs in topics_.items():
        fill(to, pairs[halves[topic] :], rate=2 * len(pairs) / seconds, topic=topic)


def _look_at_the_metrics(page: str) -> None:
    """No payload names a series."""
    assert "stranger" not in page
    assert page.count("\n") < 5_000, "series are not capped"


# --- Many of them


@dataclass(frozen=True)
class Played:
    """A schedule, and what came of it. `wrong`: what differs, or what went wrong on the way."""

    schedule: Schedule
    verdict: Verdict
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.verdict.wrong


_ground: Ground


def _begin(folder: Path) -> None:
    """In every process of the pool."""
    global _ground
    _ground = Ground(Path(tempfile.mkdtemp(dir=folder)))


def play(schedule: Schedule, folder: Path) -> Played:
    """Never raises."""
    begun = time.monotonic()
    place = folder / f"schedule-{schedule.seed}"
    try:
        verdict = run(schedule, _ground, place)
    except Exception:
        verdict = Verdict(0, 0, 0, 0, 0, (traceback.format_exc(),))
    if not verdict.wrong:
        shutil.rmtree(place, ignore_errors=True)
    return Played(schedule, verdict, time.monotonic() - begun)


def play_all(schedules: Sequence[Schedule], folder: Path, jobs: int) -> Iterator[Played]:
    """As they end, so many at once, each of those with brokers of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin, (folder,)) as pool:
        for future in as_completed([pool.submit(play, schedule, folder) for schedule in schedules]):
            yield future.result()


def repeat(schedule: Schedule, wanted: str) -> str:
    """The command that plays it again."""
    return f"make test-faults SEED={schedule.seed}{_options(schedule, wanted)}"


def _options(schedule: Schedule, wanted: str) -> str:
    """Of the command: what the seed does not say."""
    chosen = f" FAULTS='{wanted}'" if wanted else ""
    size = f" EVENTS={schedule.events}" if schedule.events != EVENTS else ""
    kills = f" KILLS={len(schedule.faults)}" if {*schedule.faults} == {"kill"} and size else ""
    return f"{chosen}{size}{kills}"


def table(played: Sequence[Played]) -> str:
    """Markdown: a row for each kind of fault, over all schedules that had it."""
    lines = [
        "| row | fault | schedules | events | lost | duplicated | actions missing | actions surplus | failed |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows = {**{name: fault.row for name, fault in FAULTS.items()}, **STREAMS}
    for name, row in sorted(rows.items(), key=lambda item: (int(item[1].split(",")[0]), item[0])):
        having = [item for item in played if name in item.schedule.kinds]
        if having:
            lines.append(f"| {row} | {name} | {_sums(having)} |")
    return "\n".join([*lines, f"| | **all** | {_sums(played)} |"])


def _sums(played: Sequence[Played]) -> str:
    names = ("events", "lost", "duplicated", "missing", "surplus")
    sums = [sum(getattr(item.verdict, name) for item in played) for name in names]
    return " | ".join(f"{n:,}" for n in (len(played), *sums, sum(not item.passed for item in played)))


def write_report(text: str) -> None:
    """Puts it between the marks of the document."""
    document = REPORT.read_text(encoding="utf-8")
    before, rest = document.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    REPORT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="schedules", description="Seeded random faults, held against an oracle.")
    parser.add_argument("--seeds", type=int, default=50, help="how many schedules")
    parser.add_argument("--first", type=int, help="the seed of the first (default: a random one)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--faults", default="", help=f"of these alone, with commas: {', '.join(KINDS)}")
    parser.add_argument("--events", type=int, default=EVENTS, help="of each schedule")
    parser.add_argument("--kills", type=int, help="one schedule, of so many kills")
    parser.add_argument("--jobs", type=int, default=2, help="schedules at once")
    parser.add_argument("--write", action="store_true", help=f"put the table into {REPORT}")
    chosen = parser.parse_args()
    wanted = [name.strip() for name in chosen.faults.split(",") if name.strip()]
    known = dict.fromkeys((*KINDS, *STREAMS))
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(known)}")
    first = chosen.seed or chosen.first or random.SystemRandom().randrange(1, 10**6)
    seeds = range(first, first + (1 if chosen.seed or chosen.kills else chosen.seeds))
    schedules = [drawn(seed, wanted, chosen.events) for seed in seeds]
    if chosen.kills:
        schedules = [replace(schedule, faults=("kill",) * chosen.kills) for schedule in schedules]
    return _tell(schedules, chosen.faults, chosen.jobs, chosen.write)


def _tell(schedules: Sequence[Schedule], wanted: str, jobs: int, write: bool) -> int:
    folder = Path(tempfile.mkdtemp(prefix="foreshock-faults-"))
    begun, played = time.monotonic(), list[Played]()
    for item in play_all(schedules, folder, min(jobs, len(schedules))):
        played.append(item)
        said = "passed" if item.passed else "FAILED"
        kinds = ", ".join(item.schedule.faults or ("no fault",)) + "; " + ", ".join(sorted(item.schedule.streams))
        kinds += f"; {item.verdict.deleted} deleted unread" if item.verdict.deleted else ""
        print(f"{len(played)}/{len(schedules)} seed {item.schedule.seed} {said} in {item.seconds:.0f} s: {kinds}")
        if not item.passed:
            print("\n".join(item.verdict.wrong[:40]))
            print(f"repeat it: {repeat(item.schedule, wanted)}   (logs: {folder}/schedule-{item.schedule.seed})")
        sys.stdout.flush()
    played.sort(key=lambda item: item.schedule.seed)
    failed = [item for item in played if not item.passed]
    text = table(played)
    print(f"\n{text}\n\n{len(played)} schedules, {len(failed)} failed, {(time.monotonic() - begun) / 60:.1f} minutes")
    for item in failed:
        print(f"failed: {repeat(item.schedule, wanted)}")
    if write:
        first, last = schedules[0].seed, schedules[-1].seed
        command = f"make test-faults SEEDS={len(schedules)} FIRST={first}{_options(schedules[0], wanted)}"
        write_report(f"Seeds {first} to {last}; `{command}` repeats them.\n\n{text}")
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
