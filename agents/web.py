"""A registry of metrics and a word on our health → what Prometheus, Kubernetes and a person get over HTTP.

Whoever asks too much gets less: connections are few and short (`agents.front`), and a page of metrics is made once for
all who ask at the same time (`agents.page`). `/health` costs next to nothing, and is answered whatever the others do.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from mode import Service
from prometheus_client import CollectorRegistry

from agents.front import HEAD_WITHIN_S, WHOLE_WITHIN_S, Front, connection_limit
from agents.page import MetricsPage
from streams.errors import ForeshockError
from streams.text import html_text, plain

log = logging.getLogger(__name__)

Health = Callable[[], tuple[bool, dict[str, Any]]]
Readiness = Callable[[], str]
"""Why it is not ready; empty when it is."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN = ("/health", "/ready")
"""What needs no token."""
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
STOP_WITHIN_S = 3.0
MAX_LOGGED = 200
"""Characters of why a request was refused."""
CHUNK_BYTES = 65_536
"""So much of a page waits for each client that reads slowly."""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1>
<ul>{links}</ul>
"""


class _Requests(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's log of requests, in which one that is no HTTP is a line: a scanner of ports is no error of ours."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **more: Any) -> None:
        """As of a logger, with a traceback only for what no client can cause."""
        if isinstance(exc_info, HttpProcessingError):
            self.warning("pages: refused with %d: %s", exc_info.code, exc_info.message[:MAX_LOGGED])
        else:
            super().exception(msg, *args, exc_info=exc_info, **more)


class Web(Service):
    """Serves `/metrics`, `/health`, `/ready` and an index page. `port` 0 takes a free one; `url` tells which.

    `health()` → (healthy, what else to tell), and `ready()` → why not: 200 or 503. `token`: what everything must come
    with, as `Authorization: Bearer …`. Without it there is but the status of these two. ForeshockError when it can't
    listen. `head_within_s`, `whole_within_s`: seconds for the head of a request, and for all of it with its answer.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        ready: Readiness = lambda: "",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        title: str = "Foreshock",
        head_within_s: float = HEAD_WITHIN_S,
        whole_within_s: float = WHOLE_WITHIN_S,
        **service: Any,
    ) -> None:
        super().__init__(**service)
        self.host = host
        self.port = port
        self.page = MetricsPage(registry)
        self._within_s = {"head_within_s": head_within_s, "whole_within_s": whole_within_s}
        self._health = health
        self._ready = ready
        self._token = token
        self._title = title
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._front: Front | None = None

    @property
    def url(self) -> str:
        """Where it listens, once it is started: http://host:port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def on_start(self) -> None:
        """Listen."""
        app = web.Application(middlewares=[self._guard])
        app.add_routes([web.get(path, handler) for path, handler in self._routes().items()])
        self._runner = runner = web.AppRunner(
            app, access_log=None, logger=_Requests(log), shutdown_timeout=STOP_WITHIN_S
        )
        await runner.setup()
        assert runner.server is not None
        self._front = Front(runner.server, limit=connection_limit(), **self._within_s)
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._front, self.host, self.port, backlog=512)
        except OSError as error:
            await runner.cleanup()
            raise ForeshockError(
                place=f"web, {self.host}:{self.port}",
                seen=error.strerror or str(error),
                mend="end what listens there, or choose another port (0: any that is free)",
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def on_stop(self) -> None:
        """Listen no more."""
        if self._server is not None and self._front is not None:
            self._server.close()
            self._front.close()
        self.page.close()
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
            headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
            return web.Response(status=401, text="a bearer token is needed\n", headers=headers)
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            error.force_close()
            raise
        answer.force_close()  # one request a connection: none is held in between
        return answer

    def _may(self, request: web.Request) -> bool:
        """Whether no token is wanted, or it came with one. (The time of the comparison tells nothing of it.)"""
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token.encode())
        return same and scheme.lower() == "bearer"

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        page = await self.page.get()
        answer = web.StreamResponse(headers={"Content-Type": PROMETHEUS_TEXT})
        answer.content_length = len(page)
        answer.force_close()
        try:
            await answer.prepare(request)
            for start in range(0, len(page), CHUNK_BYTES):
                await answer.write(page[start : start + CHUNK_BYTES])
            await answer.write_eof()
        except ConnectionError:  # whoever asked has gone, or read too slowly
            return web.Response(status=499)
        return answer

    async def _tell_health(self, request: web.Request) -> web.Response:
        healthy, told = self._health()
        details = told if self._may(request) else {}
        body = json.dumps({"status": "ok" if healthy else "failing", **details}, default=str)
        return web.Response(status=200 if healthy else 503, text=body, content_type="application/json")

    async def _tell_ready(self, request: web.Request) -> web.Response:
        reason = self._ready()
        told = f"not ready: {plain(reason)}\n" if self._may(request) else "not ready\n"
        return web.Response(status=503 if reason else 200, text=told if reason else "ready\n")

    async def _index(self, request: web.Request) -> web.Response:
        title = html_text(self._title)
        links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in self._routes() if path != "/")
        return web.Response(text=PAGE.format(title=title, links=links), content_type="text/html")
