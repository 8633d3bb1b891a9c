"""Stream time of one model and source partition: the highest event time that the partition's records agree on.

It is the time by which a record is on time or late. A plain maximum would let one record with a fast clock make all
others late. So stream time is at most the grace above a *base*, and votes move the base: a record that is a quarter of
the grace or more above the base is a vote for a later base, any other record takes two votes away. As many votes as the
stream has records in a sixteenth of the grace (48 at least, 1,024 at most) move the base to the lowest time among them.
Until there is a base, stream time is an hour below the highest time: clocks hardly differ by more, so what is older is
late.

In a dense stream stream time is the plain maximum of the event times. A record, or a share of up to about half of them,
that is further ahead moves nothing; after a pause, and at the start, it takes at least 48 records until stream time
follows. Until then lateness is measured against the earlier stream time: nothing is late for want of a base. All of it
is a function of the partition's own order, one record after the other, so batches and restarts change nothing.
"""

from __future__ import annotations

import msgspec
import numpy as np

from streams.arrays import Ints
from streams.duration import HOUR_MS
from streams.panes import NO_MARK

MIN_VOTES, MAX_VOTES = 48, 1_024
VOTES_OF_GRACE = 16
"""The base needs as many votes as there are records in this part of the grace."""
STEPS = 4
"""A step of the base is at least this part of the grace."""
DISSENT = 2
"""Votes that a record below the step takes away."""
SKEW_MS = HOUR_MS
"""The largest difference between clocks at the start."""
MIN_GRACE_MS = 1_000
"""A shorter grace is treated as this one: with none at all, every record would be ahead of all others."""

ONE_BY_ONE = 256
"""Records that are processed one by one once there is a vote."""
PAUSE_MS, LIVE_MS = 2_000, 600_000
"""A stream whose records are no older than the latter is slow if it pauses for the former."""


class StreamTime(msgspec.Struct, array_like=True, gc=False):
    """The state, as `progress` and the label join keep it. NO_MARK: unknown yet; or no candidate."""

    mark_ms: int = NO_MARK
    base_ms: int = NO_MARK
    candidate_ms: int = NO_MARK
    """The lowest time that the votes agree on."""
    votes: int = 0
    since: int = 0
    """Records since the base was moved."""
    pace: int = 0
    """Records in a grace of the stream, approximately."""
    waiting: int = 0
    """Votes of records beyond the grace: those of a candidate that loses, or a minority, turn out to be ahead."""
    ahead: int = 0
    """Records that turned out to be ahead of the stream, in all."""
    near: int = 0
    """Of the waiting votes, those within the grace of the candidate: if it wins, they were right."""

    @classmethod
    def at(cls, mark_ms: int) -> StreamTime:
        """The state of a stream time that was kept without its base, as up to release 0.1."""
        return cls(mark_ms, mark_ms)

    def copy(self) -> StreamTime:
        return msgspec.structs.replace(self)

    def take(self, times_ms: Ints, grace_ms: int) -> Ints:
        """(n,) event times in the partition's order → (n,) the stream time after each record."""
        n, grace_ms = len(times_ms), max(grace_ms, MIN_GRACE_MS)
        marks, at = np.empty(n, np.int64), 0
        while at < n:
            if self.base_ms == NO_MARK or self.candidate_ms != NO_MARK:
                at = self._vote_by_vote(times_ms, marks, at, grace_ms)
            else:
                at = self._without_votes(times_ms, marks, at, grace_ms)
        return marks

    def _without_votes(self, times_ms: Ints, marks: Ints, start: int, grace_ms: int) -> int:
        """Takes the records before the next vote at once, and gives the place of the vote."""
        rest = times_ms[start:]
        votes = rest >= self.base_ms + grace_ms // STEPS
        n = int(votes.argmax())
        if not votes[n]:
            n = len(rest)
        if n:
            part = marks[start : start + n]
            np.maximum.accumulate(rest[:n], out=part)
            np.maximum(part, self.mark_ms, out=part)
            self.mark_ms = int(part[-1])
            self.since += n
        if n < len(rest):
            marks[start + n] = self._step(int(rest[n]), grace_ms)
            n += 1
        return start + n

    def _vote_by_vote(self, times_ms: Ints, marks: Ints, start: int, grace_ms: int) -> int:
        """Takes some records one by one; gives the place after them."""
        step = self._step
        done = [step(time_ms, grace_ms) for time_ms in times_ms[start : start + ONE_BY_ONE].tolist()]
        marks[start : start + len(done)] = done
        return start + len(done)

    def step(self, time_ms: int, grace_ms: int) -> int:
        """Processes one record, and returns the stream time after it."""
        return self._step(time_ms, max(grace_ms, MIN_GRACE_MS))

    def _step(self, time_ms: int, grace_ms: int) -> int:
        self.since += 1
        if self.base_ms == NO_MARK:
            self._begin(time_ms, grace_ms)
        elif time_ms >= self.base_ms + grace_ms // STEPS:
            self._vote(time_ms, grace_ms)
        elif self.candidate_ms != NO_MARK:
            self._dissent()
        if self.base_ms != NO_MARK and self.mark_ms < time_ms <= self.base_ms + grace_ms:
            self.mark_ms = time_ms
        return self.mark_ms

    def _begin(self, time_ms: int, grace_ms: int) -> None:
        self.mark_ms = max(self.mark_ms, time_ms - SKEW_MS)
        if time_ms >= self.mark_ms:
            self._vote(time_ms, grace_ms)

    def _dissent(self) -> None:
        self.votes -= DISSENT
        if self.votes <= 0:
            self.ahead += self.waiting
            self.candidate_ms, self.votes, self.waiting, self.near = NO_MARK, 0, 0, 0

    def _vote(self, time_ms: int, grace_ms: int) -> None:
        if self.candidate_ms == NO_MARK or time_ms < self.candidate_ms:
            if time_ms + grace_ms < self.candidate_ms:
                self.near = 0  # all of them were at the earlier candidate, or later
            self.candidate_ms = time_ms
        if self.base_ms == NO_MARK:
            self.candidate_ms = max(self.candidate_ms, self.mark_ms)
        self.votes += 1
        if self.base_ms != NO_MARK and time_ms > self.base_ms + grace_ms:
            self.waiting += 1
            self.near += time_ms <= self.candidate_ms + grace_ms
        if self.votes >= max(MIN_VOTES, min(MAX_VOTES, self.pace // VOTES_OF_GRACE)):
            moved_ms = self.candidate_ms - self.base_ms
            pace = self.since * grace_ms // moved_ms if self.base_ms != NO_MARK else 0
            self.pace = max(pace, self.pace // 2)
            self.base_ms, self.mark_ms = self.candidate_ms, max(self.mark_ms, self.candidate_ms)
            self.ahead += self.waiting - self.near if 2 * self.waiting < self.votes else 0
            self.candidate_ms, self.votes, self.waiting, self.since, self.near = NO_MARK, 0, 0, 0, 0
