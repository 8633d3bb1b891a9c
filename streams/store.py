"""What the label join needs of a key-value store, and one in memory; the one on disk is the shell's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

Changes = dict[bytes, bytes | None]
"""Values by key; None deletes."""


class Store(Protocol):
    """Keys and values in order of the keys. `write` is atomic."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...
    def scan(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]: ...
    def write(self, changes: Changes) -> None: ...


class MemoryStore:
    """A store for files and tests."""

    def __init__(self) -> None:
        self._values: dict[bytes, dict[bytes, bytes]] = {}
        """By the first byte of the keys, which tells what they are of: some are many, and others are scanned."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._values.get(key[:1], {}).get(key) for key in keys]

    def scan(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
        kinds = [self._values.get(prefix[:1], {})] if prefix else self._values.values()
        return sorted(pair for values in kinds for pair in values.items() if pair[0].startswith(prefix))

    def write(self, changes: Changes) -> None:
        for key, value in changes.items():
            values = self._values.setdefault(key[:1], {})
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
