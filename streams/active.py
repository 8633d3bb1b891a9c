"""Configurations of a group's members → the active one; members with another configuration wait.

A member that does not have a model counts its events as undeclared; a member with another version of it counts them
into other sketches. So only members of one configuration get partitions: of the one that declares everything that any
other declares, if there is one (a roll-out that adds a model); else of the one that most members have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from streams.assign import Claims
from streams.plan import ModelPlan, Plan

HASH_BYTES = 6
MAX_LISTED = 2_000
"""Parts that a configuration lists; for a larger one only the digest is compared."""
UNKNOWN = 0
"""The digest of a member that announces none: of an earlier release."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What all members of a group must have in common. `parts`: sorted hashes of its models and of the rest."""

    digest: int = UNKNOWN
    parts: bytes = b""


def configuration_of(plan: Plan) -> Configuration:
    """The configuration of a plan: equal for two workers that count and evaluate alike."""
    kafka = plan.config.kafka
    topics = kafka.inference, kafka.labels, kafka.feedback, kafka.runs, kafka.outcomes
    rest = _hash([topics, kafka.buckets, kafka.chunk_size, plan.config.limits])
    return configured(sorted([rest, *map(_model_hash, plan.models.values())]))


def configured(hashes: Iterable[bytes]) -> Configuration:
    """The configuration with these parts."""
    found = sorted(set(hashes))
    digest = int.from_bytes(blake2b(b"".join(found), digest_size=8).digest(), "big") >> 1
    return Configuration(digest or 1, b"".join(found) if len(found) <= MAX_LISTED else b"")


def active(members: Iterable[Claims]) -> int:
    """The digest of the configuration whose members get partitions."""
    counts: Counter[int] = Counter()
    parts: dict[int, frozenset[bytes] | None] = {}
    for claims in members:
        counts[claims.digest] += 1
        parts[claims.digest] = _parts(claims)
    for digest, own in parts.items():
        if own is not None and all(other is not None and other <= own for other in parts.values()):
            return digest
    return max(counts, key=lambda digest: (counts[digest], digest), default=UNKNOWN)


def _parts(claims: Claims) -> frozenset[bytes] | None:
    """None where they are not known."""
    if claims.digest == UNKNOWN or not claims.parts or len(claims.parts) % HASH_BYTES:
        return None
    size = HASH_BYTES
    return frozenset(claims.parts[at : at + size] for at in range(0, len(claims.parts), size))


def _model_hash(plan: ModelPlan) -> bytes:
    baseline = plan.baseline
    learned = [baseline.events, baseline.start_ms, baseline.end_ms, baseline.pane_ms] if baseline is not None else []
    digests = [layout.digest for layout in (plan.layout, plan.outcomes, plan.feedback) if layout is not None]
    return _hash([plan.name, plan.config, digests, learned])


def _hash(value: Any) -> bytes:
    packed = msgspec.json.encode(value, enc_hook=repr, order="deterministic")
    return blake2b(packed, digest_size=HASH_BYTES).digest()
