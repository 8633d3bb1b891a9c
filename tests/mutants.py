"""`python -m tests.mutants`: small changes to risky modules, each held against the tests about its module.

    python -m tests.mutants --sample 60 --seed 1        so many of all modules, drawn by the seed
    python -m tests.mutants --only chunk,join --sample 20

It works on a copy of the checkout, in `build/mutants`. cosmic-ray, in an environment of its own, makes the mutants and
runs the tests. Exit code 1 if fewer than `--least` per cent of them were killed. A mutant that was looked at and is
equivalent is named in EQUIVALENT, by module and the line that it changes.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.environments import NotInstalled, environment

ROOT = Path(__file__).parents[1]
TOOLS = Path(__file__).with_suffix(".txt")
WORK = ROOT / "build" / "mutants"
TIMEOUT_S = 300
LEAST_PER_CENT = 85.0
TIMED_OUT = "timeout"
KILLED = ("killed", "abnormal")
SKIPPED_OPERATORS = ("core/RemoveDecorator",)
"""Without its decorator a module does not import: that tells nothing of the tests."""
KERNEL = (
    "tests/unit/test_merge.py tests/laws/test_stage_one.py tests/laws/test_stage_two.py tests/unit/test_boundaries.py"
)

MODULES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "chunk": (("streams/chunk.py", "streams/source.py"), f"{KERNEL} tests/unit/test_sketch_stage.py"),
    "merge": (("streams/chunk_merge.py", "streams/merge.py"), f"{KERNEL} tests/laws/test_labels_behind.py"),
    "join": (
        ("streams/join/fold.py", "streams/join/cells.py", "streams/join/histories.py"),
        "tests/laws/test_join.py tests/unit/test_labels.py tests/unit/test_boundaries.py",
    ),
    "judge": (
        ("streams/judge.py", "streams/judge_outcomes.py"),
        "tests/laws/test_stage_two.py tests/laws/test_merge_stage_kills.py tests/replay tests/unit/test_boundaries.py",
    ),
    "decide": (("streams/decide.py", "streams/inhibit.py"), "tests/unit/test_decide.py tests/unit/test_boundaries.py"),
    "ledger": (
        ("streams/ledger.py", "streams/truth.py"),
        "tests/laws/test_ledger.py tests/unit/test_ledger.py tests/unit/test_boundaries.py",
    ),
    "facts": (
        ("streams/facts/fold.py", "streams/facts/merge.py", "streams/facts/history.py", "streams/judge_facts.py"),
        "tests/unit/test_facts.py tests/replay/test_scenario.py tests/laws/test_served_behind.py "
        "tests/unit/test_boundaries.py",
    ),
    "stages": (
        ("agents/merge.py", "agents/sketch.py"),
        "tests/laws/test_merge_stage_kills.py tests/unit/test_merge_stage.py tests/unit/test_sketch_stage.py "
        "tests/embedded/test_worker.py",
    ),
}
"""By name: the modules, and the tests about them."""

EQUIVALENT: Mapping[str, Sequence[str]] = {}
"""By module: what is left of a line of the diff, stripped, where the change alters no behaviour."""


@dataclass(frozen=True)
class Mutant:
    """One change, and what became of it."""

    module: str
    diff: str
    outcome: str

    @property
    def changed(self) -> list[str]:
        """The lines that it writes."""
        lines = (line for line in self.diff.splitlines() if line.startswith("+") and not line.startswith("+++"))
        return [line[1:].strip() for line in lines]

    @property
    def is_equivalent(self) -> bool:
        return any(line in EQUIVALENT.get(self.module, ()) for line in self.changed)


def copied() -> Path:
    """A copy of the checkout as it is, with what is not committed."""
    tree = WORK / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def annotation_places(source: str) -> set[tuple[int, int]]:
    """Line and column of every node within an annotation: a change there alters nothing."""
    places = set()
    for node in ast.walk(ast.parse(source)):
        annotations = (getattr(node, "annotation", None), getattr(node, "returns", None))
        for part in (part for found in annotations if found is not None for part in ast.walk(found)):
            if isinstance(part, ast.expr):
                places |= {(part.lineno, column) for column in range(part.col_offset, (part.end_col_offset or 0) + 1)}
    return places


def drawn(session: Path, tree: Path, sample: int, rng: random.Random) -> int:
    """Leaves so many mutants in the session; how many."""
    with sqlite3.connect(session) as base:
        rows = base.execute(
            "select job_id, module_path, operator_name, start_pos_row, start_pos_col from mutation_specs order by "
            "module_path, operator_name, occurrence"
        ).fetchall()
        sources = {path: annotation_places((tree / path).read_text()) for path in {row[1] for row in rows}}
        useful = [
            job
            for job, path, operator, line, column in rows
            if operator not in SKIPPED_OPERATORS and (line, column) not in sources[path]
        ]
        kept = set(rng.sample(useful, min(sample, len(useful))))
        for table in ("mutation_specs", "work_items"):
            base.executemany(f"delete from {table} where job_id = ?", [(row[0],) for row in rows if row[0] not in kept])
    return len(kept)


def run(name: str, tree: Path, sample: int, rng: random.Random, tools: Path) -> Iterator[Mutant]:
    """The mutants of one entry of MODULES, each with its outcome."""
    modules, tests = MODULES[name]
    config, session = tree / f"mutants-{name}.toml", tree / f"mutants-{name}.sqlite"
    command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider {tests}"
    config.write_text(
        f"[cosmic-ray]\nmodule-path = {list(modules)}\ntimeout = {TIMEOUT_S}.0\nexcluded-modules = []\n"
        f'test-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    tool = str(tools.with_name("cosmic-ray"))
    subprocess.run([tool, "init", config.name, session.name], cwd=tree, check=True, capture_output=True)
    count = drawn(session, tree, sample, rng)
    print(f"{name}: {count} mutants of {', '.join(modules)}", flush=True)
    subprocess.run(["nice", tool, "exec", config.name, session.name], cwd=tree, check=True, capture_output=True)
    with sqlite3.connect(session) as base:
        rows = base.execute(
            "select module_path, diff, test_outcome, worker_outcome, output from mutation_specs "
            "join work_results using (job_id)"
        ).fetchall()
    for module, diff, outcome, worker, output in rows:
        # cosmic-ray takes a run that was too long for a kill: on a busy machine it is none.
        yield Mutant(module, diff or "", TIMED_OUT if output == TIMED_OUT else str(outcome or worker).lower())


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=40, help="mutants of each group of modules")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="groups, by comma: " + ", ".join(MODULES))
    parser.add_argument("--least", type=float, default=LEAST_PER_CENT, help="per cent that must be killed")
    options = parser.parse_args(arguments)
    try:
        tools = environment(TOOLS)
    except NotInstalled as error:
        print(f"NOT RUN: {error}", file=sys.stderr)
        return 1
    tree, wanting = copied(), []
    for name in options.only.split(",") if options.only else MODULES:
        found = list(run(name, tree, options.sample, random.Random(f"{options.seed} {name}"), tools))
        counted = [mutant for mutant in found if not mutant.is_equivalent and mutant.outcome != TIMED_OUT]
        killed = sum(mutant.outcome in KILLED for mutant in counted)
        share = 100 * killed / max(1, len(counted))
        left = len(found) - len(counted)
        print(f"{name}: {killed} of {len(counted)} killed ({share:.0f} %), {left} equivalent or undecided (timeout)")
        for mutant in found:
            if mutant.outcome not in KILLED and not mutant.is_equivalent:
                print(f"  {mutant.outcome}: {mutant.module}: {' | '.join(mutant.changed)}", flush=True)
        if share < options.least:
            wanting.append(name)
    if wanting:
        print(f"below {options.least:g} %: {', '.join(wanting)}")
    return 1 if wanting else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
