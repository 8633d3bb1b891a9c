"""Configuration and arguments → where /metrics and /health answer, and with which token."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.address import is_host, is_loopback, is_port
from agents.secret import secret
from streams.config import Config
from streams.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """Where /metrics and /health answer; `port` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)


def web_options(config: Config, listen: str | None, is_open: bool = False) -> WebOptions:
    """The options of the pages. `listen`: instead of the configuration's address.

    Raises:
        ConfigError: where strangers could read them and nobody has said that they may.
    """
    host, port = listen_address(listen or config.web.listen)
    token = _token(config)
    if token is None and not (is_open or config.web.open) and not is_loopback(host):
        raise ConfigError(
            place="web",
            seen=f"{host}, which is not loopback, and no token",
            expected="web.token_file or web.token_env",
            mend="name one, listen on 127.0.0.1, or say --open if anybody in reach may read",
        )
    return WebOptions(host=host, port=port, token=token)


def listen_address(text: str) -> tuple[str, int]:
    """Host and port. ConfigError where it is not host:port."""
    host, _, port = text.rpartition(":")
    if not is_host(host) or not is_port(port):
        raise ConfigError(seen=f"listen address {text[:100]!r}", expected="host:port", mend="such as 127.0.0.1:6066")
    return host.strip("[]"), int(port)


def _token(config: Config) -> str | None:
    web = config.web
    if web.token_env and web.token_file:
        raise ConfigError(place="web", seen="token_env and token_file", expected="one of them", mend="leave one out")
    options = {"web.token_env": web.token_env, "web.token_file": web.token_file}
    return secret(options) if any(options.values()) else None
