"""Content of `state`, and a configuration → sentences: what a restart would keep, align, begin anew and close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from streams.config import Kafka
from streams.errors import ConfigError, NewerError, SketchError
from streams.kept import models_of
from streams.plan import Plan
from streams.progress import Progress, in_chunks_of
from streams.publication import BOOKS_KEY, LEDGER_KEY, UNIT_KEY
from streams.restore import kept_lines, unknown_lines
from streams.state import ModelState, fits, unpack_state, unpack_unit

Kept = Mapping[tuple[int, bytes], bytes]
"""By partition and key, the latest values."""


def state_lines(plan: Plan, kept: Kept) -> Iterator[str]:
    """One line for each finding, by model. Changes nothing."""
    states: dict[str, ModelState] = {}
    fitting: Counter[str] = Counter()
    units: Counter[str] = Counter()
    later: dict[str, str] = {}
    unsound = 0
    for (_, key), value in sorted(kept.items()):
        if key.startswith((BOOKS_KEY, LEDGER_KEY)):
            continue
        try:
            if key.startswith(UNIT_KEY):
                name, unit = unpack_unit(value, key)
                units[name] += 1
                fitting[name] += name in plan.models and fits(unit, plan.models[name])
            else:
                state = unpack_state(value, ModelState, key)
                states[state.model] = state
        except NewerError as error:
            later.update({name: error.seen for name in models_of(key, plan.models)})
        except SketchError:
            unsound += 1
    for name, model in plan.models.items():
        if name in later:
            yield f"{name}: has a record of {later[name]}: this release would park it; upgrade"
            continue
        if name not in states:
            yield f"{name}: begins anew: `state` does not know it"
            continue
        yield from (f"{name}: {line}" for line in kept_lines(states[name], model))
        yield f"{name}: keeps {fitting[name]} of {units[name]} roll-ups of hours, days and cohorts"
    for name in sorted(states.keys() - plan.models.keys()):
        yield from (f"{name}: {line}" for line in unknown_lines(states[name]))
    if unsound:
        yield f"{unsound} records of `state` are none that a worker has written: they would be left out"


def check_counted(kafka: Kafka, buckets: int, progress: Iterable[Progress]) -> None:
    """Raises unless a worker with these settings could continue from what is on the topics.

    Parameters:
        buckets: partitions of `state`.

    Raises:
        ConfigError: if it would look for models in other buckets, or count records in chunks of another size.
    """
    if kafka.buckets != buckets:
        raise ConfigError(
            place="kafka.buckets",
            seen=str(kafka.buckets),
            expected=f"{buckets}, as the topics `state` and `partials` have partitions",
            mend="set it back, or use another prefix",
        )
    for item in progress:
        in_chunks_of(item, kafka.chunk_size)
