"""Debian's Chromium without a window, steered over its own protocol (DevTools), and axe-core to hold pages to WCAG."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from deploy.check_prometheus import tool
from deploy.kafka_files import cache_folder

WITHIN_S = 60.0
AXE = "axe-playwright-python==0.1.8"
"""A wheel that axe-core 4.12.1 comes in; of its own code nothing is used, so its dependencies are not installed."""


def axe_source() -> str:
    """The script of axe-core, fetched once."""
    folder = cache_folder() / "axe"
    script = folder / f"{AXE}.js"
    if not script.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), AXE]
        subprocess.run(command, check=True, capture_output=True)
        (wheel,) = folder.glob("axe_playwright_python-*.whl")
        with zipfile.ZipFile(wheel) as files:
            script.write_bytes(files.read("axe_playwright_python/axe.min.js"))
    return script.read_text(encoding="utf-8")


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(WITHIN_S):
            while True:
                answer = await self._socket.receive_json()
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]

    async def open(self, file: Path, width: int, *, media: str = "screen", scheme: str = "light") -> None:
        """A file at a width in CSS pixels, laid out for a medium, in light or dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", media=media, features=features)
        await self.call("Page.enable")
        await self.call("Page.navigate", url=file.as_uri())
        await self.ask("document.readyState == 'complete' || new Promise(done => addEventListener('load', done))")

    async def ask(self, script: str) -> Any:
        """What an expression is, waited for if it is a promise."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def violations(self) -> list[str]:
        """What axe finds against WCAG 2.0, 2.1 and 2.2, levels A and AA."""
        await self.ask(axe_source() + ";0")
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
        found = await self.ask(f"axe.run({{runOnly: {tags}}})")
        return [f"{rule['id']}: {node['html'][:200]}" for rule in found["violations"] for node in rule["nodes"]]

    async def screenshot(self, file: Path) -> None:
        """The whole page."""
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    async def pdf(self, file: Path) -> None:
        """As it comes out of a printer, on A4."""
        found = await self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(found["data"]))


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """A tab of a browser that keeps what it writes in a folder."""
    command = [
        tool("chromium", "chromium"),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession() as client:
                address = await _address(folder)
                async with client.get(f"http://127.0.0.1:{address}/json/list") as answer:
                    (tab, *_) = [found for found in await answer.json() if found["type"] == "page"]
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket,
            ):
                yield Page(socket)
        finally:
            process.terminate()


async def _address(folder: Path) -> int:
    """The port, which Chromium writes down when it listens."""
    while True:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((folder / "DevToolsActivePort").read_text().splitlines()[0])
        await asyncio.sleep(0.05)
