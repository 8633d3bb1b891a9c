"""deploy/Dockerfile and .dockerignore, without Docker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Dockerfile"
INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE)).splitlines()
    if line.strip()
]


def said(name: str) -> list[str]:
    """The arguments of all instructions of this name."""
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction == name]


def test_hadolint_has_nothing_to_say() -> None:
    found = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    assert found, "it is in the extra 'dev'"
    done = subprocess.run([found, str(FILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_foreshock_as_nobody_in_particular() -> None:
    """A numeric user: Kubernetes can only tell of a number that it is not root."""
    assert said("USER")[-1] == "10001:10001"
    assert said("ENTRYPOINT") == ['["foreshock"]']


def test_the_base_is_pinned() -> None:
    assert re.fullmatch(r"PYTHON=3\.12\.\d+-slim-\w+", said("ARG")[0])
    assert [line.split()[0] for line in said("FROM")] == ["python:${PYTHON}"] * 2


def test_all_that_is_copied_is_there_and_is_let_through() -> None:
    """And it is all that a wheel is made of."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored, "what is not named stays out"
    copied = [word for line in said("COPY") if "--from" not in line for word in line.split()[:-1]]
    for source in copied:
        assert f"!{source}" in ignored, source
        assert list(ROOT.glob(source)) or "*" in source, source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} <= {
        *copied
    }


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server whose /health says so; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def health_check(port: int) -> int:
    """The exit code of the image's own health check, told another port."""
    python, *arguments = json.loads(said("HEALTHCHECK")[0].partition("CMD")[2])
    assert python == "python", "there is no curl in a slim image"
    assert "6066" in arguments[-1] and said("EXPOSE") == ["6066"]
    arguments[-1] = arguments[-1].replace("6066", str(port))
    return subprocess.run([sys.executable, *arguments], stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_follows_the_workers_word(status: int, code: int) -> None:
    with answering(status) as port:
        assert health_check(port) == code


def test_the_health_check_fails_when_nobody_listens() -> None:
    with answering(200) as port:
        pass
    assert health_check(port) == 1
