"""Addresses that Foreshock calls or listens at: whether they are valid, and whether an action may be sent there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from streams.errors import ConfigError

_HOST = re.compile(rb"[A-Za-z0-9_.-]{1,253}")
_PORT = re.compile(r"[0-9]{1,5}")


def check_address(url: str, hosts: Iterable[str]) -> str:
    """The address, if it may be called.

    Raises:
        ConfigError: if it is no URL, its host is not among `hosts` (if there are any), or it is neither https, nor on
            loopback, nor to one of `hosts`: a signature does not hide the content of an action.
    """
    allowed = tuple(hosts)
    try:
        parts = urlsplit(url)
        sound = is_host(parts.hostname or "") and parts.port != 0
    except ValueError:  # of brackets that do not close, or a port beyond 65535
        parts, sound = urlsplit(""), False
    host = parts.hostname or ""
    if not sound or parts.scheme not in ("http", "https") or parts.username or parts.password:
        raise ConfigError(
            place="--url", seen=repr(url)[:100], expected="https://host/path, without a password", mend="correct it"
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


def is_host(text: str) -> bool:
    """Whether a resolver can be asked for it: an IP address, or a name whose labels are neither empty nor too long."""
    try:
        ip_address(text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text)
        return True
    except ValueError:
        pass
    try:
        return _HOST.fullmatch(text.encode("idna")) is not None
    except UnicodeError:
        return False


def is_port(text: str) -> bool:
    """Whether the text is a port number, 0 included."""
    return _PORT.fullmatch(text) is not None and int(text) < 65_536


def is_loopback(host: str) -> bool:
    """Whether only this machine can be there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
