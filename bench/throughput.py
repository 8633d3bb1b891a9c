"""Events a second from a filled topic to published sketches, on one core, beside other tools in the same run.

    python bench/throughput.py [--events 400000] [--rounds 3] [--only foreshock,faust]

One Apache Kafka on the other core, one topic of two partitions. Each contender is a process of its own, pinned to core
0, and is measured from its first event to its last acknowledged publication. Rounds are interleaved; the table has the
median, the spread, and the ratio to ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.stream import MODEL, fill, project
from deploy.kafka import Broker
from streams.sketch.layout import Kind, Role

PEERS = Path(__file__).parent / "peers"
OURS = ("fetch", "decode", "foreshock")
CONTENDERS = (*OURS, "faust", "bytewax", "quixstreams", "whylogs")
CORE, BROKER_CORE = "0", 1
TIMEOUT_S = 180


def python_of(name: str) -> str | None:
    """The interpreter of a contender: ours, or that of an environment made for it; None when it can't be made."""
    if name in OURS or name == "faust":
        return sys.executable
    cache = Path(os.environ.get("FORESHOCK_CACHE", Path.home() / ".cache" / "foreshock"))
    folder = cache / "bench-venvs" / name
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
            install = [str(python), "-m", "pip", "install", "-q", "-r", str(PEERS / f"{name}.txt")]
            subprocess.run(install, check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            print(f"{name}: cannot be installed: {error.stderr.decode()[-200:].strip()}", file=sys.stderr)
            return None
        (folder / ".ready").touch()
    return str(python)


def run(name: str, python: str, setting: dict[str, Any]) -> dict[str, float] | None:
    script = [str(Path(__file__).parent / "ours.py"), name] if name in OURS else [str(PEERS / f"run_{name}.py")]
    command = ["taskset", "-c", CORE, python, *script, json.dumps(setting)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=tempfile.gettempdir())
    except subprocess.TimeoutExpired:
        print(f"{name}: not done within {TIMEOUT_S} s", file=sys.stderr)
        return None
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not told:
        print(f"{name}: failed: {done.stderr[-600:].strip()}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(told[-1])
    return found


def peers_setting(broker: str, topic: str, events: int) -> dict[str, Any]:
    """What the peers are told: the edges and the texts that ours learned too."""
    columns = project().plan.models[MODEL].layout.columns
    numbers = [c for c in columns if c.kind is Kind.NUMERIC and c.role in (Role.FEATURE, Role.SCORE)]
    texts = [c.name for c in columns if c.kind is not Kind.NUMERIC and c.role is Role.FEATURE]
    edges = {column.name: list(column.edges) for column in numbers}
    return {
        "broker": broker, "topic": topic, "events": events, "edges": edges, "texts": texts, "segment": "channel"
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    options = parser.parse_args()
    names = [name for name in CONTENDERS if name in options.only.split(",")]
    pythons = {name: found for name in names if (found := python_of(name)) is not None}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    os.sched_setaffinity(0, {BROKER_CORE})
    with tempfile.TemporaryDirectory() as folder, Broker.start(Path(folder) / "kafka", heap="1g") as broker:
        prefix = "bench-"
        topic = f"{prefix}inference"
        fill(broker.bootstrap, topic, options.events, 2)
        setting = peers_setting(broker.bootstrap, topic, options.events)
        for round_ in range(options.rounds):
            for name, python in pythons.items():
                extra = _prepared(broker, Path(folder) / f"{name}-{round_}", prefix, name)
                found = run(name, python, setting | extra)
                if found:
                    results[name].append(found)
                    print(
                        f"round {round_ + 1}: {name:12} {found['events'] / found['seconds']:>10,.0f} events/s",
                        flush=True,
                    )
    _print_table(results)


def _prepared(broker: Broker, folder: Path, prefix: str, name: str) -> dict[str, Any]:
    """A configuration and a consumer group of its own for ours, an output topic for a peer."""
    import asyncio

    from agents import topics
    from agents.clients import Connection

    target = f"bench-out-{uuid.uuid4().hex[:8]}"
    asyncio.run(topics.create(Connection(broker=broker.bootstrap), target, 2, {"max.message.bytes": "8388608"}))
    config = project(broker.bootstrap, prefix, "127.0.0.1:0").write(folder)
    text = config.read_text().replace(f"prefix: '{prefix}'", f"prefix: '{prefix}'\n  group: {target}")
    config.write_text(text)
    return {"target": target, "config": str(config), "prefix": prefix}


def _print_table(results: dict[str, list[dict[str, float]]]) -> None:
    rates = {name: [run["events"] / run["seconds"] for run in runs] for name, runs in results.items() if runs}
    ours = statistics.median(rates["foreshock"]) if "foreshock" in rates else float("nan")
    print(f"\n{'':12} {'events/s':>10} {'spread':>22} {'CPU µs/event':>13} {'MiB':>6} {'ours is':>8}")
    for name, found in rates.items():
        cpu = statistics.median(run["cpu"] / run["events"] * 1e6 for run in results[name])
        memory = max(run["memory_mib"] for run in results[name])
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        median = statistics.median(found)
        print(f"{name:12} {median:>10,.0f} {spread:>22} {cpu:>13.2f} {memory:>6.0f} {ours / median:>7.1f}x")


if __name__ == "__main__":
    main()
