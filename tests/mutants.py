"""`python -m tests.mutants`: small changes to risky modules, each held against the tests about its module.

    python -m tests.mutants --sample 60 --seed 1        so many of all modules, drawn by the seed
    python -m tests.mutants --only chunk,join --sample 20

It works on a copy of the checkout, in `build/mutants`. cosmic-ray, in an environment of its own, makes the mutants;
`tests.mutant_runs` runs the tests. A mutant is killed if a test fails, or if one takes ten times the processor time
that it takes with the unchanged code: it is caught in a loop. Exit code 1 if fewer than `--least` per cent of them were
killed. `build/mutants/GROUP.json` has every mutant, and the test that noticed it. A mutant that was looked at and is
equivalent is named in EQUIVALENT, by module and the line that it changes.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environments import NotInstalled, environment
from tests.mutant_runs import ENDLESS, KILLED, SURVIVED, UNDECIDED

ROOT = Path(__file__).parents[1]
TOOLS = Path(__file__).with_suffix(".txt")
WORK = ROOT / "build" / "mutants"
LEAST_PER_CENT = 85.0
NOTICED = (KILLED, ENDLESS)
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
MUTATE = """
import difflib, json, sys, sqlite3
from pathlib import Path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
query = "select module_path, operator_name, occurrence from mutation_specs order by 1, 2, 3"
for path, operator, occurrence in sqlite3.connect(sys.argv[1]).execute(query):
    code = Path(path).read_text()
    found = mutate_code(code, get_operator(operator)(), occurrence)
    diff = "\\n".join(difflib.unified_diff(code.splitlines(), found.splitlines(), path, path, "", "", 1, ""))
    print(json.dumps({"path": path, "code": found, "diff": diff}))
"""
"""What cosmic-ray's own interpreter runs."""
SKIPPED_OPERATORS = (
    "core/RemoveDecorator",
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in ("Is_Eq", "Eq_Is", "IsNot_NotEq", "NotEq_IsNot")),
)
"""Without its decorator a module does not import. Of None, members of an enumeration, small numbers and interned texts
`is` and `==` say the same. Neither tells anything of the tests."""
KERNEL = (
    "tests/unit/test_merge.py tests/unit/test_merge_expiry.py tests/laws/test_stage_one.py "
    "tests/laws/test_stage_two.py tests/unit/test_boundaries.py"
)

MODULES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "chunk": (("streams/chunk.py", "streams/source.py"), f"{KERNEL} tests/unit/test_sketch_stage.py"),
    "merge": (
        tuple(
            f"streams/{name}.py"
            for name in ("chunk_merge", "model_panes", "outcome_panes", "merge", "pane_cursor", "evaluation_progress")
        ),
        "tests/laws/test_pane_cursor.py tests/unit/test_merge.py tests/unit/test_merge_expiry.py "
        "tests/laws/test_silence.py "
        "tests/laws/test_stage_two.py tests/laws/test_windows.py "
        "tests/unit/test_exact_terms.py tests/unit/test_replaying.py",
    ),
    "join": (
        tuple(f"streams/join/{name}.py" for name in ("fold", "cells", "histories", "match", "publish", "recovery")),
        "tests/laws/test_join.py tests/laws/test_join_oracle.py tests/unit/test_parking.py "
        "tests/unit/test_stream_time_folds.py tests/unit/test_join_records.py "
        "--deselect tests/laws/test_join.py::"
        "test_no_step_of_stage_two_is_more_than_a_pane_or_a_cohort_even_after_a_restart",
    ),
    "judge": (
        tuple(
            f"streams/{name}.py" for name in ("judge", "judge_model", "judge_events", "judge_outcomes", "evaluation")
        ),
        "tests/laws/test_windows.py tests/laws/test_stage_two.py tests/replay/test_inhibition.py "
        "tests/unit/test_boundaries.py tests/unit/test_exact_terms.py tests/unit/test_judge_terms.py "
        "tests/laws/test_labels_behind.py::"
        "test_labels_that_are_counted_anew_are_judged_as_if_they_had_always_been_counted_so",
    ),
    "decide": (
        (
            "streams/decide.py",
            "streams/evidence.py",
            "streams/inhibit.py",
            "streams/rule_state.py",
            "streams/situation.py",
        ),
        "tests/unit/test_decide.py tests/unit/test_decide_inhibition.py tests/unit/test_decide_plainly.py "
        "tests/unit/test_inhibit.py",
    ),
    "ledger": (
        ("streams/ledger.py", "streams/ledger_rows.py", "streams/ledger_tally.py", "streams/truth.py"),
        "tests/laws/test_ledger.py tests/unit/test_ledger.py tests/unit/test_boundaries.py",
    ),
    "facts": (
        (
            *("streams/facts/fold.py", "streams/facts/merge.py", "streams/facts/history.py"),
            *("streams/judge_facts.py", "streams/judge_kpi.py"),
        ),
        "tests/laws/test_side_inputs.py tests/unit/test_facts.py tests/laws/test_served_behind.py "
        "tests/unit/test_boundaries.py "
        "tests/unit/test_exact_terms.py tests/unit/test_history_terms.py tests/unit/test_stream_time_folds.py",
    ),
    "stages": (
        ("agents/merge.py", "agents/sketch.py", "agents/joins.py"),
        "tests/laws/test_merge_stage_kills.py tests/laws/test_sketch_stage_kills.py tests/unit/test_merge_stage.py "
        "tests/unit/test_sketch_stage.py tests/unit/test_stage_terms.py",
    ),
}
"""By name: the modules, and the tests about them."""

