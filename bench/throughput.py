"""Events a second from a filled topic to published sketches, on one core, beside other tools in the same run.

    python bench/throughput.py [--events N] [--peer-events N] [--rounds 3] [--only fetch,foreshock] [--profile]

One Apache Kafka on a core of its own, topics of two partitions. Each contender is a process of its own on the other
core, and is measured from its first event to its last acknowledged publication. Rounds are interleaved; the table has
the median, the spread, and how many times as fast ours is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

from rich.console import Console
from rich.table import Table
from sketching import PANE_MS, Sketcher

from agents import topics
from agents.clients import Connection
from bench.environments import NotInstalled, environment, jar
from bench.machine import cores, pin
from bench.stream import MODEL, fill, label_pairs, pairs, project
from deploy.kafka import Broker
from streams.batch import Gathered
from streams.cells import profiles
from streams.codecs import columnizer_of, decoder_of
from streams.sketch.layout import ERROR_SLOT, OK_SLOT, Kind, Role

HERE = Path(__file__).parent
OURS = ("fetch", "decode", "stage-one", "foreshock", "labelled")
PEERS = ("faust", "whylogs", "quixstreams", "quixstreams_sink", "bytewax", "flink")
LONG = (*OURS, "flink")
"""What is given all events: a JVM is slow at first."""
CONNECTOR = ("org.apache.flink", "flink-sql-connector-kafka", "5.0.0-2.2")
"""Of Flink 2.2, as `peers/flink.txt` has it."""
PREFIX = "bench-"
TOPIC, LABELS_TOPIC, SHORT_TOPIC = f"{PREFIX}inference", f"{PREFIX}labels", "short"
PARTITIONS = 2
TIMEOUT_S = 600

Setting = dict[str, Any]
Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _arguments(arguments)
    names = [name for name in (*OURS, *PEERS) if name in chosen.only.split(",")]
    pythons = {name: found for name in names if (found := python_of(name)) is not None}
    core, broker_core = cores()
    results: dict[str, list[Figures]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder:
        pin(broker_core)  # what this process starts inherits it
        with Broker.start(Path(folder) / "kafka", heap="1g") as broker:
            short = min(chosen.peer_events, chosen.events)
            fill(broker.bootstrap, TOPIC, pairs(chosen.events), PARTITIONS)
            fill(broker.bootstrap, SHORT_TOPIC, pairs(short), PARTITIONS)
            if "labelled" in pythons:
                fill(broker.bootstrap, LABELS_TOPIC, label_pairs(chosen.events), PARTITIONS)
            wanted = sketches()
            check_same_answers(wanted)
            for number in range(chosen.rounds):
                for name, python in pythons.items():
                    setting: Setting = {"broker": broker.bootstrap, "topic": SHORT_TOPIC, "events": short}
                    if name in LONG:
                        setting |= {"topic": TOPIC, "events": chosen.events}
                    setting |= {"prefix": PREFIX, "profile": chosen.profile} if name in OURS else wanted
                    setting |= {"jar": str(jar(*CONNECTOR))} if name == "flink" else {}
                    setting |= asyncio.run(
                        _prepared(broker.bootstrap, Path(folder) / f"{name}-{number}", name == "labelled")
                    )
                    found = run(name, python, setting, core)
                    if found:
                        results[name].append(found)
                        rate = found["events"] / found["seconds"]
                        print(f"round {number + 1}: {name:12} {rate:>10,.0f} events/s", file=sys.stderr, flush=True)
    _show(results)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="for ours and for Flink (default: 1,000,000)")
    parser.add_argument("--peer-events", type=int, default=200_000, help="for the peers, which are slower")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join((*OURS, *PEERS)), help="names, with commas between them")
    parser.add_argument("--profile", action="store_true", help="show where ours spend their time")
    return parser.parse_args(arguments)


# --- A contender


def python_of(name: str) -> str | None:
    """The interpreter of a contender: ours, or that of an environment made for it; None when it can't be made."""
    if name in OURS or name == "faust":
        return sys.executable
    try:
        if name == "flink":
            jar(*CONNECTOR)
        return str(environment(HERE / "peers" / f"{name.removesuffix('_sink')}.txt"))
    except NotInstalled as error:
        print(f"{name}: left out, {error}", file=sys.stderr)
        return None


def run(name: str, python: str, setting: Setting, core: int | None) -> Figures | None:
    """One run; None, and a line that says why, when it fails."""
    script = [str(HERE / "ours.py"), name] if name in OURS else [str(HERE / "peers" / f"run_{name}.py")]
    command = [python, *script, json.dumps(setting)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=tempfile.gettempdir(),
            preexec_fn=lambda: pin(core),
        )
    except subprocess.TimeoutExpired:
        print(f"{name}: not done within {TIMEOUT_S} s", file=sys.stderr)
        return None
    told = [line for line in done.stdout.splitlines() if line.startswith('{"events"')]
    if not told:
        print(f"{name}: failed: {done.stderr.strip()[-600:]}", file=sys.stderr)
        return None
    if setting.get("profile"):
        print(done.stderr, file=sys.stderr)
    found: Figures = json.loads(told[-1])
    if found["events"] != setting["events"]:
        print(f"{name}: published {found['events']:,} of {setting['events']:,} events", file=sys.stderr)
        return None
    return found


