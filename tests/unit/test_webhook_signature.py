"""What the webhook signs, judged by the library of the Standard Webhooks specification itself."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import msgspec
import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Judge
from standardwebhooks import WebhookVerificationError

from agents.webhook import Result, Webhook, key_of, signature
from streams.errors import ConfigError
from tests.actions import action
from tests.embedded.test_webhook import receiving

ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=256)
bodies = st.dictionaries(st.text(max_size=20), st.text(max_size=50) | st.integers() | st.none()).map(
    lambda found: json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
)
keys = st.binary(min_size=1, max_size=80)
TOLERANCE_S = 300


def signed(key: bytes, webhook_id: str, at_s: int, body: bytes) -> dict[str, str]:
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": signature(key, webhook_id, at_s, body),
    }


@given(keys, ids, bodies, st.integers(-TOLERANCE_S + 60, TOLERANCE_S - 60))
def test_the_library_accepts_what_is_signed_with_its_own_kind_of_secret(
    key: bytes, webhook_id: str, body: bytes, skew_s: int
) -> None:
    """`whsec_` and base64, with or without its padding, and the clocks some minutes apart."""
    text = base64.b64encode(key).decode()
    for secret in {f"whsec_{text}", f"whsec_{text.rstrip('=')}"}:
        assert key_of(secret) == key
        headers = signed(key_of(secret), webhook_id, int(time.time()) + skew_s, body)
        assert Judge(secret).verify(body, headers) == json.loads(body)
        assert Judge(key).verify(body, headers) == json.loads(body)


@given(st.text(min_size=1, max_size=40).filter(lambda text: not text.startswith(("whsec_", "whsk_", "whpk_"))), bodies)
def test_any_other_secret_is_the_key_itself(secret: str, body: bytes) -> None:
    key = key_of(secret.encode("utf-8", "replace").decode())
    assert Judge(key).verify(body, signed(key, "a1", int(time.time()), body)) == json.loads(body)


def test_a_secret_without_its_prefix_is_no_base64_to_us_though_it_is_to_the_library() -> None:
    """The prefix decides; the receiver has to be given the same kind."""
    key, body = b"a key of thirty-two bytes, or so!", b"{}"
    bare = base64.b64encode(key).decode()
    headers = signed(key_of(bare), "a1", int(time.time()), body)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Judge(bare).verify(body, headers)
    assert Judge(bare.encode()).verify(body, headers) == {}


@given(keys, ids, bodies, st.data())
def test_the_library_refuses_whatever_was_changed(
    key: bytes, webhook_id: str, body: bytes, data: st.DataObject
) -> None:
    now_s = int(time.time())
    headers = signed(key, webhook_id, now_s, body)
    change = data.draw(st.sampled_from(["id", "time", "body", "key", "old", "early"]))
    match change:
        case "id":
            headers["webhook-id"] = webhook_id + "x"
        case "time":
            headers["webhook-timestamp"] = str(now_s - 1)
        case "body":
            body += b" "
        case "key":
            key += b"x"
        case "old":
            headers = signed(key, webhook_id, now_s - TOLERANCE_S - 60, body)
        case _:
            headers = signed(key, webhook_id, now_s + TOLERANCE_S + 60, body)
    with pytest.raises(WebhookVerificationError):
        Judge(key).verify(body, headers)


@given(keys, keys, bodies)
def test_while_a_key_is_changed_the_signature_of_either_key_is_accepted_among_others(
    old: bytes, new: bytes, body: bytes
) -> None:
    """A proxy that re-signs adds its signature, with a space between; versions that it does not know are none."""
    now_s = int(time.time())
    headers = signed(new, "a1", now_s, body)
    headers["webhook-signature"] = f"v2,{'x' * 8} {signature(old, 'a1', now_s, body)} {headers['webhook-signature']}"
    for key in (old, new):
        assert Judge(key).verify(body, headers) == json.loads(body)
    assert " " not in signature(old, "a1", now_s, body)


@pytest.mark.parametrize("secret", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2VjcmU", "a plain text"])
def test_a_request_as_it_is_sent_is_accepted(secret: str) -> None:
    """Headers, their names' letters, body and time, as a receiver gets them."""
    sent = action("f", 1)

    async def main() -> None:
        async with receiving() as receiver, ClientSession() as session:
            target = Webhook(receiver.url, key_of(secret))
            assert await target.post(session, sent, msgspec.json.encode(sent)) == (
                Result.DELIVERED,
                "the webhook answered 200",
            )
            ((headers, body),) = receiver.requests
            judge = Judge(secret if secret.startswith("whsec_") else secret.encode())
            assert judge.verify(body, dict(headers))["id"] == sent.id == headers["webhook-id"]

    asyncio.run(main())


def test_the_vector_that_the_specification_publishes() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    found = signature(key_of(secret), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["whsec_", "whsec_====", "whsec_not base64!", "whsec_a", "whsk_abc", "whpk_abc"])
def test_a_secret_that_is_none_is_an_error_before_anything_is_signed(secret: str) -> None:
    with pytest.raises(ConfigError):
        key_of(secret)
