"""An Apache Kafka that demands TLS and SASL and refuses whatever no ACL allows; the keys, tokens and ACLs for it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from deploy.kafka import QUICK_START, Broker
from deploy.loopback import free_port

AUDIENCE, ISSUER = "kafka", "tests"
REAUTH_MS = 3_000
"""So long a connection that was opened with a token may last."""
SCRAM_PASSWORD, PLAIN_PASSWORD = "planted-scram-7f1c", "planted-plain-93ad"
OAUTH, SASL, LOGIN = "oauthbearer", "listener.name.sasl_tls", "sasl.jaas.config=org.apache.kafka.common.security"

USERS = ("worker", "webhook", "alertmanager", "actions", "ack", "ledger", "report", "produce")
"""By password, with SCRAM."""

TYPES = {"topic": 2, "group": 3}
OPERATIONS = {"READ": 3, "WRITE": 4, "CREATE": 5, "ALTER": 7, "DESCRIBE": 8, "DESCRIBE_CONFIGS": 10}
LITERAL, ALLOW = 3, 3

Acl = tuple[str, str, str]
"""Type of the resource, its name, the operation."""


@dataclass
class Secured:
    """A started broker: `tls` wants a certificate of the client's, `sasl` a password or a token. `folder`: of keys."""

    broker: Broker
    folder: Path
    ca: trustme.CA
    signer: Signer
    tls: str
    sasl: str

    def certificate(self, user: str, *, valid: bool = True, ca: trustme.CA | None = None) -> Path:
        """The file of a client's certificate and key."""
        now = datetime.now(UTC)
        ends = now + timedelta(days=1 if valid else -1)
        issued = (ca or self.ca).issue_cert(user, common_name=user, not_before=now - timedelta(days=2), not_after=ends)
        file = self.folder / f"{user}-{'valid' if valid else 'expired'}-{id(ca)}.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(file)
        return file

    def scram(self, user: str) -> str:
        """`kafka.security` of foreshock.yaml for a user with a password."""
        return (
            f"{{protocol: SASL_SSL, ca_file: '{self.folder / 'ca.pem'}', sasl_mechanism: SCRAM-SHA-512, "
            f"username: {user}, password_file: '{self.folder / 'scram'}'}}"
        )

    def allow(self, user: str, acls: Iterable[Acl]) -> None:
        asyncio.run(self._change(user, acls, CreateAclsRequest))

    def take_away(self, user: str, acls: Iterable[Acl]) -> None:
        asyncio.run(self._change(user, acls, DeleteAclsRequest))

    async def _change(self, user: str, acls: Iterable[Acl], request: Any) -> None:
        client = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await client.start()
        try:
            for kind, name, operation in acls:
                wanted = (TYPES[kind], name, LITERAL, f"User:{user}", "*", OPERATIONS[operation], ALLOW)
                answer = (await client._send_request(request(*wanted))).to_object()
                assert not [code for key in ("creation_responses", "filter_responses") for code in _codes(answer, key)]
        finally:
            await client.close()


def _codes(answer: dict[str, Any], key: str) -> list[int]:
    return [item["error_code"] for item in answer.get(key, []) if item["error_code"]]


@dataclass
class Signer:
    """Signs tokens that the broker's key set can check."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65_537, 2_048))

    def key_set(self) -> str:
        public = self.key.public_key().public_numbers()
        numbers = {name: _text(_bytes(value)) for name, value in (("n", public.n), ("e", public.e))}
        return json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", **numbers}]})

    def token(self, user: str, lasts_s: float) -> str:
        now = int(time.time())
        claims = {"sub": user, "iss": ISSUER, "aud": AUDIENCE, "iat": now - 60, "exp": int(now + lasts_s), "scope": []}
        parts = ({"alg": "RS256", "kid": "1", "typ": "JWT"}, claims)
        signed = ".".join(_text(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{_text(self.key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def start(folder: Path) -> Secured:
    """A broker with users of whom none may do anything yet. Its own PLAINTEXT listener is the operator's."""
    ca, signer = trustme.CA(), Signer()
    keys = folder / "keys"
    keys.mkdir()
    ca.cert_pem.write_to_path(keys / "ca.pem")
    (keys / "server.pem").write_bytes(_for_java(ca.issue_cert("localhost")))
    (keys / "key-set.json").write_text(signer.key_set())
    (keys / "scram").write_text(SCRAM_PASSWORD + "\n")
    (keys / "plain").write_text(PLAIN_PASSWORD + "\n")
    ports = {"TLS": free_port(), "SASL_TLS": free_port()}
    key_set = (keys / "key-set.json").as_uri()
    broker = Broker.start(
        folder / "broker",
        jvm=[
            *QUICK_START,
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={key_set}",
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={keys / 'key-set.json'}",
        ],
        listeners=ports,
        scram=dict.fromkeys(USERS, SCRAM_PASSWORD),
        properties=dict(line.split("=", 1) for line in _properties(keys, key_set)),
    )
    return Secured(broker, keys, ca, signer, f"localhost:{ports['TLS']}", f"localhost:{ports['SASL_TLS']}")


def _for_java(issued: trustme.LeafCert) -> bytes:
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form) + b"".join(blob.bytes() for blob in issued.cert_chain_pems)


def _properties(keys: Path, key_set: str) -> list[str]:
    return [
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,SASL_TLS:SASL_SSL",
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={keys / 'server.pem'}",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={keys / 'ca.pem'}",
        "listener.name.tls.ssl.client.auth=required",
        "listener.name.tls.ssl.principal.mapping.rules=RULE:^.*CN=([a-z-]+).*$/$1/,DEFAULT",
        f"{SASL}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        f'{SASL}.plain.{LOGIN}.plain.PlainLoginModule required user_plain="{PLAIN_PASSWORD}";',
        f"{SASL}.scram-sha-256.{LOGIN}.scram.ScramLoginModule required;",
        f"{SASL}.scram-sha-512.{LOGIN}.scram.ScramLoginModule required;",
        f'{SASL}.{OAUTH}.{LOGIN}.{OAUTH}.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="unused";',
        f"{SASL}.{OAUTH}.sasl.server.callback.handler.class="
        f"org.apache.kafka.common.security.{OAUTH}.OAuthBearerValidatorCallbackHandler",
        f"{SASL}.{OAUTH}.sasl.{OAUTH}.jwks.endpoint.url={key_set}",
        f"{SASL}.{OAUTH}.sasl.{OAUTH}.expected.audience={AUDIENCE}",
        f"{SASL}.{OAUTH}.sasl.{OAUTH}.expected.issuer={ISSUER}",
        f"{SASL}.{OAUTH}.sasl.{OAUTH}.clock.skew.seconds=0",
        f"{SASL}.{OAUTH}.connections.max.reauth.ms={REAUTH_MS}",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found=false",
        "super.users=User:ANONYMOUS",
    ]
