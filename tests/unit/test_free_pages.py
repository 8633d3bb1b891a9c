"""What a worker needed for a while goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agents.memory import of_glibc

PROGRAM = """
import asyncio
from pathlib import Path
from agents import free_pages
from agents.memory import tune_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

async def main():
    service = free_pages.FreePages()
    await service.start()
    await asyncio.sleep(0.5)
    await service.stop()

tune_memory()
blocks = [bytes(10_000) for _ in range(20_000)]
kept = blocks[::100]
del blocks
before = resident_mib()
free_pages.TRIM_EVERY_S = 0.01
asyncio.run(main())
print(before, resident_mib(), len(kept))
"""


@pytest.mark.skipif(of_glibc("malloc_trim") is None, reason="only glibc keeps what is freed, and can be told not to")
def test_free_pages_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    before, after, kept = map(float, done.stdout.split())
    assert kept == 200
    assert before - after > 150
