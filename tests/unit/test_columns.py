"""`streams/batch.py`: where values are counted does not depend on how many come at once."""

from __future__ import annotations

import json
import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.batch import Columnizer, Columns, Gathered, bins_of
from streams.decode import Decoder, ModelCodec
from streams.sketch.layout import Column, Kind, Layout, Role

EDGES = (-2.0, -0.5, 0.0, 0.1, 1.0, 1e300)
COLUMNS = [Column(name=f"x{i}", role=Role.FEATURE, kind=Kind.NUMERIC, edges=EDGES) for i in range(40)]
SEGMENTS = {"region": ("north", "south")}
NOW_MS = 1_767_225_600_000


def columns(values: list[bytes], block: int) -> Columns:
    codec = ModelCodec("m", COLUMNS, tuple(SEGMENTS))
    decoder, columnizer = Decoder({"m": codec}, 10_000, 0), Columnizer(Layout(tuple(COLUMNS)), SEGMENTS)
    gathered = Gathered()
    for start in range(0, len(values), block):
        part = values[start : start + block]
        columnizer.gather(columnizer.parts(decoder.decode(part, [NOW_MS] * len(part)).models["m"]), gathered)
    return columnizer.columns(gathered)


def test_many_rows_at_once_are_counted_where_each_alone_is() -> None:
    """More slots than a byte can number, values on and beside every edge, nulls, and events without segments."""
    drawn = random.Random(1)
    numbers = [None, *EDGES, *(edge - 1e-9 for edge in EDGES), 5.0, -1e308, 7]
    values = []
    for i in range(1_500):
        features = {column.name: drawn.choice(numbers) for column in COLUMNS}
        event = {"event_id": f"{i}", "ts": NOW_MS - i, "model": "m", "features": features}
        if i % 3:
            event["segments"] = {"region": drawn.choice(["north", "south", "elsewhere", None])}
        values.append(json.dumps(event).encode())
    together = columns(values, len(values))
    for at in range(0, len(values), 100):
        apart = columns(values[at : at + 100], 7)
        assert (together.slots[:, at : at + 100] == apart.slots).all()
        assert (together.segments[0][at : at + 100] == apart.segments[0]).all()


@given(
    st.lists(st.floats(allow_nan=False), max_size=80, unique=True).map(sorted),
    st.lists(st.floats(allow_nan=False), min_size=1),
)
def test_a_bin_begins_at_its_edge(edges: list[float], values: list[float]) -> None:
    """One at an edge belongs to the bin above; whether many come at once or few."""
    drawn = np.array([*values, *edges])
    expected = [sum(edge <= value for edge in edges) for value in drawn.tolist()]
    assert bins_of(drawn, np.array(edges)).tolist() == expected
    assert bins_of(np.resize(drawn, 1_100), np.array(edges)).tolist()[: len(drawn)] == expected
