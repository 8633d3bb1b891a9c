"""`python -m tests.mutant_runs JOBS TESTS...`, in a copy of the checkout: whether the tests notice each mutant.

JOBS is a file with a JSON line per mutant: `path`, `code`. The first line of the output is of the unchanged code, then
one follows for every mutant: `outcome`, `by` (the test that failed), `cpu_s`. Libraries are imported once: every run is
a fork of this process, and only the project's own modules are imported anew. So a run costs little more than its tests.

The limit is processor time, not time by the clock, so a busy machine kills nothing: a mutant is `endless` if a test
takes ten times as long as with the unchanged code, and ten seconds. Only what waits without end is `undecided`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

KILLED, ENDLESS, SURVIVED, UNDECIDED = "killed", "endless", "survived", "undecided"
OWN = ("streams", "agents", "tests", "bench", "deploy", "demo", "examples")
ENDLESS_TIMES = 10
LEAST_CPU_S = 10.0
MOST_BY_CLOCK_S = 1_200.0
MOST_BYTES = 6 << 30
MOST_EXAMPLES = 30
POLL_S = 0.05
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=unshrunk", "--timeout=0", "--no-header")


@dataclass
class Order:
    """What is known of the tests: first come those that kill most for the time that they take."""

    seconds: dict[str, float] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def key(self, name: str) -> tuple[float, float]:
        file = name.partition("::")[0]
        of_file = [other for other in self.seconds if other.startswith(file)]
        return -self._rate(of_file), -self._rate([name])

    def _rate(self, names: Sequence[str]) -> float:
        kills, seconds = sum(self.kills[name] for name in names), sum(self.seconds.get(name, 0.0) for name in names)
        return (kills + 0.5) / (seconds + 0.1)


class Watcher:
    """A pytest plugin: puts tests into their order, notes their processor time, and which one failed."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.seconds: dict[str, float] = {}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            _draw_less(item)
        if self._order.seconds:
            items.sort(key=lambda item: self._order.key(item.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        began = time.process_time()
        limit_s = max(LEAST_CPU_S, ENDLESS_TIMES * self._order.seconds[item.nodeid]) if self._order.seconds else 0.0
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # its signal ends the process
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            self.seconds[item.nodeid] = time.process_time() - began

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def _draw_less(item: pytest.Item) -> None:
    """Lets a law draw no more than MOST_EXAMPLES: what fails then fails with more, too."""
    law = getattr(item, "obj", None)
    drawn: settings | None = getattr(law, "_hypothesis_internal_use_settings", None)
    if drawn is not None and drawn.max_examples > MOST_EXAMPLES:
        law = getattr(law, "__func__", law)
        setattr(law, "_hypothesis_internal_use_settings", settings(drawn, max_examples=MOST_EXAMPLES))  # noqa: B010


def third_party() -> list[str]:
    """The modules that are not the project's own and that its modules import."""
    read, write = os.pipe()
    if not os.fork():
        for name in ("streams", "agents"):
            for path in sorted(Path(name).rglob("*.py")):
                importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
        names = [name for name in sys.modules if name.partition(".")[0] not in (*OWN, "__main__")]
        os.write(write, json.dumps(names).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return list(json.load(pipe))


def forked(task: Callable[[], tuple[int, Any]]) -> tuple[str, Any, float]:
    """Runs the task in a process of its own; gives what became of it, what it says, and its processor time."""
    said = Path(f"mutant-run.{os.getpid()}.json")
    said.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        signal.setitimer(signal.ITIMER_PROF, 6 * LEAST_CPU_S)  # to collect the tests
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
        silent = os.open("mutant-run.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        code = 3
        try:
            code, what = task()
            said.write_text(json.dumps(what))
        finally:
            os._exit(code)
    until, status = time.monotonic() + MOST_BY_CLOCK_S, None
    while status is None and time.monotonic() < until:
        done, found, usage = os.wait4(child, os.WNOHANG)
        if done:
            status = found
        else:
            time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # also what it has started and not ended
    if status is None:
        os.wait4(child, 0)
        return UNDECIDED, None, 0.0
    outcome = SURVIVED if status == 0 else KILLED
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        outcome = ENDLESS
    return outcome, json.loads(said.read_text()) if said.exists() else None, usage.ru_utime + usage.ru_stime


def tested(tests: Sequence[str], order: Order) -> tuple[int, Any]:
    watcher = Watcher(order)
    code = pytest.main([*OPTIONS, *tests], plugins=[watcher])
    return int(code), {"by": watcher.failed, "seconds": watcher.seconds}


def of_mutant(path: Path, code: str, task: Callable[[], tuple[int, Any]]) -> tuple[str, Any, float]:
    """The same of a mutant, whose file is as before afterwards."""
    before, times = path.read_bytes(), path.stat()
    try:
        path.write_text(code)
        os.utime(path, (times.st_atime, times.st_mtime + 100))  # what was compiled before is not taken for it
        return forked(task)
    finally:
        path.write_bytes(before)
        os.utime(path, (times.st_atime, times.st_mtime))


def say(outcome: str, said: Any, cpu_s: float) -> None:
    print(json.dumps({"outcome": outcome, "by": (said or {}).get("by", ""), "cpu_s": round(cpu_s, 1)}), flush=True)


def main(jobs: Path, tests: Sequence[str]) -> int:
    sys.path.insert(0, os.getcwd())
    os.environ["PYTHONPATH"] = os.getcwd()
    for name in third_party():
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # a module that its package makes as it is imported
    order = Order()
    outcome, said, whole_s = forked(lambda: tested(tests, order))
    say(outcome, said, whole_s)
    if outcome != SURVIVED:
        return 1
    order.seconds = said["seconds"]
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for line in jobs.read_text().splitlines():
        job = json.loads(line)
        outcome, said, cpu_s = of_mutant(Path(job["path"]), job["code"], lambda: tested(tests, order))
        if outcome == KILLED and said and said["by"]:
            order.kills[said["by"]] += 1
        say(outcome, said, cpu_s)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
