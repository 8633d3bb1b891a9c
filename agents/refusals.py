"""Exceptions of Kafka's clients → what was refused, and the fix, for a person."""

from __future__ import annotations

import ssl

from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

NOT_AUTHORIZED = (ClusterAuthorizationFailedError, GroupAuthorizationFailedError, TopicAuthorizationFailedError)
NOT_AUTHENTICATED = (
    AuthenticationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
ACL = "give its user the ACLs of docs/security.md"
ADVERTISED = "is that broker up? If so, correct its advertised.listeners, or the names and the network between us"
UNREACHABLE = "is the address right, and is the broker up?"


class AdvertisedUnreachable(KafkaConnectionError):  # type: ignore[misc]
    """A server answers, and names an address for its broker that cannot be reached."""

    def __init__(self, server: str, address: str, reason: str) -> None:
        super().__init__(f"{server} answers, and sends us to {address}, which it advertises: {reason}")
        self.text = self.args[0]


def refusal(error: BaseException, operation: str = "") -> tuple[str, str]:
    """The problem and the fix.

    Parameters:
        operation: the refused operation, by Kafka's name, for a topic that may not be used so.
    """
    if isinstance(error, NOT_AUTHORIZED):
        return _denied(error, operation), ACL
    if isinstance(error, AdvertisedUnreachable):
        return error.text, ADVERTISED
    if isinstance(error, NOT_AUTHENTICATED):
        return (
            f"it did not let us in: {error.args[0] if error.args else _words(error)}",
            "correct kafka.security, or the secret that it names",
        )
    below = error.__cause__ if isinstance(error, KafkaConnectionError) else error
    if isinstance(below, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not to be trusted: {below.verify_message}",
            "correct kafka.security.ca_file, or the host name in the address",
        )
    if isinstance(below, ssl.SSLError):
        why = (below.reason or str(below)).replace("_", " ").lower()
        return f"TLS failed: {why}", "correct kafka.security: protocol, cert_file, key_file"
    if isinstance(below, ConnectionResetError) or (isinstance(error, KafkaConnectionError) and "closed" in str(error)):
        return "it hangs up on us", f"does it demand another kafka.security.protocol? {UNREACHABLE}"
    return _words(error), UNREACHABLE


def is_final(error: BaseException) -> bool:
    """Whether trying again is of no use until somebody has fixed something."""
    if isinstance(error, ssl.SSLError):
        return True
    return isinstance(error, KafkaError) and not error.retriable


def words(error: BaseException, operation: str = "") -> str:
    """The problem, for a line in the log."""
    return refusal(error, operation)[0]


def _denied(error: BaseException, operation: str) -> str:
    named = error.args[0] if error.args else ""
    names = ", ".join(sorted(named)) if isinstance(named, set | frozenset | list | tuple) else str(named)
    if isinstance(error, TopicAuthorizationFailedError):
        return f"{operation or 'that'} on topic {names or '(not named)'} is not allowed to us"
    if isinstance(error, GroupAuthorizationFailedError):
        return f"READ on group {names or '(not named)'} is not allowed to us"
    return "WRITE is not allowed to us on any topic, nor IDEMPOTENT_WRITE on the cluster"


def _words(error: BaseException) -> str:
    name, said = type(error).__name__, str(error)
    return said if name in said else f"{name} {said}".strip()
