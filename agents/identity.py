"""Topic names → the ids that Kafka gave those topics (KIP-516): a topic that is deleted and created again gets another.

aiokafka 0.14 asks in a version of the protocol without ids, so the request is built here, of its protocol classes.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from aiokafka.client import ConnectionGroup
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

ID_BYTES = 16


class Uuid:
    """A topic's id on the wire."""

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        found = data.read(ID_BYTES)
        if len(found) != ID_BYTES:
            raise ValueError("Buffer underrun decoding a topic id")
        return found

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def repr(cls, value: bytes) -> str:
        return repr(value)


class MetadataResponse_v10(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class MetadataRequest_v10(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = MetadataResponse_v10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class MetadataRequest(Request[MetadataRequest_v10]):  # type: ignore[misc]
    """Asks for topics by name, in the first version that answers with their ids."""

    API_KEY = 3

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = sorted(topics)

    def build(self, request_struct_class: type[Any]) -> Any:
        rows: list[tuple[bytes, str, dict[int, bytes]]] = [(bytes(ID_BYTES), topic, {}) for topic in self._topics]
        return request_struct_class(rows, False, False, False, {})


async def topic_ids(client: Any, node_id: int | None, topics: Iterable[str]) -> dict[str, str] | None:
    """Ids by name of those of the topics that exist, as one broker knows them; None if the broker has no ids.

    KafkaError if it does not answer.

    Parameters:
        client: a started AIOKafkaClient. A node in the connection group of the coordinator answers although a fetch
            waits in the other group.
    """
    node = client.get_random_node() if node_id is None else node_id
    if node is None:
        raise KafkaError("no broker is known")
    try:
        answer = await client.send(node, MetadataRequest(topics), group=ConnectionGroup.COORDINATION)
    except (IncompatibleBrokerVersion, NotImplementedError):
        return None
    found: dict[str, str] = {}
    for error_code, topic, topic_id, *_ in answer.topics:
        error = for_code(error_code)
        if error is UnknownTopicOrPartitionError:
            continue
        found[topic] = urlsafe_b64encode(topic_id).decode().rstrip("=") if any(topic_id) else ""
    return found if all(found.values()) else None
