"""Address and credentials of Kafka → clients: every client of Foreshock is made here."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.metadata import MetadataRequest

from agents import patches
from agents.address import is_host, is_port
from agents.clock import Seldom as Seldom
from agents.reading import MAX_SECRET_BYTES, read_bytes
from agents.refusals import AdvertisedUnreachable, is_final, refusal
from streams.errors import BrokerAway, BrokerError, ConfigError

patches.apply()

MIB = 1 << 20

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")

PROBE_MS = 5_000
"""Time for a server's answer, while looking for the reason of a failed connection."""

UNREACHED = (KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError, TimeoutError)
"""What aiokafka raises when it did not reach a broker, for whatever reason."""

MAX_MESSAGE_BYTES = 16 * MIB
"""The largest batch of records that our topics accept."""
MAX_RECORD_BYTES = MAX_MESSAGE_BYTES - 1024
"""The largest record that our producers send: it has to fit, with the head of its batch."""
# A batch that Kafka refuses takes a sequence number with it: from then on an idempotent producer of aiokafka gets
# OutOfOrderSequenceNumber for that partition. So whatever passes the producer's own check must fit into the topic.

CONSUMER: dict[str, Any] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "partition_assignment_strategy": (RangePartitionAssignor,),  # co-partitioned topics go to the same member
    "fetch_min_bytes": 1,
    "fetch_max_wait_ms": 100,
    "max_partition_fetch_bytes": 2 * MIB,
    "fetch_max_bytes": 16 * MIB,  # of one answer, unless a single batch is larger
    "metadata_max_age_ms": 30_000,  # how soon added partitions are noticed
    "request_timeout_ms": 40_000,  # above the rebalance timeout: a join waits that long for the slowest member
}
PRODUCER: dict[str, Any] = {
    "acks": "all",
    "linger_ms": 2,
    "max_batch_size": MIB // 2,  # below the 1 MiB that a topic takes at Kafka's own default
    "max_request_size": MAX_RECORD_BYTES,
    "metadata_max_age_ms": 30_000,
}
SESSION: dict[str, Any] = {
    "session_timeout_ms": 10_000,
    "heartbeat_interval_ms": 3_000,
    "rebalance_timeout_ms": 30_000,
    "max_poll_interval_ms": 300_000,
}
EMBEDDED_SESSION: dict[str, Any] = {  # the embedded broker's first join waits for the session timeout
    **SESSION,
    "session_timeout_ms": 3_000,
    "heartbeat_interval_ms": 1_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How a client authenticates. Secrets are read when a client is made, from an environment variable or a file."""

    protocol: str = "PLAINTEXT"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    sasl_mechanism: str | None = None
    username: str | None = None
    password_env: str | None = None
    password_file: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise _unusable("protocol", self.protocol, f"one of {', '.join(PROTOCOLS)}")
        self._refuse_unused()
        if self.is_sasl and self.sasl_mechanism not in MECHANISMS:
            raise _unusable("sasl_mechanism", str(self.sasl_mechanism), f"one of {', '.join(MECHANISMS)}")
        if self.is_oauth and not self.token_file:
            raise _unusable("token_file", "nothing", "the file with the bearer token")
        if self.is_sasl and not self.is_oauth and not (self.username and (self.password_env or self.password_file)):
            raise _unusable("username and password", "not both", "username, and password_env or password_file")

    def _refuse_unused(self) -> None:
        """Who names a certificate or a password means it to be used: less than that is no security."""
        tls = {"ca_file": self.ca_file, "cert_file": self.cert_file, "key_file": self.key_file}
        passwords = {
            "username": self.username,
            "password_env": self.password_env,
            "password_file": self.password_file,
        }
        unused = {} if self.is_ssl else dict(tls)
        if not self.is_sasl:
            unused |= {"sasl_mechanism": self.sasl_mechanism}
        if not self.is_oauth:
            unused |= {"token_file": self.token_file}
        if self.is_oauth or not self.is_sasl:
            unused |= passwords
        for name in (name for name, value in unused.items() if value is not None):
            how = " ".join(filter(None, (self.protocol, self.sasl_mechanism if self.is_sasl else None)))
            raise _unusable(name, f"it is set, and {how} does not use it", f"another protocol, or no {name}")
        if self.key_file and not self.cert_file:
            raise _unusable("key_file", "no cert_file beside it", "both, or neither")
        if self.password_env and self.password_file:
            raise _unusable("password_env and password_file", "both", "one of them")

    @property
    def is_ssl(self) -> bool:
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def is_sasl(self) -> bool:
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    @property
    def is_oauth(self) -> bool:
        return self.is_sasl and self.sasl_mechanism == "OAUTHBEARER"

    def password(self) -> str:
        """The password, from its variable or its file; ConfigError when it isn't there."""
        if self.password_env:
            found = os.environ.get(self.password_env)
            if not found:
                raise _unusable("password_env", f"{self.password_env} not set", "the password in it")
            return found
        return _read_secret("password_file", self.password_file or "")

    def ssl_context(self) -> ssl.SSLContext | None:
        """Trusted and own certificates of TLS; None without TLS. ConfigError if a file cannot be used."""
        if not self.is_ssl:
            return None
        try:
            context = create_ssl_context(cafile=self.ca_file, certfile=self.cert_file, keyfile=self.key_file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _unusable("ca_file, cert_file, key_file", str(error), "readable PEM files") from None
        assert isinstance(context, ssl.SSLContext)
        return context

    def client_settings(self) -> dict[str, Any]:
        """The keyword arguments of an aiokafka client."""
        settings: dict[str, Any] = {"security_protocol": self.protocol, "ssl_context": self.ssl_context()}
        if self.is_oauth:
            settings["sasl_oauth_token_provider"] = self._token()
        elif self.is_sasl:
            settings |= {"sasl_plain_username": self.username, "sasl_plain_password": self.password()}
        if self.is_sasl:
            settings["sasl_mechanism"] = self.sasl_mechanism
        return settings

    def _token(self) -> TokenFile:
        _read_secret("token_file", self.token_file or "")  # what cannot be read at the start is a wrong configuration
        return TokenFile(self.token_file or "")


class TokenFile:
    """A bearer token in a file that something else renews: read again for every connection.

    Kafka closes a connection when its token has expired, if `connections.max.reauth.ms` is set there.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    async def token(self) -> str:
        """The token. AuthenticationFailedError while there is none to read: the client tries again."""
        try:
            return _read_secret("token_file", self.path)
        except ConfigError as error:
            raise AuthenticationFailedError(str(error)) from None

    def extensions(self) -> dict[str, str]:
        return {}


AbstractTokenProvider.register(TokenFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One Kafka cluster as one process sees it. `broker`: "host:port[,host:port]", or "kafka://host:port"."""

    broker: str
    prefix: str = ""
    client_id: str = "foreshock"
    embedded: bool = False
    security: Security | None = None
    isolation: str = "read_committed"
    """Isolation of reading: "read_uncommitted" counts records of open and aborted transactions too."""

    def __post_init__(self) -> None:
        if not self.servers or not all(_is_address(server) for server in self.servers):
            raise _unusable("broker", repr(self.broker)[:100], "host:port[,host:port]")

    @property
    def reads_uncommitted(self) -> bool:
        return self.isolation == "read_uncommitted"

    @property
    def servers(self) -> list[str]:
        """The addresses of the first connection."""
        parts = self.broker.replace(";", ",").split(",")
        return [part.strip().removeprefix("kafka://").rstrip("/") for part in parts if part.strip()]

    def topic(self, name: str) -> str:
        """The full name of one of our topics."""
        return self.prefix + name

    def consumer(self, *, group_id: str | None = None, **settings: Any) -> AIOKafkaConsumer:
        """A consumer that is not started; without a group, for `assign`. `settings` go over ours."""
        session = (EMBEDDED_SESSION if self.embedded else SESSION) if group_id is not None else {}
        ours = {**CONSUMER, "isolation_level": self.isolation}
        return AIOKafkaConsumer(group_id=group_id, **{**self._client(), **ours, **session, **settings})

    def client(self) -> AIOKafkaClient:
        """A client for requests of our own, not started."""
        ages = {name: CONSUMER[name] for name in ("metadata_max_age_ms", "request_timeout_ms")}
        return AIOKafkaClient(**self._client(), **ages)

    def producer(self, **settings: Any) -> AIOKafkaProducer:
        """A producer that is not started: acks=all, and idempotent where the broker knows how."""
        # Without idempotence the order is still kept: aiokafka has one request per broker on its way, one batch per
        # partition in it.
        ours = {**PRODUCER, "enable_idempotence": not self.embedded}
        return AIOKafkaProducer(**{**self._client(), **ours, **settings})

    def admin(self) -> AIOKafkaAdminClient:
        """An admin client that is not started."""
        return AIOKafkaAdminClient(**self._client(), request_timeout_ms=20_000)

    async def failure(self, error: BaseException, operation: str = "") -> BrokerError:
        """An exception of a client as one line. For a failed connection it looks for the reason."""
        # aiokafka logs that, and raises one error for all.
        if isinstance(error, UNREACHED):
            error = await self._why_unreachable() or error
        seen, mend = refusal(error, operation)
        return (BrokerError if is_final(error) else BrokerAway)(place=f"Kafka at {self.broker}", seen=seen, mend=mend)

    async def _why_unreachable(self) -> BaseException | None:
        """What goes wrong when one question is sent to a server; None if nothing does."""
        found: BaseException | None = None
        for server in self.servers:
            host, _, port = server.rpartition(":")
            settings = {key: value for key, value in self._client().items() if key != "bootstrap_servers"}
            try:
                connected = await create_conn(host.strip("[]"), int(port), request_timeout_ms=PROBE_MS, **settings)
                try:
                    answer = await connected.send(MetadataRequest([]))
                finally:
                    connected.close()
                if not answer.brokers and self.security is not None and self.security.is_oauth:
                    # So it answers with a token that it refuses; aiokafka does not read what it said of the token.
                    raise AuthenticationFailedError("is the token expired, or not for it?")
                if not answer.brokers:
                    raise KafkaConnectionError("it has not joined its cluster yet")
                await self._reach_advertised(server, answer.brokers)
            except (KafkaError, OSError, TimeoutError, ValueError) as error:  # ValueError: a server that is an impostor
                found = error
            else:
                return None
        return found

    async def _reach_advertised(self, server: str, brokers: Sequence[Any]) -> None:
        """Raises AdvertisedUnreachable for a broker to whose advertised address no connection is made."""
        for host, port in sorted({(broker[1], broker[2]) for broker in brokers}):
            try:
                async with asyncio.timeout(PROBE_MS / 1000):
                    _, writer = await asyncio.open_connection(host, port)
                writer.close()
            except (OSError, TimeoutError, ValueError) as error:
                reason = "no answer" if isinstance(error, TimeoutError) else str(error)
                raise AdvertisedUnreachable(server, f"{host}:{port}", reason) from None

    def _client(self) -> dict[str, Any]:
        calm_logs()
        secured = self.security.client_settings() if self.security else {}
        return {"bootstrap_servers": self.servers, "client_id": self.client_id, **secured}


# --- The log, while Kafka is away


OUTAGE = Seldom(10.0)
"""Shared by all that may log an outage of Kafka: an outage is one line in ten seconds, whoever notices it."""


class _OneLine(logging.Filter):
    """Of aiokafka's complaints (a dozen a second while a broker is away, some with tracebacks), one line in a while.

    And none of its requests: at DEBUG it logs them whole, with passwords, tokens, and what records say.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO and record.name == "aiokafka.conn":
            return False
        if record.levelno < logging.WARNING:
            return True
        if not OUTAGE():
            return False
        if record.exc_info and record.exc_info[1]:
            record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]!r}", ()
        record.exc_info = record.exc_text = None
        return True


_ONE_LINE = _OneLine()


def calm_logs() -> None:
    """Keeps aiokafka's loggers from flooding the log and from logging secrets. May be called more than once."""
    # A filter on the parent would not see the children's records: it has to be on each of them.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("aiokafka"):
            logging.getLogger(name).addFilter(_ONE_LINE)


# --- Small things


def _unusable(what: str, seen: str, expected: str) -> ConfigError:
    return ConfigError(place=f"kafka connection, {what}", seen=seen, expected=expected)


def _is_address(server: str) -> bool:
    host, _, port = server.rpartition(":")
    return is_host(host) and is_port(port) and int(port) > 0


def _read_secret(what: str, path: str) -> str:
    try:
        found = read_bytes(Path(path), "a secret", MAX_SECRET_BYTES).decode("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        seen = getattr(error, "strerror", None) or "no UTF-8"
        raise _unusable(what, f"{path}: {seen}", "a readable file with the secret") from None
    if not found:
        raise _unusable(what, f"{path}: it is empty", "the secret in it")
    return found
