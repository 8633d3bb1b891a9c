"""A registry of metrics and a word on our health → what Prometheus, Kubernetes and a person get over HTTP."""

from __future__ import annotations

import hmac
import html
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from mode import Service
from prometheus_client import CollectorRegistry, generate_latest

from streams.errors import ForeshockError

Health = Callable[[], tuple[bool, dict[str, Any]]]
Readiness = Callable[[], bool]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN = ("/health", "/ready")
"""What needs no token."""
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
STOP_WITHIN_S = 3.0
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1>
<ul>{links}</ul>
"""


class Web(Service):
    """Serves `/metrics`, `/health`, `/ready` and an index page. `port` 0 takes a free one; `url` tells which.

    `health()` → (healthy, what else to tell), and `ready()`: 200 or 503. `token`: what everything must come with, as
    `Authorization: Bearer …`. Without it there is but the status of these two. ForeshockError when it can't listen.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        ready: Readiness = lambda: True,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        title: str = "Foreshock",
        **service: Any,
    ) -> None:
        super().__init__(**service)
        self.host = host
        self.port = port
        self._registry = registry
        self._health = health
        self._ready = ready
        self._token = token
        self._title = title
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens, once it is started: http://host:port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def on_start(self) -> None:
        """Listen."""
        app = web.Application(middlewares=[self._guard])
        app.add_routes([web.get(path, handler) for path, handler in self._routes().items()])
        self._runner = runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_WITHIN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as error:
            await runner.cleanup()
            raise ForeshockError(
                place=f"web, {self.host}:{self.port}",
                seen=error.strerror or str(error),
                mend="end what listens there, or choose another port (0: any that is free)",
            ) from None
        self.port = runner.addresses[0][1]

    async def on_stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _routes(self) -> dict[str, Handler]:
        return {
            "/": self._index,
            "/metrics": self._metrics,
            "/health": self._tell_health,
            "/ready": self._tell_ready,
        }

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN and not self._may(request):
            return web.Response(status=401, text="a bearer token is needed\n", headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    def _may(self, request: web.Request) -> bool:
        """Whether no token is wanted, or it came with one. (The time of the comparison tells nothing of it.)"""
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token.encode())
        return same and scheme.lower() == "bearer"

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": PROMETHEUS_TEXT})

    async def _tell_health(self, request: web.Request) -> web.Response:
        healthy, told = self._health()
        details = told if self._may(request) else {}
        body = json.dumps({"status": "ok" if healthy else "failing", **details}, default=str)
        return web.Response(status=200 if healthy else 503, text=body, content_type="application/json")

    async def _tell_ready(self, request: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not yet\n")

    async def _index(self, request: web.Request) -> web.Response:
        title = html.escape(self._title)
        links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in self._routes() if path != "/")
        return web.Response(text=PAGE.format(title=title, links=links), content_type="text/html")
