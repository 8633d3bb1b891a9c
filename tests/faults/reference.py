"""Rows of the logs in, plain Python, windows, books and incidents out: the first judge of what a run published.

It knows the documents (README, docs/configuration.md, docs/architecture.md) and shares no code with the product: one
record after another, dictionaries of integers, nothing else. What it leaves to the second judge, the backtest, is
everything that needs statistics.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.plain_time import PlainTime

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
MAX_DEPTH = 64
UNITS_MS = {"ms": 1, "s": 1_000, "m": MINUTE_MS, "h": HOUR_MS, "d": 24 * HOUR_MS}
OTHER = "__other__"
MANY = 200
"""From so many events of a pane on, twice a rule's threshold leaves no doubt."""

Span = tuple[int, str | None, str | None]
"""Start of a pane or cohort; version, None for all; value of the segment, None for all."""


MAX_COHORTS = 1_000
"""Cohorts are panes, hours or days: the shortest of which a horizon has no more than these."""


@dataclass(frozen=True)
class LogRecord:
    """One record of a log as its reader gets it. `stamp_ms`: Kafka's timestamp."""

    partition: int
    offset: int
    stamp_ms: int
    value: bytes | None


@dataclass(frozen=True)
class ModelRules:
    """What of a model's configuration decides where an event counts. All times in milliseconds."""

    model: str
    pane_ms: int
    grace_ms: int
    lateness_ms: int
    future_ms: int
    cohort_ms: int
    horizon_ms: int
    labelled: bool
    segment: str
    values: frozenset[str]
    features: tuple[str, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], model: str, *, future_ms: int) -> ModelRules:
        """From the configuration file as YAML gives it."""
        found = config["models"][model]
        ((segment, values),) = found["segments"].items()
        labels, pane_ms = found.get("labels"), length_ms(found["pane"])
        horizon_ms = length_ms(labels["horizon"]) if labels else 0
        return cls(
            model,
            pane_ms,
            length_ms(found["grace"]),
            length_ms(found["lateness"]),
            length_ms(config["limits"]["future"]) if "future" in config.get("limits", {}) else future_ms,
            next(ms for ms in (pane_ms, HOUR_MS, 24 * HOUR_MS) if horizon_ms <= MAX_COHORTS * ms),
            horizon_ms,
            labels is not None,
            segment,
            frozenset(values),
            tuple(found["features"]),
        )


@dataclass
class Pane:
    """What a window of a pane has to say. `events` and `errors`: on time, or late and admitted."""

    events: int = 0
    errors: int = 0
    on_time: int = 0
    on_time_errors: int = 0
    nulls: Counter[str] = field(default_factory=Counter)
    """Events whose feature is null, by feature."""
    on_time_nulls: Counter[str] = field(default_factory=Counter)


@dataclass
class Prediction:
    """The first counted event of an id, and the label that holds for it."""

    ts: int
    on_time: bool
    version: str
    segment: str
    label: Any = None


