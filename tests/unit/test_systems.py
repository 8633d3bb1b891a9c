"""Commands over files run where there is no POSIX system and no store; the worker says in one line that it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
WINDOWS = """
import asyncio, gzip, importlib, os, random, runpy, shutil, socket, subprocess, sys, tempfile  # as they are on Linux

ABSENT = {"fcntl", "resource", "pwd", "grp", "termios", "rocksdict", "faust", "mode"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ABSENT:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
import aiokafka, click, msgspec, numpy, scipy.special, scipy.stats, yaml, zlib  # which have wheels for Windows
sys.platform = "win32"
from agents.cli import main
main()
"""
"""The command line where what POSIX alone has, and what the worker alone needs, cannot be imported."""


def foreshock(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WINDOWS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="cp1252", env=environment, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference data, in a folder whose name no code page has."""
    folder = tmp_path_factory.mktemp("模型 ≥")
    events = (
        {"event_id": f"e{i}", "ts": 1_767_571_200_000 + i * 1_000, "model": "zażółć", "features": {"age": i % 50}}
        for i in range(2_000)
    )
    (folder / "reference.ndjson").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return folder


def test_what_works_on_files_runs_without_a_posix_system(folder: Path) -> None:
    config, reference = folder / "config" / "foreshock.yaml", folder / "reference.ndjson"
    runs = [
        ("init", reference, "--model", "zażółć", "-o", config.parent),
        ("check", "-c", config),
        ("backtest", "-c", config, "--events", reference, "-o", folder / "results"),
        ("ledger", "-c", config, "--from", folder / "results"),
        ("report", "-c", config, "--cadence", "daily", "--from", folder / "results", "-o", folder / "pages"),
    ]
    for run in runs:
        done = foreshock(*run)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (run[0], done.stderr[-2_000:])
    assert list((folder / "pages").glob("*.html")) and (folder / "results" / "report.html").exists()


def test_a_worker_says_where_it_runs(folder: Path) -> None:
    done = foreshock("worker", "-c", folder / "config" / "foreshock.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a worker on Windows; expected Linux or macOS" in done.stderr


def test_so_does_the_demo() -> None:
    done = foreshock("demo")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "Windows" in done.stderr
