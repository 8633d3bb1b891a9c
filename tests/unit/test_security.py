"""Who may read, how we prove who we are, and that nothing of it is told."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
)

from agents import clients
from agents.clients import Connection, Security, TokenFile, calm_logs
from agents.refusals import refusal, words
from agents.web_options import WebOptions, listen_address, web_options
from agents.webhook import Webhook
from streams.config import Config, Web
from streams.configure import load
from streams.errors import BrokerAway, ConfigError

PLANTED = "planted-3f9a1c"
CA = "ca.pem"


def configured(web: Web | None = None) -> Config:
    return Config(models={}, web=web or Web())


# --- The pages


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.8.9.1:0"])
def test_on_loopback_no_token_is_needed(listen: str) -> None:
    assert web_options(configured(), listen).token is None


@pytest.mark.parametrize("listen", ["0.0.0.0:6066", "[::]:6066", "10.1.2.3:6066", "worker.example:6066"])
def test_beyond_loopback_it_takes_a_token_or_a_word(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"not loopback, and no token.*--open"):
        web_options(configured(), listen)
    monkeypatch.setenv("TOKEN", PLANTED)
    assert web_options(configured(Web(token_env="TOKEN")), listen).token == PLANTED
    assert web_options(configured(), listen, True).token is None
    assert web_options(configured(Web(open=True)), listen).token is None


def test_a_token_that_is_named_and_not_there_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "token"
    empty.write_text("\n")
    monkeypatch.delenv("TOKEN", raising=False)
    for web in (
        Web(token_env="TOKEN"),
        Web(token_file=str(empty)),
        Web(token_file=str(tmp_path / "none")),
        Web(token_env="TOKEN", token_file=str(empty)),
    ):
        with pytest.raises(ConfigError):
            web_options(configured(web), "127.0.0.1:0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("web: {token: s3cret}", "unknown key 'token'"),
        ("web: {opened: true}", "did you mean 'open'"),
        ("web: {open: often}", "expected bool"),
        ("web: {token_file: 3}", "expected str"),
        ("kafka: {security: {password: s3cret}}", "unknown key 'password'"),
        ("kafka: {security: {tls: true}}", "unknown key 'tls'"),
        ("kafka: {security: SSL}", "expected object"),
    ],
)
def test_a_wrong_key_is_told_by_its_place(text: str, said: str) -> None:
    """There is no key for a secret itself."""
    with pytest.raises(ConfigError) as caught:
        load(f"{text}\nmodels: {{m: {{}}}}\n")
    assert said in str(caught.value) and "line 1" in str(caught.value) and "s3cret" not in str(caught.value)


# --- Kafka


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"protocol": "TLS"}, "protocol: TLS"),
        ({"ca_file": CA}, "ca_file: it is set, and PLAINTEXT does not use it"),
        ({"protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "cert_file": CA}, "cert_file: it is set"),
        ({"username": "worker", "password_env": "P"}, "username: it is set, and PLAINTEXT does not"),
        ({"protocol": "SSL", "sasl_mechanism": "PLAIN"}, "sasl_mechanism: it is set, and SSL does not"),
        ({"protocol": "SSL", "token_file": "t"}, "token_file: it is set, and SSL does not"),
        ({"protocol": "SSL", "key_file": "k"}, "no cert_file"),
        ({"protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "token_file"),
        ({"protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "token_file": "t", "username": "u"}, "username"),
        ({"protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "sasl_mechanism: GSSAPI"),
        ({"protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u"}, "username and password"),
        (
            {
                "protocol": "SASL_SSL",
                "sasl_mechanism": "PLAIN",
                "username": "u",
                "password_env": "P",
                "password_file": "f",
            },
            "both",
        ),
    ],
)
def test_security_that_would_not_hold_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Security(**settings)
    assert said in str(caught.value)


def test_a_secret_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P", "")
    empty = tmp_path / "empty"
    empty.write_text("\n")
    plain = {"protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "username": "u"}
    oauth = {"protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    for security in (
        Security(**plain, password_env="P"),
        Security(**plain, password_file=str(empty)),
        Security(**plain, password_file=str(tmp_path / "none")),
        Security(**oauth, token_file=str(empty)),
        Security(protocol="SSL", ca_file=str(empty)),
    ):
        with pytest.raises(ConfigError):
            security.client_settings()


def test_tls_checks_names_and_certificates() -> None:
    context = Security(protocol="SSL").ssl_context()
    assert context is not None
    assert context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_renewed_token_is_the_next_one_and_a_missing_one_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    token = TokenFile(str(file))
    assert asyncio.run(token.token()) == "first"
    file.write_text("second\n")
    assert asyncio.run(token.token()) == "second"
    file.unlink()
    with pytest.raises(AuthenticationFailedError, match="No such file"):  # which aiokafka takes for a failed attempt
        asyncio.run(token.token())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TopicAuthorizationFailedError("t"), "READ on topic t is not allowed to us"),
        (TopicAuthorizationFailedError({"b", "a"}), "READ on topic a, b is not allowed to us"),
        (GroupAuthorizationFailedError("g"), "READ on group g is not allowed to us"),
        (ClusterAuthorizationFailedError(), "WRITE is not allowed to us on any topic"),
        (KafkaConnectionError("Connection at h:1 closed"), "it hangs up on us"),
        (ConnectionResetError(104, "reset"), "it hangs up on us"),
        (ConnectionRefusedError(111, "refused"), "ConnectionRefusedError [Errno 111] refused"),
    ],
)
def test_a_refusal_is_told_in_words(error: BaseException, said: str) -> None:
    assert words(error, "READ").startswith(said)
    assert refusal(error)[1]


def test_a_broker_that_has_not_joined_its_cluster_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers that there are no brokers: so does one that refuses a token, but there is none."""

    async def connected(*address: Any, **settings: Any) -> SimpleNamespace:
        async def send(request: Any) -> SimpleNamespace:
            return SimpleNamespace(brokers=[])

        return SimpleNamespace(send=send, close=lambda: None)

    monkeypatch.setattr(clients, "create_conn", connected)
    failure = asyncio.run(Connection(broker="h:1").failure(KafkaConnectionError("away")))
    assert isinstance(failure, BrokerAway) and "it has not joined its cluster yet" in str(failure)


