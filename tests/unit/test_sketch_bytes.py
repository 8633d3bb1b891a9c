"""Sketches of release 0.1, which Apache DataSketches 5.2 wrote: read, added to, and written in the same form."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from streams.sketch.distinct import Distinct
from streams.sketch.quantiles import Quantiles

COUPONS = {
    3: "0201070b030803089fc3422bd83f9c1e217e8b06",
    9: "0301070b0508000909000000217e8b06c264050404423307654df60be8c8ec074a05f8040f136704d83f9c1e9fc3422b",
}
"""The distinct texts customer-0, customer-1 …: so many."""
REGISTERS_OF_5000 = "7c6dc10ee9815b6e446cbb0a6a5ed9f7f11a08003df0a6c39a192638043c0870"
"""SHA-256 of the registers of customer-0 … customer-4999."""
FIVE_NUMBERS = (
    "05010f00c80008000500000000000000c8000100c3000000000000000000000000000000000010400000000000001040"
    "00000000000008400000000000000040000000000000f03f0000000000000000"
)
"""The quantiles of 0, 1, 2, 3, 4."""


def customers(many: int) -> Distinct:
    sketch = Distinct()
    sketch.update([f"customer-{i}" for i in range(many)])
    return sketch


@pytest.mark.parametrize("many", COUPONS)
def test_a_text_is_the_same_text_in_both(many: int) -> None:
    old, new = Distinct.from_bytes(bytes.fromhex(COUPONS[many])), customers(many)
    assert old == new == old.merged(new) == new.merged(old)
    assert len(new.to_bytes()) == len(COUPONS[many]) // 2 and new.to_bytes()[:8] == bytes.fromhex(COUPONS[many])[:8]


def test_registers_are_the_same_in_both() -> None:
    assert hashlib.sha256(customers(5_000).to_bytes()[40:]).hexdigest() == REGISTERS_OF_5000


def test_the_bytes_of_distinct_texts_do_not_depend_on_their_order() -> None:
    for many in (5, 100, 1_000):
        texts = [f"customer-{i}" for i in range(many)]
        shuffled = Distinct()
        for text in random.Random(many).sample(texts, many):
            shuffled.update([text])
        assert shuffled.to_bytes() == customers(many).to_bytes()


def test_numbers_are_read_with_their_quantiles() -> None:
    sketch = Quantiles.from_bytes(bytes.fromhex(FIVE_NUMBERS))
    assert (sketch.n, sketch.ends, sketch.at([0, 0.5, 0.99])) == (5, (0.0, 4.0), [0.0, 2.0, 4.0])
    assert sketch.merged(sketch).at([0.1, 0.5, 0.9]) == [0.0, 2.0, 4.0]


def test_the_same_numbers_give_the_same_quantiles_again() -> None:
    """Not only within the bound: a replay agrees to the digit."""
    parts = np.array_split(np.random.default_rng(3).normal(size=50_000), 37)

    def once() -> bytes:
        whole = Quantiles()
        for part in parts:
            whole.update(part)
        return whole.merged(whole).to_bytes()

    assert once() == once()
