"""Our incidents in a real Alertmanager: they rise, stay over a restart, and clear.

Not collected by itself, for it installs Debian's Alertmanager:

    python -m pytest tests/deploy/alertmanager_check.py
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import topics
from agents.alertmanager import run
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.replay import generate
from deploy.check_prometheus import free_port, tool
from streams.action import Action
from tests.actions import action

CONFIG = "route: {receiver: none}\nreceivers: [{name: none}]\n"


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "alertmanager.yml").write_text(CONFIG, encoding="utf-8")
    port = free_port()
    command = [
        tool("prometheus-alertmanager", "prometheus-alertmanager"),
        f"--config.file={tmp_path / 'alertmanager.yml'}",
        f"--storage.path={tmp_path}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def shown(url: str) -> set[str]:
    """The alerts that are active."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api/v2/alerts?active=true", timeout=5) as answer:
        alerts: list[dict[str, Any]] = json.load(answer)
        return {found["labels"]["alertname"] for found in alerts}
    return {"no answer"}


@asynccontextmanager
async def telling(to: Connection, url: str) -> AsyncIterator[None]:
    task = asyncio.create_task(run(to, url, {}))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_alerts_rise_with_incidents_outlive_a_restart_and_clear(alertmanager: str) -> None:
    async def sees(*names: str) -> None:
        for _ in range(200):
            if await asyncio.to_thread(shown, alertmanager) == set(names):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{shown(alertmanager)} instead of {names}")

    async def main() -> None:
        async with EmbeddedBroker() as broker:
            to = broker.connection()

            async def publish(*actions: Action) -> None:
                await generate(to, "actions", [(b"m", msgspec.json.encode(item)) for item in actions])

            await topics.create(to, "actions", 1)
            await publish(action("f", 1, "before"), action("r", 2, "before"))
            async with telling(to, alertmanager):
                await publish(action("f", 3), action("s", 3, "held"))
                await sees("nulls")
                await publish(action("f", 4, "other"))
                await sees("nulls", "other")
            async with telling(to, alertmanager):
                await publish(action("r", 5))
                await sees("other")
                await publish(action("l", 6, "held"))
                await sees("other", "held")

    asyncio.run(main())
