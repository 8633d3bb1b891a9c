"""Records of one partition, as the shell passes them, and rejected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streams.events import Headers, Reject


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one partition in offset order, as parallel lists. `headers` and `keys` may be empty."""

    offsets: Sequence[int]
    stamps_ms: Sequence[int]
    values: Sequence[bytes | None]
    headers: Sequence[Headers] = ()
    keys: Sequence[bytes | None] = ()

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, start: int, stop: int) -> Records:
        if start == 0 and stop == len(self):
            return self
        part = slice(start, stop)
        return Records(self.offsets[part], self.stamps_ms[part], self.values[part], self.headers[part], self.keys[part])


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A reject with the offset and the bytes of its record."""

    partition: int
    offset: int
    value: bytes | None
    reject: Reject
