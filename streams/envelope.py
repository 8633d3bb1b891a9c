"""Value and headers of a record → the JSON object in it, and the attributes of the CloudEvent around it.

CloudEvents 1.0 in its Kafka binding: binary (attributes in `ce_` headers of any case), structured (`data` as an object
or as JSON text, `data_base64`). A batch of several events in one record is rejected as such.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streams.fields import Damaged, Invalid, Reason, kind_of

MAX_DEPTH = 16
MAX_DIGITS = 4_300
"""Digits of a whole number; msgspec and Python read no longer one."""

Headers = Sequence[tuple[str, bytes]]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ATTRIBUTE = "ce_"


def checked_size(value: bytes | None, limit: int) -> bytes:
    """The value; raises Invalid if it is missing, too large, or the rest of a damaged one."""
    if isinstance(value, Damaged):
        raise Invalid(value.reason, value.detail)
    if value is None:
        raise Invalid(Reason.NULL_VALUE, "a record without a value")
    if len(value) > limit:
        raise Invalid(Reason.TOO_LARGE, f"{len(value)} bytes, the limit is {limit}")
    return value


def read_object(value: bytes, headers: Headers) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The JSON object of a record, and the attributes of the CloudEvent around it.

    Raises:
        Invalid: if it holds no object.
    """
    plain = _parse(value)
    if isinstance(plain, list) and plain and all(_is_cloud_event(item) for item in plain):
        raise Invalid(
            Reason.WRONG_TYPE,
            f"a batch of {len(plain)} CloudEvents in one record, expected one event a record: send them one by one",
        )
    if not isinstance(plain, dict):
        raise Invalid(Reason.WRONG_TYPE, f"expected an object, got {kind_of(plain)}")
    if _is_cloud_event(plain) and (isinstance(plain.get("data"), dict) or "model" not in plain):
        return _data(plain), {key: item for key, item in plain.items() if key not in ("data", "data_base64")}
    return plain, _attributes(headers)


def _is_cloud_event(plain: Any) -> bool:
    return isinstance(plain, dict) and "specversion" in plain and ("data" in plain or "data_base64" in plain)


def _attributes(headers: Headers) -> Mapping[str, str]:
    """CloudEvents attributes of Kafka headers, by lower-case name without the prefix."""
    return {
        name[len(_ATTRIBUTE) :].lower(): (content or b"").decode("utf-8", "replace")
        for name, content in headers
        if name[: len(_ATTRIBUTE)].lower() == _ATTRIBUTE
    }


def _data(cloud_event: Mapping[str, Any]) -> dict[str, Any]:
    """The object that a structured CloudEvent carries."""
    data = cloud_event.get("data")
    if data is None and "data_base64" in cloud_event:
        data = _parse_part(_decoded(cloud_event["data_base64"]), "data_base64")
    elif isinstance(data, str) and data.lstrip()[:1] == "{":
        data = _parse_part(data.encode("utf-8", "surrogatepass"), "data")
    if not isinstance(data, dict):
        raise Invalid(Reason.WRONG_TYPE, f"expected an object as the CloudEvent's data, got {kind_of(data)}")
    return data


def _decoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise Invalid(Reason.WRONG_TYPE, f"data_base64: expected a text, got {kind_of(text)}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(Reason.BAD_ENCODING, "data_base64: expected base64") from None


def _parse_part(value: bytes, place: str) -> Any:
    try:
        return _parse(value)
    except Invalid as invalid:
        raise Invalid(invalid.reason, f"the CloudEvent's {place}: {invalid.detail}") from None


def _parse(value: bytes) -> Any:
    value = value.removeprefix(_BYTE_ORDER_MARK)
    try:
        plain = msgspec.json.decode(value)
    except UnicodeDecodeError as error:
        raise Invalid(Reason.BAD_ENCODING, f"no UTF-8: {error.reason}") from None
    except RecursionError:
        raise Invalid(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}") from None
    except msgspec.DecodeError as error:
        plain = _parse_leniently(value, str(error))
    if _deeper(plain, MAX_DEPTH):
        raise Invalid(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")
    return plain


def _parse_leniently(value: bytes, complaint: str) -> Any:
    """Python's parser for what Python's writers emit: NaN, Infinity, and numbers beyond a double."""
    if value[:1] == b"\0":
        complaint += "; it begins with a zero byte, as in the framing of a schema registry: send plain JSON"
    try:
        plain = json.loads(value.decode("utf-8"), parse_int=_integer, strict=True)
        msgspec.json.encode(plain)  # lone surrogates have no UTF-8
    except UnicodeDecodeError as error:
        raise Invalid(Reason.BAD_ENCODING, f"no UTF-8: {error.reason}") from None
    except UnicodeEncodeError:
        raise Invalid(Reason.BAD_ENCODING, "a lone surrogate") from None
    except RecursionError:
        raise Invalid(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}") from None
    except ValueError:
        raise Invalid(Reason.BAD_JSON, complaint) from None
    return plain


def _integer(text: str) -> int | float:
    return int(text) if len(text.lstrip("-")) <= MAX_DIGITS else float(text)


def _deeper(plain: Any, depth: int) -> bool:
    """Whether arrays and objects are nested deeper than `depth`."""
    level: list[Any] = [plain]
    for _ in range(depth):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