@dataclass
class Expected:
    """What the logs say."""

    panes: dict[Span, Pane] = field(default_factory=dict)
    cohorts: Counter[tuple[Span, str]] = field(default_factory=Counter)
    """By cohort, and "predictions" or "labels"."""
    read: int = 0
    late: int = 0
    duplicate: int = 0
    strangers: int = 0
    rejected: Counter[tuple[str, bytes | None]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    """matched, corrected, duplicate, unmatched, rejected."""

    @property
    def counted(self) -> int:
        return sum(pane.events for (_, version, segment), pane in self.panes.items() if version and segment is None)

    @property
    def reasons(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for (reason, _), count in self.rejected.items():
            found[reason] += count
        return found


def length_ms(text: str) -> int:
    """ "30m" → 1,800,000."""
    unit = text.lstrip("0123456789")
    return int(text[: len(text) - len(unit)]) * UNITS_MS[unit]


def reference(rules: ModelRules, events: Iterable[LogRecord], labels: Iterable[LogRecord] = ()) -> Expected:
    """The fold of both logs, partition by partition."""
    found = Expected()
    made: dict[tuple[int, str], Prediction] = {}
    for records in _by_partition(events).values():
        _fold_events(rules, records, found, made)
    for records in _by_partition(labels).values():
        _fold_labels(rules, records, found, made)
    for prediction in made.values():
        start = prediction.ts // rules.cohort_ms * rules.cohort_ms
        for span in _spans(start, prediction.version, prediction.segment):
            found.cohorts[span, "predictions"] += prediction.on_time
            found.cohorts[span, "labels"] += prediction.label is not None
    return found


def _by_partition(records: Iterable[LogRecord]) -> dict[int, list[LogRecord]]:
    found: dict[int, list[LogRecord]] = {}
    for record in sorted(records, key=lambda record: (record.partition, record.offset)):
        found.setdefault(record.partition, []).append(record)
    return found


def _fold_events(
    rules: ModelRules, records: Sequence[LogRecord], found: Expected, made: dict[tuple[int, str], Prediction]
) -> None:
    stream_time = PlainTime(rules.grace_ms)
    for record in records:
        found.read += 1
        event, reason = read_event(record, rules.future_ms)
        if event is None:
            found.rejected[reason, record.value] += 1
            continue
        if event["model"] != rules.model:
            found.strangers += 1
            continue
        key = record.partition, event["event_id"]
        if rules.labelled and key in made:
            found.duplicate += 1
            continue
        ts = event["ts"]
        mark = stream_time.after(ts)
        if ts < mark - rules.lateness_ms:
            found.late += 1
            continue
        on_time = ts >= mark - rules.grace_ms
        version, segment = str(event.get("model_version", "")), _segment(rules, event)
        made[key] = Prediction(ts, on_time, version, segment)
        for span in _spans(ts // rules.pane_ms * rules.pane_ms, version, segment):
            _count(rules, found.panes.setdefault(span, Pane()), event, on_time)


def _segment(rules: ModelRules, event: Mapping[str, Any]) -> str:
    value = (event.get("segments") or {}).get(rules.segment)
    return value if value in rules.values else OTHER


def _spans(start_ms: int, version: str, segment: str) -> list[Span]:
    return [(start_ms, v, s) for v in (version, None) for s in (segment, None)]


def _count(rules: ModelRules, pane: Pane, event: Mapping[str, Any], on_time: bool) -> None:
    failed = event.get("error") is not None
    nulls = [name for name in rules.features if name in event["features"] and _is_null(event["features"][name])]
    pane.events += 1
    pane.errors += failed
    pane.nulls.update(nulls)
    if on_time:
        pane.on_time += 1
        pane.on_time_errors += failed
        pane.on_time_nulls.update(nulls)


def _is_null(value: Any) -> bool:
    return value is None or value != value  # NaN is the null of those who have no null


def _fold_labels(
    rules: ModelRules, records: Sequence[LogRecord], found: Expected, made: Mapping[tuple[int, str], Prediction]
) -> None:
    """A label holds from its arrival on: its own time, or its partition's stream time if that is later."""
    stream_time = PlainTime(rules.grace_ms)
    met: Counter[tuple[int, str]] = Counter()
    for record in records:
        label = _json(record.value)
        if not isinstance(label, dict) or not isinstance(label.get("event_id"), str) or "label" not in label:
            found.labels["rejected"] += 1
            continue
        arrival = max(label["label_ts"], stream_time.after(label["label_ts"]))
        key = record.partition, label["event_id"]
        prediction = made.get(key)
        if prediction is None or abs(arrival - prediction.ts) > rules.horizon_ms:
            found.labels["unmatched"] += 1
            continue
        met[key] += 1
        if label["label"] == prediction.label:
            found.labels["duplicate"] += 1
            continue
        found.labels["matched"] += 1
        found.labels["corrected"] += prediction.label is not None
        prediction.label = label["label"]


# --- One record


def read_event(record: LogRecord, future_ms: int) -> tuple[dict[str, Any] | None, str]:
    """The event, or None and the reason for which it is rejected."""
    value = record.value
    if value is None or not value.strip():
        return None, "bad_json" if value is not None else "null_value"
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None, "bad_encoding"
    if _depth(text) > MAX_DEPTH:
        return None, "too_deep"
    row = _json(value)
    if row is _NOTHING:
        return None, "bad_json"
    if not isinstance(row, dict):
        return None, "wrong_type"
    if any("\ud800" <= character <= "\udfff" for name in ("model", "event_id") for character in str(row.get(name))):
        return None, "bad_encoding"
    if missing := {"event_id", "ts", "model", "features"} - row.keys():
        return None, "missing_field" if missing else ""
    sound = isinstance(row["event_id"], str) and type(row["ts"]) is int and isinstance(row["features"], dict)
    if not sound or isinstance(row.get("score"), list):
        return None, "wrong_type"
    if row["ts"] > record.stamp_ms + future_ms:
        return None, "future"
    return row, ""


_NOTHING = object()


def _json(value: bytes | None) -> Any:
    try:
        return json.loads(value or b"")
    except (ValueError, RecursionError):
        return _NOTHING


def _depth(text: str) -> int:
    """How deep brackets nest, those within strings left out."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return 0  # deep enough for no question
    depth = deepest = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


# --- Windows


def window_errors(
    rules: ModelRules, expected: Expected, windows: Iterable[Mapping[str, Any]], most: Expected | None = None
) -> list[str]:
    """Where windows contradict the logs: events, errors and nulls of panes; predictions and labels of cohorts.

    `windows`: the last revision of each. A pane or a cohort that has events needs one of each version and segment.
    `most`: what cohorts may have at the most, by default what is expected.
    """
    most = most or expected
    errors: list[str] = []
    panes, cohorts = dict(expected.panes), {span for span, _ in expected.cohorts}
    for window in windows:
        segment = window["segment"] and window["segment"][rules.segment]
        span = instant_ms(window["start"]), window["version"], segment
        if window["clock"] == "event" and instant_ms(window["end"]) - span[0] == rules.pane_ms:
            errors += _pane_errors(span, panes.pop(span, Pane()), window)
        elif window["clock"] == "cohort":
            cohorts.discard(span)
            said = window["counts"]["predictions"], window["counts"]["labels"]
            names = "predictions", "labels"
            bounds = [(expected.cohorts[span, name], most.cohorts[span, name]) for name in names]
            if not all(least <= number <= highest for number, (least, highest) in zip(said, bounds, strict=True)):
                errors.append(f"cohort {span}: {said} predictions and labels instead of {bounds}")
    errors += [f"no window of pane {span}: {pane.events} events" for span, pane in panes.items() if pane.events]
    if rules.labelled:
        missing = {span for span in cohorts if span[1] is not None and expected.cohorts[span, "labels"]}
        errors += [f"no window of cohort {span}" for span in sorted(missing, key=str)]
    return errors


def _pane_errors(span: Span, pane: Pane, window: Mapping[str, Any]) -> list[str]:
    counts = window["counts"]
    errors = []
    if (counts["events"], counts["errors"]) != (pane.events, pane.errors):
        errors.append(f"pane {span}: {counts} instead of {pane.events} events, {pane.errors} errors")
    for signal in window["signals"]:
        if signal["name"] == "null_rate" and signal["value"] is not None:
            nulls = round(signal["value"] * signal["n"])
            if nulls != pane.nulls[signal["feature"]]:
                errors.append(f"pane {span}, {signal['feature']}: {nulls} nulls instead of {pane.nulls}")
    return errors


# --- Incidents of rules whose threshold is a plain share


@dataclass(frozen=True)
class PlainRule:
    """A rule on a share of events: fires in the first pane above the threshold, ends after `clear` panes below."""

    name: str
    threshold: float
    clear: int = 2


PLAIN_RULES = (PlainRule("values-missing", 0.1), PlainRule("requests-failing", 0.02))


def incident_errors(
    rules: ModelRules,
    expected: Expected,
    actions: Iterable[Mapping[str, Any]],
    plain: Sequence[PlainRule] = PLAIN_RULES,
) -> list[str]:
    """Where the actions contradict the panes: no incident is open in a pane that leaves no doubt, or one is long after.

    `actions`: those that were published. Held against are whole versions of the model, on what came on time.
    """
    errors: list[str] = []
    versions = sorted({version for _, version, segment in expected.panes if version and segment is None})
    published = [action["data"] for action in actions if action["data"]["segment"] is None]
    for rule in plain:
        for version in versions:
            told = [data for data in published if data["rule"] == rule.name and data["model_version"] == version]
            errors += _contradictions(rules, expected, rule, version, told)
    return errors


def _contradictions(
    rules: ModelRules, expected: Expected, rule: PlainRule, version: str, told: Sequence[Mapping[str, Any]]
) -> list[str]:
    starts = sorted(start for start, v, segment in expected.panes if v == version and segment is None)
    errors, quiet = [], 0
    for start in starts[1:-1]:  # the first and the last one do not hold their whole time
        pane, end = expected.panes[start, version, None], start + rules.pane_ms
        share = _share(rule, pane)
        is_open = _open_at(told, end)
        if pane.on_time < MANY:
            continue
        quiet = quiet + 1 if share < rule.threshold / 2 else 0
        if share > 2 * rule.threshold and not is_open:
            errors.append(f"no incident of {rule.name}, version {version}, at {start}: {share:.3f} of {pane.on_time}")
        if quiet > rule.clear and is_open:
            errors.append(f"an incident of {rule.name}, version {version}, at {start}: {quiet} quiet panes before")
    return errors


def _share(rule: PlainRule, pane: Pane) -> float:
    if rule.name == "requests-failing":
        return pane.on_time_errors / max(pane.on_time, 1)
    return max(pane.on_time_nulls.values(), default=0) / max(pane.on_time, 1)


def _open_at(told: Sequence[Mapping[str, Any]], end_ms: int) -> bool:
    """Whether the last state that was published for windows up to then is not "resolved"."""
    last = None
    for data in sorted(told, key=lambda data: (data["window"]["end"], data["state"] != "firing")):
        if instant_ms(data["window"]["end"]) <= end_ms:
            last = data["state"]
    return last is not None and last != "resolved"


def instant_ms(text: str) -> int:
    """RFC 3339 in UTC → milliseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
