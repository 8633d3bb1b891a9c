"""Planted secrets, a password, a token and a key: no log, page, record or report of any command has one of them."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from agents import topics
from agents.loader import Records, read_to_end
from tests.embedded.conftest import until
from tests.faults.harness import WorkerProcess
from tests.kafka.secured import PLAIN_PASSWORD, SCRAM_PASSWORD, Secured
from tests.kafka.test_acls import ACLS, Site

PAGES_TOKEN, HOOK_KEY = "planted-pages-55e0", "planted-hook-key-8b21"
WITHIN_S = 60.0
MINUTES = 16
"""Until a rule fires, without the end of the stream."""
COMMANDS = {
    "actions": ("--json",),
    "ledger": (),
    "report": ("--cadence", "monthly", "-o"),
    "ack": ("a" * 32, "--status", "seen", "--by", "somebody", "--force"),
}


def planted() -> Iterator[bytes]:
    for secret in (SCRAM_PASSWORD, PLAIN_PASSWORD, PAGES_TOKEN, HOOK_KEY):
        yield secret.encode()
        yield base64.b64encode(secret.encode()).rstrip(b"=")


@pytest.fixture(scope="module")
def site(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Topics full of events, one of them none; every component has its own configuration, with the secrets in files."""
    made = Site(secured, tmp_path_factory.mktemp("planted"))
    for user, acls in ACLS.items():
        made.allow(user, acls)
    pages, hook = made.folder / "pages", made.folder / "hook"
    pages.write_text(PAGES_TOKEN + "\n")
    hook.write_text(HOOK_KEY + "\n")
    config = made.config("worker")
    config.write_text(config.read_text().replace("web:\n", f"web:\n  token_file: '{pages}'\n", 1))
    asyncio.run(made.fill(MINUTES, b"no event"))
    return made


def page(worker: WorkerProcess, path: str, token: str) -> bytes:
    url = worker.said.split("metrics at ")[1].split("/metrics")[0]
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        return bytes(error.read())


async def everything(site: Site) -> list[bytes]:
    """All that was written to Kafka by ours: keys, values and headers."""
    found: list[bytes] = []

    def take(records: Records) -> None:
        for record in records:
            found.extend(part for part in (record.key, record.value) if part)
            found.extend(value for _, value in record.headers if value)

    for name in (row.name for row in topics.TOPICS):
        topic = site.operator.topic(name)
        await read_to_end(
            site.operator, topic, range(await topics.find(site.operator, topic) or 0), take, deadline_s=WITHIN_S
        )
    return found


def command(site: Site, name: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "agents", name, "-c", str(site.config(name)), *options]


async def heard_by_a_webhook(site: Site) -> list[bytes]:
    """What the receiver of a webhook gets, and what the webhook says."""
    heard: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        heard.extend((await request.read(), repr([*request.headers.items(), str(request.url)]).encode()))
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/hook", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    to = command(site, "webhook", "--url", url, "--secret-file", str(site.folder / "hook"))
    process = await asyncio.create_subprocess_exec(*to, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        await until(lambda: heard, WITHIN_S)
    finally:
        process.terminate()
        said, _ = await process.communicate()
        await runner.cleanup()
    return [*heard, said]


def test_no_output_tells_a_secret(site: Site, tmp_path: Path) -> None:
    """At its most talkative, whether all is well or somebody comes with a wrong token."""
    found: dict[str, list[bytes]] = {}
    with WorkerProcess(site.config("worker"), site.secured.sasl, "--verbose") as worker:
        worker.until(lambda: "metrics at " in worker.said)
        worker.until(lambda: any(b'"firing"' in part for part in asyncio.run(everything(site))))
        pages = [page(worker, path, PAGES_TOKEN) for path in ("/metrics", "/health", "/ready", "/nothing")]
        assert b"foreshock_records_total" in pages[0]
        found["pages"] = [*pages, page(worker, "/metrics", "wrong")]
        worker.until(lambda: any(b"no event" in part for part in asyncio.run(everything(site))))
        assert worker.terminate() == 0
        found["the worker's log"] = [worker.said.encode()]
    found["the webhook"] = asyncio.run(heard_by_a_webhook(site))
    for name, options in COMMANDS.items():
        given = (*options, str(tmp_path / "report")) if name == "report" else options
        done = subprocess.run(command(site, name, *given), capture_output=True, timeout=WITHIN_S)
        assert done.returncode == 0, done.stderr
        found[name] = [done.stdout, done.stderr]
    found["reports"] = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    found["topics"] = asyncio.run(everything(site))
    assert all(any(part) for part in found.values()), "each of them says something"
    told = [
        (place, secret) for place, parts in found.items() for secret in planted() if any(secret in p for p in parts)
    ]
    assert not told
