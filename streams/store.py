"""What the label join needs of a key-value store, and one in memory; the one on disk is the shell's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol


class Store(Protocol):
    """Keys and values in order of the keys. `write` is atomic; None deletes."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...
    def scan(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]: ...
    def write(self, changes: Mapping[bytes, bytes | None]) -> None: ...


class MemoryStore:
    """A store for files and tests."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(self._values.get, keys))

    def scan(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
        return sorted((key, value) for key, value in self._values.items() if key.startswith(prefix))

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
