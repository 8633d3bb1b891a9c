"""All benches, one after the other, with the versions that their figures are of: what `make bench` runs.

    python bench/run.py [--only throughput,curves] [--figures docs/figures]

Each is a process of its own, with its defaults. One that fails does not keep the others from running.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import machine

HERE = Path(__file__).parent
BENCHES = ("throughput", "curves", "latency", "startup", "join")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHES), help="names, with commas between them")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="where curves.py writes its pictures")
    chosen = parser.parse_args(arguments)
    wanted = chosen.only.split(",")
    if unknown := set(wanted) - set(BENCHES):
        parser.error(f"no bench {', '.join(sorted(unknown))}: choose from {', '.join(BENCHES)}")
    machine.main()
    failed = []
    for name in wanted:
        options = ["--figures", str(chosen.figures)] if name == "curves" and chosen.figures else []
        print(f"\n# bench/{name}.py {' '.join(options)}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *options]).returncode
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        failed += [name] * (code != 0)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
