"""Offset in one generation of a log ↔ position: a number that grows over all generations of the log.

A topic that is deleted and created again begins at offset 0. Its partition then has another generation, and a position
is the generation and the offset in one integer. So chunks, covered offsets and progress of two generations never
collide, and the later generation always has the greater numbers. In generation 0 a position is the offset itself.
"""

from __future__ import annotations

OFFSET_BITS = 48
MAX_GENERATION = (1 << 14) - 1
_MASK = (1 << OFFSET_BITS) - 1


def position(generation: int, offset: int) -> int:
    """The position of an offset.

    >>> position(0, 7), offset_of(position(3, 7)), generation_of(position(3, 7))
    (7, 7, 3)
    """
    return generation << OFFSET_BITS | offset


def offset_of(at: int) -> int:
    """The offset of a position in its generation of the log."""
    return at & _MASK


def generation_of(at: int) -> int:
    """How often the log had been created again before this position."""
    return at >> OFFSET_BITS