async def _prepared(broker: str, folder: Path, labelled: bool) -> Setting:
    """A topic and a group of its own for a contender; for ours a configuration, and none of the topics it writes."""
    connection = Connection(broker=broker, prefix=PREFIX)
    target = f"out-{uuid.uuid4().hex[:8]}"
    await topics.create(connection, target, PARTITIONS, {"max.message.bytes": str(8 << 20)})
    async with topics.admin(connection) as client:
        written = {connection.topic(topic.name) for topic in topics.TOPICS}
        await client.delete_topics(sorted(written & (await topics.partition_counts(client)).keys()))
        while written & (await topics.partition_counts(client)).keys():
            await asyncio.sleep(0.05)
    file = project(broker, PREFIX, "127.0.0.1:0", labelled=labelled).write(folder)
    file.write_text(file.read_text().replace("  prefix:", f"  group: {target}\n  prefix:", 1))
    return {"target": target, "config": str(file)}


# --- The same work for all


def sketches() -> Setting:
    """What the peers are told: the edges and the categories that ours learned too."""
    columns = project().plan.models[MODEL].layout.columns

    def numbers(*roles: Role) -> list[tuple[str, list[float]]]:
        return [(c.name, list(c.edges)) for c in columns if c.role in roles and c.kind is Kind.NUMERIC]

    def texts(role: Role) -> list[tuple[str, list[Any]]]:
        of = {Kind.CATEGORICAL: str, Kind.CODE: int}
        return [(c.name, list(map(of[c.kind], c.categories))) for c in columns if c.role is role and c.kind in of]

    return {
        "numbers": numbers(Role.FEATURE),
        "texts": texts(Role.FEATURE),
        "outputs": numbers(Role.SCORE, Role.LATENCY),
        "predictions": texts(Role.PREDICTION),
        "segment": "channel",
    }


def check_same_answers(setting: Setting, events: int = 5_000) -> None:
    """The peers' sketches of the same events hold the same numbers as ours: otherwise there is nothing to compare."""
    values = [value for _, value in pairs(events)]
    for at in range(0, events, 50):  # another type, a field that is missing, one that nobody declared, a null
        values[at] = values[at].replace(b'"hour":', b'"hour":"12","hours":')
        values[at + 1] = values[at + 1].replace(b'"country":', b'"land":')
        values[at + 2] = values[at + 2].replace(b'"device":', b'"device":null,"gadget":')
    sketcher = Sketcher(setting)
    for value in values:
        sketcher.add(value)
    plan = project().plan
    model = plan.models[MODEL]
    rows = decoder_of(plan).decode(values, [2**45] * events).models[MODEL]
    columnizer_of(model).gather(columnizer_of(model).parts(rows), gathered := Gathered())
    batch = columnizer_of(model).columns(gathered)
    classes = batch.ts_ms * 0
    for group, (version, _, value), profile in profiles(batch, model.layout, model.segmentation, PANE_MS, classes):
        if value:
            cell = sketcher.cells[group.pane_ms // PANE_MS, version, value]
            counts = profile.counts.dense()
            theirs = {name: found for part in (cell.numbers, cell.outputs) for name, _, found in part.columns}
            theirs |= {name: found for part in (cell.texts, cell.predictions) for name, _, _, found, _ in part.columns}
            ours = {c.name: model.layout.block(counts, i).tolist() for i, c in enumerate(model.layout.columns)}
            same = theirs == ours and [cell.requests - cell.errors, cell.errors] == [
                counts[OK_SLOT],
                counts[ERROR_SLOT],
            ]
            if not same:
                raise SystemExit("the peers count otherwise than ours: there is nothing to compare")
    extras = sum((cell.extras for cell in sketcher.cells.values()), Counter())
    if extras != Counter(name.removeprefix("features.") for _, name in batch.extras):
        raise SystemExit("the peers see other unknown fields than ours: there is nothing to compare")


# --- The table


def _show(results: dict[str, list[Figures]]) -> None:
    rates = {name: [run["events"] / run["seconds"] for run in runs] for name, runs in results.items() if runs}
    ours = statistics.median(rates["foreshock"]) if "foreshock" in rates else None
    table = Table(title="from a filled topic to published sketches, one core")
    for name in ("", "events/s", "spread", "CPU s per million", "peak MiB", "foreshock is"):
        table.add_column(name, justify="right" if name else "left")
    for name, found in rates.items():
        median = statistics.median(found)
        cpu = statistics.median(run["cpu"] / run["events"] * 1e6 for run in results[name])
        memory = max(run["memory_mib"] for run in results[name])
        ratio = f"{ours / median:.2f} x" if ours else ""
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        table.add_row(name, f"{median:,.0f}", spread, f"{cpu:.2f}", f"{memory:,.0f}", ratio)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
