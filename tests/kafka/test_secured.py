"""A Kafka that demands TLS and SASL: every way in, and every way that must stay shut."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from agents import topics
from agents.clients import Connection, Security
from streams.errors import BrokerError
from tests.faults.harness import WorkerProcess, write_config
from tests.kafka.secured import PLAIN_PASSWORD, REAUTH_MS, SCRAM_PASSWORD, Secured

Way = Callable[[Secured], Connection]
HOUR_S = 3_600.0


def security(secured: Secured, protocol: str, **settings: object) -> Security:
    found = {"protocol": protocol, "ca_file": str(secured.folder / "ca.pem"), **settings}
    return Security(**found)  # type: ignore[arg-type]


def tls(secured: Secured, **settings: object) -> Connection:
    shown = {"cert_file": str(secured.certificate("worker")), **settings}
    return Connection(broker=secured.tls, security=security(secured, "SSL", **shown))


def password(secured: Secured, mechanism: str, file: str, user: str = "worker", **settings: object) -> Connection:
    given = {"sasl_mechanism": mechanism, "username": user, "password_file": str(secured.folder / file), **settings}
    return Connection(broker=secured.sasl, security=security(secured, "SASL_SSL", **given))


def token(secured: Secured, lasts_s: float = HOUR_S, *, text: str = "") -> Connection:
    file = secured.folder / f"token{lasts_s:g}{len(text)}"
    file.write_text(text or secured.signer.token("worker", lasts_s))
    given = {"sasl_mechanism": "OAUTHBEARER", "token_file": str(file)}
    return Connection(broker=secured.sasl, security=security(secured, "SASL_SSL", **given))


def foreign_ca(secured: Secured) -> str:
    file = secured.folder / "foreign.pem"
    trustme.CA().cert_pem.write_to_path(file)
    return str(file)


def look(connection: Connection) -> int | None:
    return asyncio.run(topics.find(connection, "nothing"))


WAYS: dict[str, Way] = {
    "mutual TLS": tls,
    "PLAIN": lambda s: password(s, "PLAIN", "plain", "plain"),
    "SCRAM-SHA-256": lambda s: password(s, "SCRAM-SHA-256", "scram"),
    "SCRAM-SHA-512": lambda s: password(s, "SCRAM-SHA-512", "scram"),
    "OAUTHBEARER": token,
}
SHUT: dict[str, tuple[Way, str]] = {
    "a foreign CA": (lambda s: tls(s, ca_file=foreign_ca(s)), "unable to get local issuer certificate"),
    "the system's CAs": (lambda s: tls(s, ca_file=None), "unable to get local issuer certificate"),
    "another host name": (
        lambda s: Connection(broker=s.tls.replace("localhost", "127.0.0.1"), security=tls(s).security),
        "not valid for '127.0.0.1'",
    ),
    "no certificate": (lambda s: tls(s, cert_file=None), "TLS failed: "),
    "an expired certificate": (lambda s: tls(s, cert_file=str(s.certificate("worker", valid=False))), "TLS failed: "),
    "a foreign certificate": (lambda s: tls(s, cert_file=str(s.certificate("x", ca=trustme.CA()))), "TLS failed: "),
    "a wrong password": (lambda s: password(s, "SCRAM-SHA-512", "plain"), "invalid credentials"),
    "a wrong password, plain": (lambda s: password(s, "PLAIN", "scram", "plain"), "Invalid username or password"),
    "an unknown user": (lambda s: password(s, "SCRAM-SHA-256", "scram", "nobody"), "invalid credentials"),
    "an expired token": (lambda s: token(s, -HOUR_S), "is the token expired"),
    "no token at all": (lambda s: token(s, text="noise"), "is the token expired"),
    "plaintext to a TLS port": (lambda s: Connection(broker=s.tls), "it hangs up on us"),
    "SASL without TLS": (
        lambda s: Connection(
            broker=s.sasl,
            security=Security(
                protocol="SASL_PLAINTEXT",
                sasl_mechanism="PLAIN",
                username="plain",
                password_file=str(s.folder / "plain"),
            ),
        ),
        "it hangs up on us",
    ),
    "TLS without SASL": (lambda s: Connection(broker=s.sasl, security=tls(s).security), "it hangs up on us"),
    "TLS to a plaintext port": (
        lambda s: Connection(broker=s.broker.bootstrap, security=tls(s).security),
        "it hangs up on us",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_who_can_prove_it_comes_in(secured: Secured, way: str) -> None:
    assert look(WAYS[way](secured)) is None


@pytest.mark.parametrize("way", SHUT)
def test_nobody_else_does_and_the_reason_is_one_line(secured: Secured, way: str) -> None:
    make, said = SHUT[way]
    with pytest.raises(BrokerError) as refused:
        look(make(secured))
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert SCRAM_PASSWORD not in str(refused.value) and PLAIN_PASSWORD not in str(refused.value)


def test_a_renewed_token_is_picked_up(secured: Secured) -> None:
    """The broker closes what was opened with a token that has expired; the same producer goes on with the next one."""
    secured.allow("worker", [("topic", "renewed", "WRITE"), ("topic", "renewed", "CREATE")])
    connection = token(secured, REAUTH_MS / 1000)
    file = Path(connection.security.token_file or "") if connection.security else Path()
    sent = 0

    async def main() -> int:
        await topics.create(connection, "renewed", 1)
        until, sent = time.monotonic() + 2 * REAUTH_MS / 1000 + 1, 0
        async with connection.producer() as producer:
            while time.monotonic() < until:
                file.write_text(secured.signer.token("worker", REAUTH_MS / 1000))
                await asyncio.wait_for(producer.send_and_wait("renewed", b"x"), 20)
                sent += 1
                await asyncio.sleep(0.2)
        return sent

    sent = asyncio.run(main())
    assert sent > 2


def test_a_worker_waits_with_one_line_and_tells_no_secret(secured: Secured, tmp_path: Path) -> None:
    """Nor does anything else of it at its most talkative, whether it is let in or not."""
    config = write_config(tmp_path, "waits-")
    text = config.read_text(encoding="utf-8")
    wrong = secured.scram("worker").replace("SCRAM-SHA-512", "PLAIN")
    for found, wanted in ((wrong, "it did not let us in"), (secured.scram("worker"), "waiting for topic")):
        config.write_text(text.replace("kafka:\n", f"kafka:\n  security: {found}\n", 1), encoding="utf-8")
        with WorkerProcess(config, secured.sasl, "--verbose") as worker:
            worker.until(lambda wanted=wanted: wanted in worker.said)
            assert worker.terminate() == 0
            assert SCRAM_PASSWORD not in worker.said and "Traceback" not in worker.said
    config.write_text(text.replace("kafka:\n", f"kafka:\n  security: {wrong}\n", 1), encoding="utf-8")
    command = [sys.executable, "-m", "agents", "ledger", "-c", str(config), "--broker", secured.sasl]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "it did not let us in" in done.stderr and SCRAM_PASSWORD not in done.stderr
