"""A folder of RocksDB → how far its manifest and its logs had come at the last write, so that less is noticed.

RocksDB takes a manifest that was cut off for an older one, and a log that is gone for one that it has no need of: it
opens, with records missing in the midst. Other damage it finds itself, by its checksums.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from streams.errors import StoreDamaged

NAME = "foreshock-seal.json"


class Seal:
    """What was there, in a small file beside it. A folder without that file is taken as it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: tuple[str, int, dict[str, int]] | None = None

    def check(self) -> None:
        """Raises StoreDamaged if the manifest or a log is shorter than it was, or gone."""
        known = self._read()
        if known is None:
            return
        name, size, logs = known
        now = self._now()
        if now is None:
            raise self._damaged("its manifest is gone")
        found, found_size, found_logs = now
        if _number(found) < _number(name) or (found == name and found_size < size):
            raise self._damaged(f"its manifest {found} has {found_size} bytes; expected {name}, {size} bytes")
        if (found, found_size) == (name, size):  # nothing was written out since, so every log is still needed
            for log, log_size in logs.items():
                if found_logs.get(log, -1) < log_size:
                    raise self._damaged(f"its log {log} has {found_logs.get(log, 0)} bytes; expected {log_size}")

    def note(self) -> None:
        """Writes down what is there now. What it says may be older than what is there, never newer."""
        now = self._now()
        if now is None or now == self._noted:
            return
        temporary = self._folder / (NAME + ".new")
        temporary.write_text(json.dumps(now), encoding="utf-8")
        temporary.replace(self._folder / NAME)
        self._noted = now

    def _now(self) -> tuple[str, int, dict[str, int]] | None:
        sizes: dict[str, int] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".log") or entry.name.startswith("MANIFEST-"):
                    try:
                        sizes[entry.name] = entry.stat().st_size
                    except FileNotFoundError:  # written out, and removed a moment ago
                        continue
        try:
            name = (self._folder / "CURRENT").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None
        if name not in sizes:
            return None
        return name, sizes[name], {log: size for log, size in sizes.items() if log.endswith(".log")}

    def _read(self) -> tuple[str, int, dict[str, int]] | None:
        try:
            name, size, logs = json.loads((self._folder / NAME).read_text(encoding="utf-8"))
            return str(name), int(size), {str(log): int(bytes_) for log, bytes_ in logs.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return None  # no such file, or a damaged one: of the store itself it says nothing

    def _damaged(self, seen: str) -> StoreDamaged:
        return StoreDamaged(place=str(self._folder), seen=seen)


def _number(manifest: str) -> int:
    digits = manifest.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1
