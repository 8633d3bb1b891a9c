"""Published actions, truth and acks → how far each proxy can be trusted, and what is done about each rule.

A *proxy* is a signal that is judged before the labels come. Each of its *alarms* is held against the truth of the
spans that it spoke about, as `docs/statistics.md` defines it. A fold, idempotent and independent of the order of the
records, as long as they are younger than what has been folded into mere counts.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import msgspec

from streams.ack import Ack, Status
from streams.action import Action
from streams.duration import WEEK_MS
from streams.errors import UNREADABLE, SketchError
from streams.incident_log import IncidentKey
from streams.incidents import (
    Incident,
    first,
    first_of_each,
    incident_of,
    is_proxy,
    speaks_of_the_model,
)
from streams.ledger_rows import LedgerRows, ProxyRow, Realised, RuleRow, proxy_row, rule_row
from streams.ledger_tally import RuleTally, Tally, Verdict, rule_tally
from streams.plan import ModelPlan
from streams.seal import inflate, seal, unseal
from streams.signals.names import SIGNALS
from streams.times import NO_TIME, instant_ms
from streams.truth import Episode, Standing, Truth, TruthState
from streams.window import Clock, WindowRecord

TOTAL = "total"
"""Stands for all proxies together: an incident of several is one alarm."""

MOST_INCIDENTS, MOST_SPANS, MOST_LEADS, MOST_LOOSE = 500, 4_000, 200, 1_000
"""Of one model: incidents, and spans of truth of all cells, beyond which the older half is folded into counts; lead
times of one proxy, and acks of actions that are not known (yet), beyond which the oldest are dropped."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger of a model depends on beside the records."""

    model: str
    truth_ms: int
    horizon_ms: int = 0
    budget: float = 1.0
    """False alarms a week that are allowed."""
    proxies: tuple[str, ...] = ()
    """Those that its rules look at: each has a row from the start."""
    rules: dict[str, bool] = {}
    """Its rules, and whether each is a shadow."""


Verdicts = dict[IncidentKey, tuple[Verdict, int | None]]
"""By incident, with the lead time of what is confirmed."""


class LedgerState(msgspec.Struct, kw_only=True):
    """What a ledger remembers, as plain fields."""

    model: str
    truth: TruthState
    incidents: tuple[Incident, ...] = ()
    loose: dict[str, dict[str, int]] = {}
    """Acks of unknown actions."""
    first_ms: int | None = None
    last_ms: int | None = None
    proxies: dict[str, Tally] = {}
    """Counts of what is forgotten."""
    rules: dict[str, RuleTally] = {}
    false_alarms: int = 0
    truth_ms: int = 0
    """The length of the spans of truth; 0: of release 0.1, which did not say it."""