# --- What is never told


def test_no_representation_tells_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P", PLANTED)
    file = tmp_path / "token"
    file.write_text(PLANTED)
    plain = Security(protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", username="u", password_env="P")
    oauth = Security(protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", token_file=str(file))
    connections = [Connection(broker="h:1", security=security) for security in (plain, oauth)]
    things = [
        *connections,
        oauth.client_settings(),
        TokenFile(str(file)),
        WebOptions(token=PLANTED),
        Webhook("http://127.0.0.1/", PLANTED.encode()),
        web_options(configured(Web(token_env="P")), None),
    ]
    for thing in things:
        assert PLANTED not in repr(thing) and PLANTED not in str(thing)


def test_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG aiokafka logs each whole, the one with the password among them."""
    calm_logs()
    caplog.set_level(logging.DEBUG)
    logging.getLogger("aiokafka.conn").debug("Request to %s:%d %d: %s", "h", 1, 2, PLANTED)
    logging.getLogger("aiokafka.conn").info("Authenticated as %s via %s", "u", "PLAIN")
    assert PLANTED not in caplog.text and "Authenticated as u" in caplog.text


@pytest.mark.parametrize(
    "address",
    [
        "a" * 64 + ":9092",
        "a..b:9092",
        "x y:9092",
        ":9092",
        "a:" + "9" * 5_000,
        "a:99999",
        "a:\u00b2",
        "a\x1b[31m:1",
        "[::1:1",
    ],
)
def test_an_address_that_cannot_be_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected host:port"):
        Connection(broker=address)
    with pytest.raises(ConfigError, match=r"expected host:port"):
        listen_address(address)


@pytest.mark.parametrize(
    "address",
    ["kafka:9092", "kafka_1.svc.cluster.local.:9092", "127.0.0.1:9092", "[::1]:9092", "b\u00fccher.example:9092"],
)
def test_an_address_that_can_be_is_taken(address: str) -> None:
    assert Connection(broker=address).servers == [address]
    assert listen_address(address)[1] == 9092
