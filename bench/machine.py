"""What a bench runs on: its cores, and the versions that its figures are of."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from deploy.kafka_files import KAFKA_VERSION

OURS = ("msgspec", "numpy", "aiokafka", "faust-streaming", "rocksdict")


def cores() -> tuple[int | None, int | None]:
    """The contenders' core and the broker's; None where there is nothing to choose."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        print("one core only: the broker shares it, and all figures are lower", file=sys.stderr)
    return found[0], found[-1]


def pin(core: int | None) -> None:
    """This process, and what it starts from now on, to one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def versions() -> list[tuple[str, str]]:
    """Of the machine, of Python and its libraries, of Kafka, of the peers."""
    found = [("machine", f"{os.cpu_count()} cores of {_processor()}"), ("system", platform.platform())]
    found += [("Python", platform.python_version()), ("Apache Kafka", KAFKA_VERSION)]
    found += [(name, version(name)) for name in OURS]
    pinned = [line for file in sorted(Path(__file__).parent.glob("peers/*.txt")) for line in file.read_text().split()]
    peers = {(name, number) for name, is_pinned, number in (line.partition("==") for line in pinned) if is_pinned}
    return found + sorted(peers - set(found))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    for name, found in versions():
        print(f"{name:24} {found}")


if __name__ == "__main__":
    main()
