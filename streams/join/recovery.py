"""What a join's store covers, of which logs, and what it begins with when the store is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import islice

import msgspec

from streams.errors import UNREADABLE
from streams.join.cells import layout_of
from streams.panes import NO_MARK
from streams.partial import LabelBooks, LabelBooksPartial, OutcomePartial
from streams.plan import ModelPlan
from streams.position import generation_of
from streams.resume import SourceLog
from streams.store import Store
from streams.stream_time import StreamTime

MAX_CLEARED = 50_000
"""Keys that are deleted at once."""
FORMAT = 2
"""Of what the store holds: with another number it is rebuilt."""
META_KEY = b"m"

Logs = tuple[SourceLog | None, SourceLog | None]
"""Of inference and of labels."""
Published = OutcomePartial | LabelBooksPartial


class Covered(msgspec.Struct, array_like=True):
    """The next offsets of both topics: what the store holds is the fold of everything before them."""

    inference: int = 0
    labels: int = 0


class JoinMeta(msgspec.Struct):
    """The store's record of the join itself."""

    plan: str = ""
    covered: Covered = msgspec.field(default_factory=Covered)
    ids: tuple[str, str] = ("", "")
    """Of the topics of inference and of labels, in the generation that is covered."""
    base: Covered = msgspec.field(default_factory=Covered)
    """What lies before both was published by a join whose store is lost: it counts no more, but is remembered."""
    marks_ms: dict[str, int] = {}
    label_mark_ms: int = NO_MARK
    times: dict[str, StreamTime] = {}
    """Of the predictions, whose marks are above. A store of 0.1 has only the marks."""
    label_time: StreamTime | None = None
    versions: dict[str, list[str]] = {}
    books: dict[str, LabelBooks] = {}
    pending: int = 0
    sequence: int = 0


pack_meta = msgspec.msgpack.Encoder().encode
unpack_meta = msgspec.msgpack.Decoder(JoinMeta).decode


class Recovery:
    """The state that a store holds, fitted to the logs as they are now.

    A store that was filled under another plan, or from other logs, is emptied: both topics are read again.

    Parameters
    ----------
    digest
        Of the plan (`digest_of`).
    logs
        Of inference and of labels, as they are now; None where that is not known.
    """

    def __init__(self, store: Store, digest: str, logs: Logs) -> None:
        self._store, self._digest, self._logs = store, digest, logs
        self.is_fresh = False
        """Whether the store held nothing that fits."""
        self.meta = self._restored()
        self.lost_labels = self._begin()
        """Labels that were gone before they were read, since the store was written."""

    def _restored(self) -> JoinMeta:
        (packed,) = self._store.get_many([META_KEY])
        try:
            meta = unpack_meta(packed) if packed else JoinMeta(plan=self._digest)
            self.is_fresh = not packed
        except UNREADABLE:
            meta = JoinMeta()
        covered = meta.covered.inference, meta.covered.labels
        fit = [
            log is None or log.holds(at, known) for log, at, known in zip(self._logs, covered, meta.ids, strict=True)
        ]
        return meta if meta.plan == self._digest and all(fit) else self._emptied()

    def _emptied(self) -> JoinMeta:
        """Deletes everything but the meta record, which the first commit replaces; returns a new one."""
        stale = (key for key, _ in self._store.scan(b"") if key != META_KEY)
        while part := list(islice(stale, MAX_CLEARED)):
            self._store.write(dict.fromkeys(part))
        self.is_fresh = True
        return JoinMeta(plan=self._digest)

    def _begin(self) -> int:
        """Moves to where the logs begin; returns how many labels were deleted before they could be read."""
        inference, labels = self._logs
        covered, lost = self.meta.covered, 0
        self._stored = None if self.is_fresh else Covered(covered.inference, covered.labels)
        if inference is not None:
            covered.inference = max(covered.inference, inference.start)
        if labels is not None:
            read = labels.began if self.is_fresh else covered.labels
            if generation_of(read) == labels.generation:
                lost = max(0, labels.start - read)
            covered.labels = max(covered.labels, labels.start)
        inference_id, labels_id = (log.ids[-1] if log and log.ids else "" for log in self._logs)
        self.meta.ids = (inference_id, labels_id)
        return lost

    @property
    def lacks_published(self) -> bool:
        """Whether the store and the topics together may hold less than was published.

        The topics no longer have records that the store does not cover, and an earlier owner of the partition may have
        read them.
        """
        if self._stored is None:
            return any(log and (log.generation or log.start > log.began) for log in self._logs)
        stored = self._stored.inference, self._stored.labels
        return any(log and log.start > at for log, at in zip(self._logs, stored, strict=True))

    def begin_from(self, covered: tuple[int, int]) -> bool:
        """Begins with nothing but what was published up to `covered`, unless the store covers as much.

        Returns
        -------
        Whether it does: then the store is empty, and may have been emptied.
        """
        if self._stored is not None:
            stored = self._stored.inference, self._stored.labels
            triples = zip(self._logs, stored, covered, strict=True)
            if not any(log and at < min(log.start, published) for log, at, published in triples):
                return False
            self.meta = self._emptied()
            self._begin()
        labels, before = self._logs[1], self.meta.covered.labels
        self.meta.base = Covered(*covered)
        if labels is not None and generation_of(covered[1]) == labels.generation:
            self.lost_labels = max(0, before - covered[1])
        return True


def digest_of(plans: Iterable[ModelPlan]) -> str:
    """Two plans with one digest mean the same by everything that is stored."""
    terms = [(p.name, layout_of(p).digest, p.segmentation, p.horizon_ms, p.cohort_ms, p.config.pane_ms) for p in plans]
    return hashlib.blake2b(msgspec.json.encode([FORMAT, terms]), digest_size=8).hexdigest()


def latest(partials: Iterable[Published]) -> list[Published]:
    """Of each record of a partition's join the one that covers most."""
    newest: dict[tuple[type, bool, int, int, bool], Published] = {}
    for partial in partials:
        outcome = isinstance(partial, OutcomePartial)
        pane = (partial.cohort, partial.pane_ms) if isinstance(partial, OutcomePartial) else (False, 0)
        # A heartbeat has no models: it says that the books that were published before cover more.
        identity = (OutcomePartial if outcome else LabelBooksPartial, *pane, partial.bucket, bool(partial.models))
        if identity not in newest or newest[identity].covered <= partial.covered:
            newest[identity] = partial
    return list(newest.values())
