"""Less of the machine than a worker wants: busy processes beside it, and moments in which it gets nothing at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.loopback import death_with_parent
from tests.faults.stage import Stage

BUSY_PROCESSES = 3
"""One more than the processors of a small machine, at the niceness that workers have."""
BURSTS = 6
SPIN = (sys.executable, "-c", "while True: pass")


@contextmanager
def busy_processes(count: int = BUSY_PROCESSES) -> Iterator[None]:
    """So many processes that compute without a pause, until the block ends."""
    running = [subprocess.Popen(SPIN, preexec_fn=death_with_parent()) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def bursts(stage: Stage) -> None:
    """Workers stand still for moments, shorter and longer ones, now one and now another."""
    for _ in range(BURSTS):
        worker = stage.pick()
        worker.signal(signal.SIGSTOP)
        try:
            stage.live(0.1, 1.5)
        finally:
            worker.signal(signal.SIGCONT)
        stage.live(0.05, 0.8)