EQUIVALENT: Mapping[str, Sequence[str]] = {
    # A bucket that was never looked at is looked at now: the monotonic clock is not below either.
    "agents/merge.py": ("if batch.records and time.monotonic() < self._judge_from.get(batch.partition, -1.0):",),
    "streams/join/histories.py": (
        # Without times there is nothing to list, under whatever hour.
        "first, last = (int(hours.min()), int(hours.max())) if len(hours) else ( 1, 0)",
        # What is forgotten is written over what was put: the owner merges the two in that order.
        "for key in []:",
    ),
    # np.unique gives as many of the one as of the other.
    "streams/join/cells.py": (
        "for at, n in zip(np.flatnonzero(counted)[firsts].tolist(), counts.tolist(), strict=False):",
    ),
    # No time is before the one that stands for none.
    "streams/judge.py": ("if from_ms <= NO_MARK or self.merge.watermark_ms(model) is None:",),
    # The clock counts from the start of the machine: the remainder is the difference.
    "agents/sketch.py": ("self.work.seconds += time.perf_counter() % began",),
    # The whole, two empty texts, comes before every other segment.
    "streams/situation.py": ("return self.cell.segment <= WHOLE",),
    # Revisions are counted from 0.
    "streams/truth.py": (
        "return record.revision <= 0 and standing is Standing.BAD and self._take_breach(cell, end_ms)",
    ),
}
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


