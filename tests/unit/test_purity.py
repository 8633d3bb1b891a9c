"""The architecture, by the syntax tree: the pure core stays pure, and imports run from agents to streams."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STREAMS = sorted((ROOT / "streams").rglob("*.py"))
AGENTS = sorted((ROOT / "agents").rglob("*.py"))

IMPURE_MODULES = {
    *("agents", "faust", "mode", "aiokafka", "kafka", "prometheus_client", "aiohttp", "rocksdict", "rich", "click"),
    *("asyncio", "threading", "multiprocessing", "concurrent", "subprocess", "socket", "ssl", "signal", "select"),
    *("time", "random", "secrets", "uuid", "os", "sys", "pathlib", "io", "tempfile", "shutil", "glob", "logging"),
}
"""What reads a clock, the environment, a file, the network, or draws at random."""
IMPURE_CALLS = {
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.monotonic"),
    *("np.random", "numpy.random", "open", "input", "print", "exec", "eval"),
}
WIRING = {"app", "cli", "demo", "__main__"}
"""The only modules of the shell that may know all of its parts."""
ONLOOKERS = {"exporter"}
"""They read what the stages have done, at scrape time."""
AGENT_MODULES = {"sketch", "merge", "outcome", "decide", "health", "join"}
"""Stages: they know each other only through topics and channels."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def impurities(source: str) -> list[str]:
    tree = ast.parse(source)
    found = [name for name in imported(tree) if name.partition(".")[0] in IMPURE_MODULES or name.startswith(".")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Attribute):
            name = dotted(node.func if isinstance(node, ast.Call) else node)
            if any(f".{name}".endswith(f".{call}") for call in IMPURE_CALLS if "." in call):
                found.append(name)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(node.func.id)
        if isinstance(node, ast.Global | ast.AsyncFunctionDef | ast.Await):
            found.append(type(node).__name__)
    return found


def part_of(path: Path) -> str:
    """The module or package right under `agents`."""
    return path.relative_to(ROOT / "agents").with_suffix("").parts[0]


def module_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", STREAMS, ids=module_name)
def test_the_core_reads_no_clock_no_file_no_network_and_draws_nothing(path: Path) -> None:
    assert impurities(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", STREAMS, ids=module_name)
def test_the_first_line_of_a_module_is_its_contract(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not source.strip() or ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path",
        "from agents import cli",
        "from agents.merge import MergeStage",
        "def f():\n    import faust",
        "from datetime import datetime\nx = datetime.now()",
        "import datetime\nx = datetime.datetime.utcnow()",
        "import numpy as np\nx = np.random.default_rng()",
        "f = open('x')",
        "print('x')",
        "from . import config",
        "async def f(): pass",
    ],
)
def test_what_is_not_pure_is_found(source: str) -> None:
    """Guards the test above."""
    assert impurities(source)


@pytest.mark.parametrize(
    "source", ["import datetime", "from datetime import datetime, UTC", "x.opened()", "now_ms = 3"]
)
def test_what_is_pure_passes(source: str) -> None:
    assert impurities(source) == []


def test_the_core_has_no_cycle_of_imports() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in STREAMS}
    needs = {
        name: {found for found in imported(ast.parse(path.read_text(encoding="utf-8"))) if found in names}
        for name, path in names.items()
    }
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in order:
            for need in sorted(needs[name]):
                visit(need, (*path, name))
            order.append(name)

    for name in names:
        visit(name, ())
    assert len(order) == len(names)


@pytest.mark.parametrize("path", [path for path in AGENTS if part_of(path) in AGENT_MODULES], ids=module_name)
def test_stages_of_the_shell_do_not_know_each_other(path: Path) -> None:
    """They share small parts (clients, publishing), but no stage reaches into another's state."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    reached = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if node.module.startswith("agents.")
        and node.module.partition(".")[2] in AGENT_MODULES - {path.stem}
        and alias.name.endswith("Stage")
    ]
    assert reached == []


def test_only_the_wiring_knows_the_stages() -> None:
    for path in AGENTS:
        if part_of(path) in WIRING | ONLOOKERS | AGENT_MODULES or path.stem == "__init__":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = {name.partition(".")[2] for name in imported(tree) if name.startswith("agents.")}
        assert not known & (AGENT_MODULES | WIRING), path.name


def test_every_file_was_looked_at() -> None:
    assert len(STREAMS) > 30
    assert {"app", "cli", "sketch", "merge"} <= {part_of(path) for path in AGENTS}
    assert all(one != two for one, two in pairwise(STREAMS))
