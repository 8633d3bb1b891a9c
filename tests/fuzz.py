"""`python -m tests.fuzz SECONDS`: every decoder on hostile bytes, each for its share; what is found ends it."""

from __future__ import annotations

import sys
import time

from tests.decoders import targets
from tests.laws.test_decoders import fuzzed

EXAMPLES = 200


def main(seconds: float) -> None:
    chosen = targets()
    for name, target in chosen.items():
        until, runs = time.monotonic() + seconds / len(chosen), 0
        while time.monotonic() < until:
            fuzzed(target, EXAMPLES)()
            runs += 1
        print(f"{name}: {runs * EXAMPLES:,} inputs, nothing found", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
