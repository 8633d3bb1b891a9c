"""An action → one signed HTTP request to one address, and the meaning of its answer.

Headers and signature are those of Standard Webhooks 1.0, for which there are libraries. A secret `whsec_…` is the
base64 of the key, as in the standard; any other secret is the key itself, in UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum

import aiohttp

from agents.logs import NO_ACTION
from streams.action import Action, State, read_action
from streams.errors import ConfigError
from streams.text import plain

log = logging.getLogger(__name__)

MAX_IDS = 50_000
ANSWER_WITHIN_S = 10.0
RETRIED = frozenset({408, 425, 429})
"""Answers below 500 that ask for another try."""
PREFIX = "whsec_"
IS_ID = re.compile(r"[!-~]{1,256}").fullmatch
"""Allowed ids, as a header: printable ASCII without a space."""


class Result(StrEnum):
    """The result of an action."""

    DELIVERED = "delivered"
    SUPPRESSED = "suppressed"
    REPEATED = "repeated"
    INVALID = "invalid"
    REFUSED = "refused"
    PARKED = "parked"
    LEFT_OUT = "left_out"


def signature(secret: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """HMAC-SHA256 of id, time and body, in base64 behind the version of the scheme.

    >>> signature(b"secret", "a1", 1_767_571_200, b"{}")
    'v1,qrY+xRhOZ0V6ujyELxROUOanMeMwPWLLde/YVZtU4y4='
    """
    signed = f"{webhook_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def key_of(secret: str) -> bytes:
    """The key of a secret: `whsec_` and base64, or the text itself.

    >>> key_of("whsec_c2VjcmV0"), key_of("secret")
    (b'secret', b'secret')

    Raises:
        ConfigError: for `whsec_` without base64 behind it, and for a secret of the asymmetric scheme.
    """
    if secret.startswith(("whsk_", "whpk_")):
        raise ConfigError(place="the secret", seen="a key of the asymmetric scheme", expected="whsec_… or a plain text")
    if not secret.startswith(PREFIX):
        return secret.encode()
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigError(place="the secret", seen="whsec_ and no base64", expected="whsec_ and the key in base64")
    return key


@dataclass(slots=True)
class Webhook:
    """The receiver of actions. `timeout_s`: for an answer. `tries`: an action is dropped after so many; 0: never.

    Suppressed actions are not sent.
    """

    url: str
    secret: bytes = field(repr=False)
    timeout_s: float = ANSWER_WITHIN_S
    tries: int = 0
    results: Counter[Result] = field(default_factory=Counter)
    retries: int = 0
    """Requests that were not accepted, and that were or will be tried again."""
    _done: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def note(self, value: bytes | None) -> None:
        """Notes an action that was delivered before."""
        action = read_action(value)
        if action is not None:
            self._remember(action.id)

    def to_send(self, value: bytes | None) -> Action | None:
        """The action of a record, if it has to be sent; otherwise counts the reason."""
        action = read_action(value)
        if action is None:
            self.results[Result.INVALID] += 1
            log.error(NO_ACTION, len(value or b""))
        elif IS_ID(action.id) is None:
            self.results[Result.INVALID] += 1
            log.error("action %s: its id cannot be sent as a header; left out", plain(action.id)[:200])
        elif action.data.state is State.SUPPRESSED:
            self.results[Result.SUPPRESSED] += 1
        elif action.id in self._done:
            self.results[Result.REPEATED] += 1
        else:
            return action
        return None

    async def post(self, session: aiohttp.ClientSession, action: Action, body: bytes) -> tuple[Result | None, str]:
        """The result, None if it has to be tried again; and the answer, for the log."""
        status, reason = await self._status(session, action.id, body)
        if status is None or status >= 500 or status in RETRIED:
            self.retries += 1
            return None, reason
        return Result.REFUSED if status >= 300 else Result.DELIVERED, reason

    def finish(self, action: Action, result: Result) -> None:
        """Counts and notes it: it is not sent again."""
        self.results[result] += 1
        self._remember(action.id)

    async def _status(self, session: aiohttp.ClientSession, webhook_id: str, body: bytes) -> tuple[int | None, str]:
        """The status of the answer; None without one."""
        now_s = int(time.time())
        headers = {
            "content-type": "application/cloudevents+json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": signature(self.secret, webhook_id, now_s, body),
        }
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            # A redirect would lead to an address that nobody has allowed.
            async with session.post(
                self.url, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as answer:
                return answer.status, f"the webhook answered {answer.status}"
        except TimeoutError:
            return None, f"no answer from the webhook within {self.timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return None, f"no answer from the webhook ({type(error).__name__})"

    def _remember(self, action_id: str) -> None:
        self._done[action_id] = None
        if len(self._done) > MAX_IDS:
            self._done.popitem(last=False)
