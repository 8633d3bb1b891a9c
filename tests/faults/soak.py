"""Hours of events in minutes, all of what a payload can name: memory levels off, series stay under their cap.

    python -m tests.faults.soak --minutes 5

One worker, with labels, reads at a steady pace. A pane of event time passes in less than a second, and buffers are as
small in proportion (`compressed.py`), so that they are filled, and what is kept for a time is let go of, many times
over. The line of least squares through its resident memory, over the last quarter, may rise by MOST_RISE_SHARE of its
level in a minute. In the end the counts are held against the oracle.

The worker has the limit of memory that the Kubernetes manifest gives it (`prlimit --data`).

`--freezes 3`: the worker stands still so many times before the last quarter, until Kafka has removed it from its group:
it rebuilds its state and catches up each time.

`--real`: with the buffers and the patience that a worker has. Then memory levels off after ten minutes.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from agents.clients import Connection
from agents.files import read_plan
from tests.faults.harness import PLAIN, WorkerProcess, create, drain, fill, write_config
from tests.faults.oracle import judge
from tests.faults.stage import FIRST, Ground, Stage
from tests.faults.stream import EVENTS_PER_PANE, labels_of, make_stream

RATE = 2 * EVENTS_PER_PANE
LOOK_EVERY_S = 1.0
CHUNK = 8_192
MOST_RISE_SHARE = 0.01
STRANGERS = 100_000
SECOND_VERSION_AT = 0.2
"""What is kept for it has to stand at its bounds before the last quarter begins."""
HORIZON = "30m"
FROZEN_S = 14.0
"""Longer than Kafka waits for a heartbeat."""
COMPRESSED = (sys.executable, "-m", "tests.faults.compressed")
SIGNAL_SERIES = ("foreshock_signal_value", "foreshock_signal_threshold", "foreshock_signal_breached")


def soak(minutes: float, seed: int, folder: Path, through: Sequence[str], freezes: int) -> list[str]:
    """What is wrong."""
    config = write_config(folder / "worker", "soak-", chunk_size=CHUNK, labelled=True)
    # Outcomes are kept as long as labels may come: with the usual month there would be nothing to let go of.
    config.write_text(
        config.read_text(encoding="utf-8").replace("horizon: 30d", f"horizon: {HORIZON}"), encoding="utf-8"
    )
    stream = make_stream(
        int(minutes * 60 * RATE),
        seed,
        repeats=True,
        deduplicated=True,
        strangers=STRANGERS,
        second_version_at=SECOND_VERSION_AT,
    )
    labels = labels_of(stream.pairs, seed, failing=False)
    seconds = minutes * 60
    with Ground(folder) as ground:
        connection = Connection(broker=ground.broker.bootstrap, prefix="soak-")
        create(connection)
        with Stage(random.Random(seed), ground.broker, connection, config, CHUNK, through) as stage:
            worker = stage.start()
            for topic, pairs in (("inference", stream.pairs), ("labels", labels)):
                stage.write(partial(fill, connection, pairs, rate=len(pairs) / seconds, topic=topic))
            wrong = _watch(stage, worker, seconds, read_plan(config).config.web.max_series, freezes)
            stage.write_out(seconds)
            stage.dismiss(FIRST)
        drain(config, connection.broker, within_s=300)
        verdict = judge(connection, config, stream, labels)
    print(f"{verdict.events:,} events: {verdict.lost} lost, {verdict.duplicated} duplicated")
    return [*wrong, *verdict.wrong[:20]]


def _watch(stage: Stage, worker: WorkerProcess, seconds: float, cap: int, freezes: int) -> list[str]:
    """Looks once a second as long as the stream lasts; what is wrong with memory and series."""
    begun = time.monotonic()
    times, resident, most = list[float](), list[float](), 0
    freeze_at = [seconds * (0.25 + 0.4 * number / max(1, freezes)) for number in range(freezes)]
    while (now := time.monotonic() - begun) < seconds:
        times.append(now)
        resident.append(worker.resident_mib())
        if len(times) % 10 == 0:
            samples = [s for family in text_string_to_metric_families(worker.get("/metrics")) for s in family.samples]
            most = max(most, sum(sample.name in SIGNAL_SERIES for sample in samples))
            print(f"{now:4.0f} s  {resident[-1]:5.0f} MiB  {most:6,} series of columns, {len(samples):,} in all")
            sys.stdout.flush()
        if freeze_at and now >= freeze_at[0]:
            freeze_at.pop(0)
            _freeze(worker)
        stage.live(LOOK_EVERY_S)
    late = next(at for at, time_s in enumerate(times) if time_s >= seconds * 3 / 4)
    per_s, _ = np.polyfit(times[late:], resident[late:], 1)
    level = float(np.mean(resident[late:]))
    rise = f"{per_s * 60:+.2f} MiB or {per_s * 6_000 / level:+.2f} % a minute"
    print(f"memory over the last quarter: {level:.0f} MiB, {rise}; {worker.peak_mib():.0f} MiB at the most")
    wrong = [f"memory rises by {per_s * 60:.1f} MiB a minute"] if per_s * 60 > MOST_RISE_SHARE * level else []
    return wrong + ([f"{most:,} series of columns, the cap is {cap:,}"] if most > cap else [])


def _freeze(worker: WorkerProcess) -> None:
    print(f"      it stands still for {FROZEN_S:g} s")
    worker.signal(signal.SIGSTOP)
    try:
        time.sleep(FROZEN_S)
    finally:
        worker.signal(signal.SIGCONT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Memory and series over hours of events, in minutes.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 10**6))
    parser.add_argument("--freezes", type=int, default=0, help="times that the worker stands still")
    parser.add_argument("--real", action="store_true", help="with the buffers that a worker has")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="foreshock-soak-"))
    options = f"SEED={chosen.seed} FREEZES={chosen.freezes}{' REAL=1' * chosen.real}"
    print(f"make test-soak MINUTES={chosen.minutes:g} {options} repeats it")
    wrong = soak(chosen.minutes, chosen.seed, folder, PLAIN if chosen.real else COMPRESSED, chosen.freezes)
    print("\n".join(wrong) or "passed")
    if not wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
