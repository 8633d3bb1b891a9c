"""Addresses that we call: where what an action says may go."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from streams.errors import ConfigError


def check_address(url: str, hosts: Iterable[str]) -> str:
    """The address, if it may be called.

    Raises:
        ConfigError: if it is no URL, its host is not among `hosts` (where there are any), or it is neither https, nor
            on loopback, nor to one of `hosts`: a signature does not hide what an action says.
    """
    parts, allowed = urlsplit(url), tuple(hosts)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        raise ConfigError(
            place="--url", seen=repr(url), expected="https://host/path, without a password", mend="correct it"
        )
    if parts.scheme == "http" and not is_loopback(host) and host not in allowed:
        raise ConfigError(
            place="--url", seen=f"http to {host}", expected="https, or http on loopback", mend="use https"
        )
    if allowed and host not in allowed:
        raise ConfigError(
            place="--url",
            seen=f"the host {host}",
            expected="one of " + ", ".join(allowed),
            mend="allow it, or correct it",
        )
    return url


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine is there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
