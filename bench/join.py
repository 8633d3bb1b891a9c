"""The label join alone, without Kafka: predictions and labels a second, what a stored prediction costs, a rebuild.

    python bench/join.py [--predictions 1000000] [--labels 200000]

One partition, `bench/stream.py`'s events (15 features, one segment), the store on disk. Event ids are 36 characters in
no order, as UUIDs are: the costly case. A rebuild is the same work again: decoding and joining every prediction.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from agents.store import RocksStore
from bench.stream import EVENTS_PER_S, MODEL, START_MS, pairs, project
from streams.codecs import decoder_of
from streams.config import Labels
from streams.join.fold import JoinFold
from streams.join.histories import keys_of
from streams.plan import Plan, compile_model
from streams.records import Records
from streams.sketch.outcomes import Task

BATCH = 2_048
COMMIT_EVERY = 32
"""Batches between two commits: about a second's worth."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=200_000)
    chosen = parser.parse_args(arguments)
    plan, now_ms = labelled(project().plan), START_MS + 10**10
    with tempfile.TemporaryDirectory() as folder:
        store = RocksStore(Path(folder))
        fold = JoinFold(plan, "labels", 0, store, now_ms)
        predict(fold, plan, 1, now_ms)  # what the stream of events itself takes is not counted
        before_mib = resident_mib()
        joined_s, decoded_s = predict(fold, plan, chosen.predictions, now_ms)
        told_s = tell(fold, chosen.predictions, chosen.labels, now_ms)
        rng = random.Random(1)
        keys = keys_of([event_id(rng.randrange(chosen.predictions)).decode() for _ in range(BATCH * 10)])
        began = time.perf_counter()
        for at in range(0, len(keys), BATCH):
            store.get_many(keys[at : at + BATCH])
        looked_s = time.perf_counter() - began
        store.close()
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mib
    print(
        f"predictions   {chosen.predictions / joined_s:>12,.0f} /s joined; decoding them alone: {decoded_s:.1f} s more"
    )
    print(f"labels        {chosen.labels / told_s:>12,.0f} /s joined")
    print(f"store         {size / chosen.predictions:>12,.0f} bytes on disk a prediction, labels included")
    print(f"look-up       {looked_s / len(keys) * 1e6:>12,.2f} µs a key, in batches of {BATCH:,}")
    print(f"rebuild       {(joined_s + decoded_s) / chosen.predictions * 1e7:>12,.0f} s for 10,000,000 predictions")
    print(f"memory        {memory:>12,.0f} MiB more than before, at the most")


def event_id(number: int) -> bytes:
    text = hashlib.md5(b"%d" % number).hexdigest()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])).encode()


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def labelled(plan: Plan) -> Plan:
    """The stream's model with labels."""
    model = plan.models[MODEL]
    config = msgspec.structs.replace(model.config, labels=Labels(task=Task.BINARY, classes=("0", "1")))
    return replace(plan, models={MODEL: compile_model(MODEL, config, model.baseline)})


def predict(fold: JoinFold, plan: Plan, n: int, now_ms: int) -> tuple[float, float]:
    """Seconds for joining, and for decoding."""
    decoder = decoder_of(plan)
    values = (value.replace(key or b"", event_id(number), 1) for number, (key, value) in enumerate(pairs(n)))
    joined_s = decoded_s = 0.0
    for number, offset in enumerate(range(0, n, BATCH)):
        batch = list(islice(values, BATCH))
        began = time.perf_counter()
        rows = decoder.decode(batch, [now_ms] * len(batch)).models[MODEL]
        decoded = time.perf_counter()
        fold.take_predictions(MODEL, rows, range(offset, offset + len(batch)))
        if number % COMMIT_EVERY == COMMIT_EVERY - 1 or offset + BATCH >= n:
            fold.commit(offset + len(batch), now_ms)
            fold.partials(now_ms, final=False)
        joined_s, decoded_s = joined_s + time.perf_counter() - decoded, decoded_s + decoded - began
    return joined_s, decoded_s


def tell(fold: JoinFold, predictions: int, n: int, now_ms: int) -> float:
    """Seconds for the labels of predictions drawn at random."""
    rng = random.Random(2)
    template = b'{"event_id":"%b","label":%d,"label_ts":%d}'
    first_ms = START_MS + predictions * 1_000 // EVENTS_PER_S
    values = [template % (event_id(rng.randrange(predictions)), rng.random() < 0.1, first_ms + i) for i in range(n)]
    began = time.perf_counter()
    for number, offset in enumerate(range(0, n, BATCH)):
        batch = values[offset : offset + BATCH]
        fold.take_labels(Records(range(offset, offset + len(batch)), [now_ms] * len(batch), batch), now_ms)
        if number % COMMIT_EVERY == COMMIT_EVERY - 1 or offset + BATCH >= n:
            fold.commit(predictions, now_ms)
            fold.partials(now_ms, final=False)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
