"""Partials and the limit of their topic → records that fit, as far as the format can be divided.

A record of sketches packs all models of a bucket. It may be divided by models, since each model's share stands for
itself: of one chunk and pane, the share with the highest end offset wins, whichever record it is in. The share of one
model is not divided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec

from streams.events import Reason
from streams.partial import (
    Books,
    BooksPart,
    BooksPartial,
    LabelBooksPart,
    LabelBooksPartial,
    OutcomePartial,
    PanePartial,
    Partial,
    key_of,
    pack,
)
from streams.plan import model_of

NEVER_IDLE_MS = 1 << 61
"""A clock later than any: a model with it, as its last record's time, is never idle."""
HEAD_BYTES = 1_024
"""Bytes of a batch's head and a record's own, as the producer computes them."""


def fitted(partial: Partial, incarnation: str, limit: int) -> Iterator[tuple[bytes, bytes, Partial]]:
    """Keys, sealed bytes and partials: one record if it fits into `limit` bytes, else as few as the models allow.

    A record of one model is returned as it is, whether it fits or not. Keys of the records after the first one end with
    their number, so that compaction keeps them all.
    """
    key = key_of(partial, incarnation)
    packed = pack(partial, key)
    if len(key) + len(packed) + HEAD_BYTES <= limit or not is_divisible(partial):
        yield key, packed, partial
        return
    for number, some in enumerate(_divided(partial, limit - 3 * HEAD_BYTES)):
        own = key if not number else key + b"." + str(number).encode()
        yield own, pack(some, own), some


def is_sketches(partial: Partial) -> bool:
    """Whether it holds sketches of models, rather than books, which the other models need too."""
    return isinstance(partial, PanePartial | OutcomePartial)


def is_divisible(partial: Partial) -> bool:
    """Whether its models may be in several records. Sketches may; books must not, as they also say which models are
    absent."""
    return is_sketches(partial) and len(partial.models) > 1


def _divided(partial: Partial, room: int) -> Iterator[Partial]:
    """The partial in pieces whose models take no more than `room` bytes together, or that have one model alone."""
    assert isinstance(partial, PanePartial | OutcomePartial)
    taken, used = 0, 0
    for at, part in enumerate(partial.models):
        size = len(msgspec.msgpack.encode(part))
        if at > taken and used + size > room:
            yield msgspec.structs.replace(partial, models=partial.models[taken:at])
            taken, used = at, 0
        used += size
    yield msgspec.structs.replace(partial, models=partial.models[taken:])


def without(partials: Iterable[Partial], models: Collection[str]) -> list[Partial]:
    """The partials without the sketches of models that may not be evaluated until they can be published.

    Their books stay, with the counted records as rejected, and without stream time: so nobody takes their time for
    read, nor their partition for idle.
    """
    return [_without(partial, models) for partial in partials] if models else list(partials)


def _without(partial: Partial, models: Collection[str]) -> Partial:
    if isinstance(partial, PanePartial | OutcomePartial):
        kept = [part for part in partial.models if model_of(part.model) not in models]
        return msgspec.structs.replace(partial, models=kept)
    if isinstance(partial, BooksPartial):
        parts = [
            BooksPart(part.model, _rejected(part.books), None, NEVER_IDLE_MS)
            if model_of(part.model) in models
            else part
            for part in partial.models
        ]
        return msgspec.structs.replace(partial, models=parts)
    assert isinstance(partial, LabelBooksPartial)
    labels = [LabelBooksPart(part.model, part.books, None) if part.model in models else part for part in partial.models]
    return msgspec.structs.replace(partial, models=labels)


def _rejected(books: Books) -> Books:
    """The books of a model whose sketches of the chunk are not published."""
    parked = books.rejected.get(Reason.PARKED, 0) + books.counted
    rejected = {**books.rejected, **({str(Reason.PARKED): parked} if parked else {})}
    return msgspec.structs.replace(books, counted=0, rejected=rejected)
