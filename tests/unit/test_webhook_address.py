"""What a webhook is told to call, and with which secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.address import check_address
from agents.webhook import key_of, signature
from streams.errors import ConfigError
from tests.embedded.command import foreshock, one_line


def test_a_secret_of_the_standard_signs_as_the_standard_says() -> None:
    """The values that the standard's own libraries are tested with."""
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64!", "whsec_\u00e9", "whsk_abc", "whpk_abc"])
def test_a_secret_that_is_none_of_the_standard_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError, match=r"the secret: .*expected whsec_") as raised:
        key_of(secret)
    assert secret.partition("_")[2] not in str(raised.value) or len(secret) < 7


def test_a_plain_secret_is_the_key_itself() -> None:
    assert key_of("p\u00e4ssword") == "p\u00e4ssword".encode()


@pytest.mark.parametrize(
    ("url", "hosts", "said"),
    [
        ("http://example.com/x", (), "http to example.com; expected https"),
        ("https://example.com/x", ("other.org",), "the host example.com; expected one of other.org"),
        ("https://me:secret@example.com/x", (), "without a password"),
        ("ftp://example.com/x", (), "https://host/path"),
        ("example.com", (), "https://host/path"),
        ("https://[::1/", (), "https://host/path"),
        ("https://example.com:99999/", (), "https://host/path"),
        ("https://example.com:" + "9" * 5_000, (), "https://host/path"),
        ("https://a..b/", (), "https://host/path"),
        ("https://" + "a" * 64 + ".org/", (), "https://host/path"),
        ("https://x y/", (), "https://host/path"),
        ("http://127.0.0.2.example.com/", (), "http to 127.0.0.2.example.com"),
    ],
)
def test_an_address_that_may_not_be_called_is_refused(url: str, hosts: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        check_address(url, hosts)


@pytest.mark.parametrize(
    "url", ["https://example.com/x", "http://127.0.0.1:80/x", "http://[::1]/", "http://localhost/"]
)
def test_https_and_loopback_may_be_called(url: str) -> None:
    assert check_address(url, ()) == url


def test_http_may_be_called_where_somebody_has_said_so() -> None:
    assert check_address("http://alertmanager:9093", ("alertmanager",)) == "http://alertmanager:9093"


def test_the_command_wants_one_secret(tmp_path: Path) -> None:
    config = tmp_path / "foreshock.yaml"
    config.write_text("models: {m: {}}", encoding="utf-8")
    options = ("webhook", "-c", config, "--url", "https://example.com/x")
    for more, said in (
        ((), "--secret-env or --secret-file: nothing; expected a secret"),
        (("--secret-env", "NOT_SET_ANYWHERE"), "expected a secret"),
        (("--secret-file", tmp_path / "nothing"), "expected a readable file"),
    ):
        refused = foreshock(*options, *more)
        assert refused.returncode == 2 and said in one_line(refused)