def idle_places(source: str) -> set[tuple[int, int]]:
    """Line and column of every node where a change alters nothing that is computed, or a choice alone: annotations,
    decorators, and what the constants of a module are given."""
    tree = ast.parse(source)
    idle: list[ast.expr | None] = []
    for node in ast.walk(tree):
        idle += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        idle += getattr(node, "decorator_list", [])
    idle += [node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    places = set()
    for part in (part for found in idle if found is not None for part in ast.walk(found)):
        if isinstance(part, ast.expr):
            places |= {(part.lineno, column) for column in range(part.col_offset, (part.end_col_offset or 0) + 1)}
    return places


def drawn(session: Path, tree: Path, sample: int, rng: random.Random) -> None:
    """Leaves so many mutants in the session."""
    with sqlite3.connect(session) as base:
        rows = base.execute(
            "select job_id, module_path, operator_name, start_pos_row, start_pos_col from mutation_specs order by "
            "module_path, operator_name, occurrence"
        ).fetchall()
        idle = {path: idle_places((tree / path).read_text()) for path in {row[1] for row in rows}}
        useful = [
            job
            for job, path, operator, line, column in rows
            if operator not in SKIPPED_OPERATORS and (line, column) not in idle[path]
        ]
        kept = set(rng.sample(useful, min(sample, len(useful))))
        for table in ("mutation_specs", "work_items"):
            base.executemany(f"delete from {table} where job_id = ?", [(row[0],) for row in rows if row[0] not in kept])


def mutated(session: Path, tree: Path, python: Path) -> list[dict[str, str]]:
    """Path, code and diff of every mutant in the session that is Python."""
    done = subprocess.run([str(python), "-c", MUTATE, session.name], cwd=tree, check=True, capture_output=True)
    found: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
    return [mutant for mutant in found if is_python(mutant["code"])]


def is_python(code: str) -> bool:
    try:
        compile(code, "a mutant", "exec")
    except SyntaxError:
        return False
    return True


def killed_before(results: Path) -> dict[str, str]:
    """By diff the outcome of the mutants that were killed in the run that wrote the results."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {found["diff"]: found["outcome"] for found in map(json.loads, lines) if found["outcome"] in NOTICED}


def run(name: str, tree: Path, sample: int, rng: random.Random, tools: Path, again: bool) -> Iterator[Mutant]:
    """The mutants of one entry of MODULES, each with its outcome. `again`: those that were killed are not run."""
    modules, tests = MODULES[name]
    config, session, jobs = (tree / f"mutants-{name}.{end}" for end in ("toml", "sqlite", "json"))
    config.write_text(
        f"[cosmic-ray]\nmodule-path = {list(modules)}\ntimeout = 1.0\nexcluded-modules = []\n"
        'test-command = ""\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    tool = str(tools.with_name("cosmic-ray"))
    subprocess.run([tool, "init", config.name, session.name], cwd=tree, check=True, capture_output=True)
    drawn(session, tree, sample + sample // 2, rng)
    mutants = mutated(session, tree, tools)
    mutants = rng.sample(mutants, min(sample, len(mutants)))
    print(f"{name}: {len(mutants)} mutants of {', '.join(modules)}", flush=True)
    results = WORK / f"{name}.json"
    known = killed_before(results) if again else {}
    jobs.write_text("".join(json.dumps(mutant) + "\n" for mutant in mutants if mutant["diff"] not in known))
    command = [sys.executable, "-m", "tests.mutant_runs", jobs.name, *tests.split()]
    with subprocess.Popen(command, cwd=tree, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE) as runs:
        assert runs.stdout is not None
        lines = map(json.loads, runs.stdout)
        whole = next(lines, {"outcome": "no answer", "by": ""})
        if whole["outcome"] != SURVIVED:
            raise SystemExit(f"{name}: the tests of the unchanged code fail: {whole}")
        print(f"{name}: the tests take {whole['cpu_s']} s of a processor", flush=True)
        with results.open("w") as report:
            for mutant in mutants:
                outcome = known.get(mutant["diff"])
                found: dict[str, Any] = {"outcome": outcome, "by": "", "cpu_s": 0.0} if outcome else next(lines)
                print(json.dumps(found | {"diff": mutant["diff"]}), file=report, flush=True)
                yield Mutant(mutant["path"], mutant["diff"], found["outcome"])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=40, help="mutants of each group of modules")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="only those that were not killed in the run before")
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
        found = []
        for mutant in run(name, tree, options.sample, random.Random(f"{options.seed} {name}"), tools, options.again):
            found.append(mutant)
            if mutant.outcome not in NOTICED and not mutant.is_equivalent:
                print(f"  {mutant.outcome}: {mutant.module}: {' | '.join(mutant.changed)}", flush=True)
        counted = [mutant for mutant in found if not mutant.is_equivalent and mutant.outcome != UNDECIDED]
        tally = Counter(mutant.outcome for mutant in counted)
        share = 100 * (tally[KILLED] + tally[ENDLESS]) / max(1, len(counted))
        print(
            f"{name}: {tally[KILLED] + tally[ENDLESS]} of {len(counted)} killed ({share:.0f} %), {tally[ENDLESS]} of "
            f"them caught in a loop; {sum(mutant.is_equivalent for mutant in found)} equivalent, "
            f"{sum(mutant.outcome == UNDECIDED for mutant in found)} undecided"
        )
        if share < options.least:
            wanting.append(name)
    if wanting:
        print(f"below {options.least:g} %: {', '.join(wanting)}")
    return 1 if wanting else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