class Ledger:
    """The ledger of one model."""

    def __init__(self, terms: Terms, state: LedgerState | None = None) -> None:
        state = state or LedgerState(model=terms.model, truth=TruthState())
        self.terms = terms
        if state.truth_ms not in (0, terms.truth_ms):  # spans of another length say nothing of those of today
            truth = TruthState(breaches=state.truth.breaches, before_ms=state.truth.before_ms)
            state = msgspec.structs.replace(state, truth=truth)
        self.truth = Truth(terms.truth_ms, state.truth)
        self.first_ms, self.last_ms = state.first_ms, state.last_ms
        self._incidents = {incident.key: incident for incident in state.incidents}
        self._by_id = {name: incident.key for incident in state.incidents for name in incident.ids}
        self._loose = dict(state.loose)
        self._proxies, self._rules = dict(state.proxies), dict(state.rules)
        self._false_alarms = state.false_alarms
        self._room = MOST_SPANS
        self._known_verdicts: Verdicts | None = None
        self._known_rows: list[ProxyRow] | None = None
        self._unsaved = False
        self._saved_until_ms = self.truth.settled_until_ms

    def to_state(self) -> LedgerState:
        return LedgerState(
            model=self.terms.model,
            truth=self.truth.to_state(),
            incidents=tuple(self._incidents[key] for key in sorted(self._incidents, key=lambda key: key.order)),
            loose=dict(self._loose),
            first_ms=self.first_ms,
            last_ms=self.last_ms,
            proxies=dict(self._proxies),
            rules=dict(self._rules),
            false_alarms=self._false_alarms,
            truth_ms=self.terms.truth_ms,
        )

    def news(self) -> LedgerState | None:
        """The snapshot, if it has to be kept now: spans that are not bad wait up to a horizon, for they are published
        again."""
        until_ms, saved_ms = self.truth.settled_until_ms, self._saved_until_ms
        grown = until_ms is not None and (saved_ms is None or until_ms - saved_ms >= self.terms.horizon_ms)
        if not self._unsaved and not grown:
            return None
        self._unsaved, self._saved_until_ms = False, until_ms
        return self.to_state()

    # What comes in

    def take_action(self, action: Action, shadow: bool = False) -> None:
        """An action of the model, or what a shadow rule would have published."""
        incident = incident_of(action, shadow)
        if incident is None or incident.since_ms < self.truth.before_ms:
            return
        self._observe(instant_ms(action.data.window.end))
        incident = msgspec.structs.replace(incident, acks=self._loose.pop(action.id, {}))
        known = self._incidents.get(incident.key)
        merged = known.merged(incident) if known else incident
        self._by_id[action.id] = incident.key
        if merged != known:
            self._put(merged)
            self._bound()

    def take_window(self, record: WindowRecord) -> None:
        """A window of the model, of any clock."""
        end_ms = instant_ms(record.end)
        if end_ms != NO_TIME:
            self._observe(end_ms)
            if record.clock in (Clock.TRUTH, Clock.ARRIVAL):
                self._unsaved |= self.truth.take(record)
                self._known_verdicts = self._known_rows = None
                self._bound()

    def take_ack(self, ack: Ack) -> None:
        """An ack of one of the model's actions, even if the action is yet to come."""
        said = {str(ack.status): ack.ts_ms}
        key = self._by_id.get(ack.action_id)
        if key is None:
            self._loose[ack.action_id] = first_of_each(self._loose.get(ack.action_id, {}), said)
            self._drop_loose()
            return
        known = self._incidents[key]
        acks = first_of_each(known.acks, said)
        if acks != known.acks:
            self._put(msgspec.structs.replace(known, acks=acks))

    def knows(self, action_id: str) -> bool:
        return action_id in self._by_id

    def _put(self, incident: Incident) -> None:
        self._incidents[incident.key] = incident
        self._known_verdicts = self._known_rows = None
        self._unsaved = True

    def _observe(self, end_ms: int) -> None:
        if self.first_ms is None or end_ms < self.first_ms:
            self.first_ms, self._unsaved = end_ms, True
        self.last_ms = end_ms if self.last_ms is None else max(self.last_ms, end_ms)

    def _drop_loose(self) -> None:
        if len(self._loose) > MOST_LOOSE:
            del self._loose[min(self._loose, key=lambda name: (min(self._loose[name].values()), name))]

    # Bounds

    def _bound(self) -> None:
        """Folds the older half of what is too much into counts: whole spans, and the present one only if it must be."""
        span_ms = self.terms.truth_ms
        if len(self._incidents) > MOST_INCIDENTS:
            since_ms = sorted(incident.since_ms for incident in self._incidents.values())
            middle_ms = since_ms[len(since_ms) // 2] // span_ms * span_ms
            self._fold(middle_ms if middle_ms > since_ms[0] else middle_ms + span_ms)
        if self.truth.size > self._room:
            starts_ms = self.truth.starts_ms
            middle_ms = starts_ms[len(starts_ms) // 2]
            if starts_ms[0] < middle_ms:
                self._fold(middle_ms)
            # Of very many cells one span alone may be too much.
            self._room = MOST_SPANS if self.truth.size <= MOST_SPANS else 2 * self.truth.size

    def _fold(self, before_ms: int) -> None:
        incidents = [found for found in self._incidents.values() if found.since_ms < before_ms]
        episodes = [found for found in self.truth.episodes() if found.start_ms < before_ms]
        verdicts = self._verdicts()
        for proxy in self._names():
            folded = self._proxies.get(proxy, Tally()).plus(self._tally(proxy, verdicts, incidents, episodes))
            folded.leads_ms = folded.leads_ms[-MOST_LEADS:]
            self._proxies[proxy] = folded
        for rule in {incident.rule for incident in incidents}:
            self._rules[rule] = self._rules.get(rule, RuleTally()).plus(rule_tally(rule, incidents, self.last_ms))
            self._rules[rule].delays_ms = self._rules[rule].delays_ms[-MOST_LEADS:]
        self._false_alarms += self._count_false(incidents, verdicts)
        for incident in incidents:
            del self._incidents[incident.key]
        self._by_id = {name: found.key for found in self._incidents.values() for name in found.ids}
        self.truth.forget(before_ms)
        self._known_verdicts = self._known_rows = None
        self._unsaved = True

    # What comes out

    def proxies(self) -> list[ProxyRow]:
        """A row of every proxy, and one of all of them."""
        if self._known_rows is None:
            self._known_rows = self._proxy_rows()
        return list(self._known_rows)

    def _proxy_rows(self) -> list[ProxyRow]:
        verdicts, episodes = self._verdicts(), self.truth.episodes()
        incidents = list(self._incidents.values())
        rows = []
        for name in self._names():
            tally = self._proxies.get(name, Tally()).plus(self._tally(name, verdicts, incidents, episodes))
            rows.append(proxy_row(self.terms.model, name, tally))
        return rows

    def rules(self) -> list[RuleRow]:
        """A row of every rule."""
        incidents = list(self._incidents.values())
        names = dict.fromkeys([*self.terms.rules, *sorted({*self._rules, *(found.rule for found in incidents)})])
        rows = []
        for name in names:
            tally = self._rules.get(name, RuleTally()).plus(rule_tally(name, incidents, self.last_ms))
            rows.append(rule_row(self.terms.model, name, self._is_shadow(name, incidents), tally))
        return rows

    def _is_shadow(self, rule: str, incidents: Iterable[Incident]) -> bool:
        """Of a rule that the configuration no longer has, its incidents say so."""
        if rule in self.terms.rules:
            return self.terms.rules[rule]
        return any(incident.shadow for incident in incidents if incident.rule == rule)

    def realised(self) -> Realised:
        """False alarms over the time that was observed; less than a week counts as one."""
        found = self._false_alarms + self._count_false(self._incidents.values(), self._verdicts())
        span_ms = 0 if self.first_ms is None or self.last_ms is None else self.last_ms - self.first_ms
        weeks = span_ms / WEEK_MS
        return Realised(
            model=self.terms.model,
            false_alarms=found,
            weeks=weeks,
            per_week=found / max(1.0, weeks),
            budget=self.terms.budget,
        )

    def _names(self) -> list[str]:
        seen = {name for incident in self._incidents.values() for name in incident.proxies}
        return [*dict.fromkeys([*self.terms.proxies, *sorted({*seen, *self._proxies} - {TOTAL})]), TOTAL]

    def _verdicts(self) -> Verdicts:
        """What the truth says of every alarm."""
        if self._known_verdicts is not None:
            return self._known_verdicts
        changes = [
            (incident.version, at) for incident in self._incidents.values() if (at := incident.changed_ms) is not None
        ]
        self._known_verdicts = {
            incident.key: self._verdict(incident, changes)
            for incident in self._incidents.values()
            if incident.fired_ms is not None and incident.proxies
        }
        return self._known_verdicts

    def _verdict(self, incident: Incident, changes: Iterable[tuple[str | None, int]]) -> tuple[Verdict, int | None]:
        assert incident.fired_ms is not None
        since_ms, end_ms = incident.since_ms, self._until_ms(incident)
        last_ms = None if end_ms is None else self.truth.last_end_ms(end_ms)
        for version, at in changes:
            same = version is None or incident.version in (None, version)
            if same and since_ms <= at and (last_ms is None or at < last_ms):
                return Verdict.CENSORED, None
        spans = self.truth.within(incident.version, incident.segment, since_ms, end_ms)
        standings = {self.truth.at(*place).standing for place in spans}
        if Standing.BAD in standings:
            bad = [place for place in spans if self.truth.at(*place).standing is Standing.BAD]
            earliest = min(bad, key=lambda place: (place[1], place[0]))
            return Verdict.CONFIRMED, self.truth.seen_ms(*earliest) - incident.fired_ms
        until_ms = self.truth.settled_until_ms
        if end_ms is None or until_ms is None or until_ms < end_ms:
            return Verdict.OPEN, None
        return (Verdict.REFUTED if Standing.GOOD in standings else Verdict.UNKNOWN), None

    def _until_ms(self, incident: Incident) -> int | None:
        """So long it speaks of what comes: until it is over, or the labels of the time when it fired have come."""
        assert incident.fired_ms is not None
        return first(incident.end_ms, self.truth.told_ms(incident.version, incident.segment, incident.fired_ms))

    def _tally(
        self,
        proxy: str,
        verdicts: Verdicts,
        incidents: Iterable[Incident],
        episodes: Iterable[Episode],
    ) -> Tally:
        """Of one proxy, or of all: its alarms among some incidents, and what it did about some episodes."""
        known = self._incidents.values()
        alarms = [
            (found, self._until_ms(found))
            for found in known
            if found.key in verdicts and proxy in (TOTAL, *found.proxies)
        ]
        ours = [found for found in incidents if found.key in verdicts and proxy in (TOTAL, *found.proxies)]
        tally = Tally(shadow=sum(found.shadow for found in ours))
        for incident in ours:
            verdict, lead_ms = verdicts[incident.key]
            tally.verdicts = {**tally.verdicts, verdict: tally.verdicts.get(verdict, 0) + 1}
            tally.leads_ms += () if lead_ms is None else (lead_ms,)
        for episode in episodes:
            over = [
                alarm
                for alarm, until_ms in alarms
                if alarm.covers(episode.cell) and episode.overlaps(alarm.since_ms, until_ms)
            ]
            if any(verdicts[alarm.key][0] is Verdict.CENSORED for alarm in over):
                continue
            seen_ms = self.truth.seen_ms(episode.cell, episode.start_ms)
            in_time = any(alarm.fired_ms is not None and alarm.fired_ms < seen_ms for alarm in over)
            tally.caught += in_time
            tally.late += bool(over) and not in_time
            tally.missed += not over
        return tally

    @staticmethod
    def _count_false(incidents: Iterable[Incident], verdicts: Verdicts) -> int:
        return sum(
            Status.DISMISSED in incident.acks or verdicts.get(incident.key, ("",))[0] == Verdict.REFUTED
            for incident in incidents
            if incident.fired_ms is not None and not incident.shadow
        )


def terms_of(plan: ModelPlan) -> Terms:
    """The ledger's terms of a model."""
    watched = {signal for rule in plan.config.rules if speaks_of_the_model(rule.response) for signal in rule.signals}
    return Terms(
        model=plan.name,
        truth_ms=plan.truth_ms,
        horizon_ms=plan.horizon_ms,
        budget=plan.config.false_alarms_per_week,
        proxies=tuple(name for name, signal in SIGNALS.items() if name in watched and is_proxy(signal.family, name)),
        rules={rule.name: rule.shadow for rule in plan.config.rules},
    )


def rows_of(ledgers: Iterable[Ledger]) -> LedgerRows:
    """Of one model after the other."""
    books = list(ledgers)
    return LedgerRows(
        proxies=tuple(row for book in books for row in book.proxies()),
        rules=tuple(row for book in books for row in book.rules()),
        realised=tuple(book.realised() for book in books),
    )


def pack_ledger(state: LedgerState, key: bytes = b"") -> bytes:
    return seal(zlib.compress(msgspec.msgpack.encode(state)), key=key)


def unpack_ledger(data: bytes, key: bytes = b"") -> LedgerState:
    """Raises SketchError for what is none, NewerError for one of a later release."""
    try:
        return msgspec.msgpack.decode(inflate(unseal(data, key)), type=LedgerState)
    except UNREADABLE as error:
        raise SketchError(seen=f"a ledger that does not open ({error})", expected="a packed ledger") from None
