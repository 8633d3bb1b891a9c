"""Text of a foreshock.yaml → Config, or a ConfigError that names the place and the mend.

Everything that a person may say about a model is a field of a record here; what the reference data said is in the
baseline file that the configuration names.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
import yaml

from streams.duration import format_ms, parse_ms
from streams.errors import ConfigError
from streams.events import MAX_NAME
from streams.signals.distance import METHODS
from streams.signals.names import SIGNALS, judges_labels
from streams.signals.presets import PRESETS
from streams.sketch.layout import Kind
from streams.sketch.outcomes import MAX_CLASSES, Task

OTHER = "__other__"
"""The bucket into which undeclared models, and versions and segment values beyond their caps, are folded."""

MAX_SEGMENT_VALUES = 64
MAX_SEGMENTS = 8
MAX_FEATURES = 5_000
MAX_MODELS = 5_000
MAX_VERSION = 128
MIN_PANE_MS = 1_000
NAME = f"a printable name of 1 to {MAX_NAME} characters without quotes or backslashes"


class Response(StrEnum):
    """What is done about a decision."""

    RETRAIN = "retrain"
    ROLLBACK = "rollback"
    HUMAN_REVIEW = "human_review"
    DATA_INCIDENT = "data_incident"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Security(_Strict, frozen=True):
    """How Kafka clients prove who they are. Secrets come from an environment variable or a file, never from here."""

    protocol: str = "PLAINTEXT"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    sasl_mechanism: str | None = None
    username: str | None = None
    password_env: str | None = None
    password_file: str | None = None
    token_file: str | None = None


class Kafka(_Strict, frozen=True):
    """Where the topics are."""

    broker: str = "127.0.0.1:9092"
    prefix: str = ""
    group: str = "foreshock"
    inference: str = "inference"
    labels: str = "labels"
    buckets: int = 16
    chunk_size: int = 65_536
    security: Security = msgspec.field(default_factory=Security)


class Web(_Strict, frozen=True):
    """Where /metrics and /health answer."""

    listen: str = "127.0.0.1:6066"
    token_env: str | None = None
    token_file: str | None = None
    max_series: int = 20_000


class Feature(_Strict, frozen=True):
    """A declared feature. `range` may widen what the reference held; beyond it a value is out of range."""

    type: Kind
    range: tuple[float, float] | None = None


class Tuning(_Strict, frozen=True):
    """What a person changes about one signal."""

    effect: float | None = None
    method: str | None = None
    categorical_method: str | None = None


class Rule(_Strict, frozen=True, rename={"for_panes": "for", "clear_panes": "clear"}):
    """Signals → decision. Fires after `for` breached panes in a row, resolves after `clear` quiet ones."""

    name: str
    signals: tuple[str, ...]
    response: Response
    severity: Severity = Severity.WARNING
    over: str | None = None
    for_panes: int = 1
    clear_panes: int = 2
    min_n: int = 50
    features: tuple[str, ...] | None = None
    segments: bool = True
    owner: str = ""
    runbook: str = ""


class Labels(_Strict, frozen=True):
    """How the model's labels are read, and joined to its predictions.

    `classes`: of a binary model the negative one and the positive one, whose probability the score is. `critical`:
    classes whose recall and precision are judged.
    """

    task: Task
    classes: tuple[str, ...] = ()
    critical: tuple[str, ...] = ()
    threshold: float = 0.5
    horizon: str = "30d"

    @property
    def horizon_ms(self) -> int:
        return parse_ms(self.horizon)


class Model(_Strict, frozen=True):
    """One monitored model."""

    baseline: str | None = None
    versions: tuple[str, ...] = ()
    pane: str = "1m"
    grace: str = "1m"
    lateness: str = "1d"
    idle: str = "1m"
    false_alarms_per_week: float = 1.0
    preset: str | None = None
    owner: str = ""
    runbook: str = ""
    max_versions: int = 8
    labels: Labels | None = None
    segments: Mapping[str, tuple[str, ...]] = {}
    signals: Mapping[str, Any] = {}
    features: Mapping[str, Any] = {}
    rules: tuple[Any, ...] = ()

    @property
    def pane_ms(self) -> int:
        return parse_ms(self.pane)

    @property
    def grace_ms(self) -> int:
        return parse_ms(self.grace)

    @property
    def lateness_ms(self) -> int:
        return parse_ms(self.lateness)

    @property
    def idle_ms(self) -> int:
        return parse_ms(self.idle)

    def over_ms(self, rule: Rule) -> int:
        return parse_ms(rule.over) if rule.over else self.pane_ms


class Limits(_Strict, frozen=True):
    """Caps on what a payload may cost."""

    max_record_bytes: int = 1_048_576
    future: str = "1h"

    @property
    def future_ms(self) -> int:
        return parse_ms(self.future)


class Config(_Strict, frozen=True):
    """The whole file."""

    models: Mapping[str, Any]
    kafka: Kafka = msgspec.field(default_factory=Kafka)
    web: Web = msgspec.field(default_factory=Web)
    limits: Limits = msgspec.field(default_factory=Limits)

    def bucket(self, model: str) -> int:
        """The bucket of models that a model belongs to: a stable hash, the same in every release."""
        return bucket_of(model, self.kafka.buckets)


def bucket_of(model: str, buckets: int) -> int:
    """FNV-1a of the model's name modulo the number of buckets."""
    value = 0xCBF29CE484222325
    for byte in model.encode("utf-8", "surrogatepass"):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value % buckets


def is_nameable(name: str) -> bool:
    """Whether a feature or a segment of this name can be declared: it becomes a field of a record, and a YAML key."""
    return 0 < len(name) <= MAX_NAME and name.isprintable() and not {'"', "\\"} & set(name)


T = TypeVar("T")


class _Reader:
    """Converts plain values to records, and knows the line of every place."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        try:
            loader = yaml.SafeLoader(text)
            self.root = loader.get_single_node()
            self._check_nodes(yaml.constructor.SafeConstructor())
            self.plain = loader.construct_document(self.root) if self.root else None
        except yaml.YAMLError as error:
            line = _line(error, text)
            raise ConfigError(
                place=f"{file}, line {line}" if line else file,
                seen=f"no YAML ({getattr(error, 'problem', None) or getattr(error, 'reason', None) or error})",
                expected="a YAML mapping",
                mend="check the indentation, the quotes and the colons there",
            ) from None
        except RecursionError:
            raise ConfigError(
                place=file, seen="YAML nested too deep", expected="a plain file", mend="flatten it"
            ) from None

    def _check_nodes(self, constructor: yaml.constructor.SafeConstructor) -> None:
        """YAML itself lets the second of two equal keys win without a word, and reads `on` as a boolean."""
        nodes, met = [self.root], set()
        while nodes:
            node = nodes.pop()
            if id(node) in met:
                continue
            met.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                nodes += node.value
            if isinstance(node, yaml.ScalarNode):
                self._check_scalar(node, constructor)
            if not isinstance(node, yaml.MappingNode):
                continue
            seen: set[str] = set()
            for key, value in node.value:
                nodes.append(value)
                kind = key.tag.rpartition(":")[2]
                if kind not in ("str", "merge"):
                    raise self._fail_at(key, f"the key {_short(key)}, which YAML reads as {kind}", "a text", "quote it")
                if kind == "str" and key.value in seen:
                    raise self._fail_at(key, f"a second key {_short(key)}", "each key once", "remove or rename one")
                seen.add(key.value)

    def _check_scalar(self, node: yaml.ScalarNode, constructor: yaml.constructor.SafeConstructor) -> None:
        try:
            constructor.construct_object(node)
        except (ValueError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise self._fail_at(node, f"{_short(node)}, no {kind} ({error})", "a value", "quote it") from None

    def _fail_at(self, node: yaml.Node, seen: str, expected: str, mend: str) -> ConfigError:
        place = f"{self.file}, line {node.start_mark.line + 1}"
        return ConfigError(place=place, seen=seen, expected=expected, mend=mend)

    def place(self, path: tuple[str | int, ...]) -> str:
        node, line = self.root, 1
        for key in path:
            child = _child(node, key)
            if child is None:
                break
            node = child
            line = node.start_mark.line + 1
        dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
        return f"{self.file}, line {line}" + (f", {dotted}" if dotted else "")

    def fail(self, path: tuple[str | int, ...], seen: str, expected: str, mend: str) -> ConfigError:
        return ConfigError(place=self.place(path), seen=seen, expected=expected, mend=mend)

    def read(self, value: object, kind: type[T], path: tuple[str | int, ...]) -> T:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            message, _, inner = str(error).partition(" - at `$")
            unknown = re.search(r"unknown field `(.*)`", message)
            keys = tuple(_keys(inner.partition("[...]")[0].rstrip("`")))
            path = (*path, *keys)
            if unknown:
                known = _fields(kind, keys)
                close = difflib.get_close_matches(unknown[1], known, 1)
                mend = f"did you mean {close[0]!r}?" if close else f"remove it, or use one of: {', '.join(known)}"
                raise self.fail((*path, unknown[1]), f"unknown key {unknown[1]!r}", "a known key", mend) from None
            expected, _, got = message.partition(", got ")
            raise self.fail(
                path,
                _seen(value, keys) or got.strip("`") or message,
                expected.removeprefix("Expected ").strip("`") if got else "",
                "correct the value",
            ) from None


def _line(error: Exception, text: str) -> int | None:
    """Where YAML is broken. A quote that nobody closed is told by its beginning."""
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1
    opened = "scanning" in (getattr(error, "context", None) or "")
    mark = (opened and getattr(error, "context_mark", None)) or getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else None


def _fields(kind: Any, keys: Iterable[str | int]) -> list[str]:
    """Names of the fields of the record that stands at the end of a path of field names."""
    for key in keys:
        kind = next(field.type for field in msgspec.structs.fields(kind) if field.encode_name == key)
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _seen(value: Any, keys: Iterable[Any]) -> str:
    """The value at the end of a path, if it is a number, a boolean or a text."""
    for key in keys:
        value = value[key] if isinstance(value, list) or (isinstance(value, dict) and key in value) else None
    return repr(value)[:80] if isinstance(value, str | int | float) else ""


def _short(node: yaml.Node) -> str:
    return repr(node.value)[:80]


def _child(node: yaml.Node | None, key: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if getattr(name, "value", None) == key), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        child: yaml.Node = node.value[key]
        return child
    return None


def _keys(path: str) -> Iterator[str | int]:
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        yield int(index) if index else name


def load(text: str, file: str = "foreshock.yaml") -> Config:
    """Config with every model, feature, tuning and rule converted and checked."""
    reader = _Reader(text, file)
    if not isinstance(reader.plain, dict):
        raise reader.fail((), "no mapping", "a mapping with the key 'models'", "run 'foreshock init'")
    config = reader.read(reader.plain, Config, ())
    _check_kafka(reader, config.kafka)
    parse_ms(config.limits.future, reader.place(("limits", "future")))
    if config.limits.max_record_bytes < 1:
        raise reader.fail(
            ("limits", "max_record_bytes"), str(config.limits.max_record_bytes), "1 or more", "use 1048576"
        )
    if not 0 < len(config.models) <= MAX_MODELS:
        raise reader.fail(("models",), f"{len(config.models)} models", f"1 to {MAX_MODELS}", "declare at least one")
    models = {str(name): _model(reader, str(name), value) for name, value in config.models.items()}
    return msgspec.structs.replace(config, models=models)


def _check_kafka(reader: _Reader, kafka: Kafka) -> None:
    size = kafka.chunk_size
    if size < 256 or size & (size - 1):
        raise reader.fail(("kafka", "chunk_size"), str(size), "a power of two from 256 up", "use 65536")
    if not 1 <= kafka.buckets <= 4096:
        raise reader.fail(("kafka", "buckets"), str(kafka.buckets), "1 to 4096", "use 16")


def _model(reader: _Reader, name: str, value: object) -> Model:
    path = ("models", name)
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name == OTHER:
        raise reader.fail(
            path, f"the name {name[:80]!r}", f"a printable name of its own of at most {MAX_NAME}", "rename the model"
        )
    model = reader.read(value, Model, path)
    for key in ("pane", "grace", "lateness", "idle"):
        parse_ms(getattr(model, key), reader.place((*path, key)))
    if model.pane_ms < MIN_PANE_MS:
        raise reader.fail((*path, "pane"), model.pane, f"{format_ms(MIN_PANE_MS)} or more", "use 1m")
    if not 0 < model.false_alarms_per_week < math.inf:
        raise reader.fail((*path, "false_alarms_per_week"), str(model.false_alarms_per_week), "above 0", "use 1")
    if model.preset is not None and model.preset not in PRESETS:
        raise reader.fail((*path, "preset"), repr(model.preset), "one of " + ", ".join(PRESETS), "choose one")
    if model.lateness_ms < model.grace_ms:
        raise reader.fail((*path, "lateness"), model.lateness, f"no less than the grace ({model.grace})", "raise it")
    if not 1 <= model.max_versions <= 64:
        raise reader.fail((*path, "max_versions"), str(model.max_versions), "1 to 64", "use 8")
    _check_versions(reader, path, model)
    if model.labels is not None:
        _check_labels(reader, (*path, "labels"), model.labels)
    _check_segments(reader, path, model)
    if len(model.features) > MAX_FEATURES:
        raise reader.fail(
            (*path, "features"), f"{len(model.features)} features", f"at most {MAX_FEATURES}", "drop some"
        )
    features = {str(key): reader.read(item, Feature, (*path, "features", key)) for key, item in model.features.items()}
    for key, feature in features.items():
        if not is_nameable(key):
            raise reader.fail((*path, "features", key), repr(key[:80]), NAME, "rename it")
        if feature.range is not None and not (feature.type is Kind.NUMERIC and feature.range[0] <= feature.range[1]):
            raise reader.fail(
                (*path, "features", key, "range"),
                str(list(feature.range)),
                "[low, high] of a numeric feature",
                "mend it",
            )
    tunings = {str(key): _tuning(reader, (*path, "signals"), str(key), item) for key, item in model.signals.items()}
    rules = tuple(_rule(reader, (*path, "rules", i), item, model, features) for i, item in enumerate(model.rules))
    _check_names(reader, path, rules)
    return msgspec.structs.replace(model, features=features, signals=tunings, rules=rules)


def _check_versions(reader: _Reader, path: tuple[str | int, ...], model: Model) -> None:
    if len(model.versions) > model.max_versions:
        raise reader.fail(
            (*path, "max_versions"),
            str(model.max_versions),
            f"no fewer than the versions named ({len(model.versions)})",
            "raise it, or name fewer",
        )
    for i, version in enumerate(model.versions):
        if len(version) > MAX_VERSION:
            raise reader.fail(
                (*path, "versions", i), f"{len(version)} characters", f"at most {MAX_VERSION}", "shorten it"
            )


def _check_labels(reader: _Reader, path: tuple[str | int, ...], labels: Labels) -> None:
    parse_ms(labels.horizon, reader.place((*path, "horizon")))
    counts = {Task.BINARY: (2, 2), Task.MULTICLASS: (2, MAX_CLASSES), Task.REGRESSION: (0, 0)}
    least, most = counts[labels.task]
    if not least <= len(set(labels.classes)) == len(labels.classes) <= most:
        wanted = f"{least} different ones" if least == most else f"{least} to {most} different ones"
        raise reader.fail((*path, "classes"), str(list(labels.classes)), wanted, "name the values of the labels")
    for i, name in enumerate(labels.critical):
        _known(reader, (*path, "critical", i), name, dict.fromkeys(labels.classes), "class")
    if not 0 <= labels.threshold <= 1:
        raise reader.fail((*path, "threshold"), str(labels.threshold), "0 to 1", "use 0.5")


def _check_segments(reader: _Reader, path: tuple[str | int, ...], model: Model) -> None:
    if len(model.segments) > MAX_SEGMENTS:
        raise reader.fail(
            (*path, "segments"), f"{len(model.segments)} segments", f"at most {MAX_SEGMENTS}", "drop some"
        )
    for name, values in model.segments.items():
        if not is_nameable(name):
            raise reader.fail((*path, "segments", name), repr(name[:80]), NAME, "rename it")
        if len(values) > MAX_SEGMENT_VALUES or len(set(values)) < len(values) or OTHER in values:
            raise reader.fail(
                (*path, "segments", name),
                f"{len(values)} values",
                f"at most {MAX_SEGMENT_VALUES} different ones, none of them {OTHER!r}",
                f"keep those you would act on; the rest is counted as {OTHER!r}",
            )


def _tuning(reader: _Reader, path: tuple[str | int, ...], name: str, value: object) -> Tuning:
    _known(reader, (*path, name), name, SIGNALS, "signal")
    tuning = reader.read(value, Tuning, (*path, name))
    for key in ("method", "categorical_method"):
        method = getattr(tuning, key)
        if method is not None:
            _known(reader, (*path, name, key), method, METHODS, "method")
            if key == "categorical_method" and METHODS[method].ordered:
                raise reader.fail(
                    (*path, name, key),
                    method,
                    "a method for bins without an order",
                    "use psi, jensen_shannon or l_infinity",
                )
    if tuning.effect is not None and not 0 <= tuning.effect < math.inf:
        raise reader.fail((*path, name, "effect"), str(tuning.effect), "0 or more", "raise it")
    return tuning


def _known(reader: _Reader, path: tuple[str | int, ...], name: str, table: Mapping[str, object], what: str) -> None:
    if name not in table:
        close = difflib.get_close_matches(name, table, 1)
        mend = f"did you mean {close[0]!r}?" if close else "choose one of them"
        raise reader.fail(path, f"{what} {name!r}", "one of " + ", ".join(table), mend)


def _rule(
    reader: _Reader, path: tuple[str | int, ...], value: object, model: Model, features: Mapping[str, Feature]
) -> Rule:
    if isinstance(value, dict) and "response" not in value:
        raise reader.fail(
            path,
            f"rule {value.get('name', '')!r} without a response",
            "a response that somebody carries out: " + ", ".join(Response),
            "add 'response:', or delete the rule: an alarm that nobody answers is decoration",
        )
    rule = reader.read(value, Rule, path)
    if not rule.name or not rule.signals:
        raise reader.fail(path, "a rule without a name or signals", "both", "add them")
    for i, signal in enumerate(rule.signals):
        _known(reader, (*path, "signals", i), signal, SIGNALS, "signal")
    _check_clock(reader, path, rule, model)
    for i, feature in enumerate(rule.features or ()):
        _known(reader, (*path, "features", i), feature, features, "feature")
    for key, number in (("for", rule.for_panes), ("clear", rule.clear_panes), ("min_n", rule.min_n)):
        if number < 1:
            raise reader.fail((*path, key), str(number), "1 or more", "raise it")
    if rule.over is not None and parse_ms(rule.over, reader.place((*path, "over"))) % model.pane_ms:
        raise reader.fail((*path, "over"), rule.over, f"a multiple of the pane ({model.pane})", "round it")
    return rule


def _check_clock(reader: _Reader, path: tuple[str | int, ...], rule: Rule, model: Model) -> None:
    """Signals of labels are judged as the labels arrive, all others as the events do: a rule has one clock."""
    of_labels = [name for name in rule.signals if judges_labels([name])]
    if of_labels and model.labels is None:
        raise reader.fail(
            (*path, "signals"),
            f"{of_labels[0]!r}, of a model without 'labels:'",
            "a model that says what its labels are",
            "add 'labels: {task: …}', or run 'foreshock init --labels'",
        )
    if of_labels and len(of_labels) < len(rule.signals):
        raise reader.fail(
            (*path, "signals"),
            f"signals of labels ({', '.join(of_labels)}) beside signals of events",
            "either: they are judged at different times",
            "make two rules of it",
        )


def _check_names(reader: _Reader, path: tuple[str | int, ...], rules: tuple[Rule, ...]) -> None:
    seen: set[str] = set()
    for i, rule in enumerate(rules):
        if rule.name in seen:
            raise reader.fail((*path, "rules", i), f"a second rule {rule.name!r}", "names of their own", "rename one")
        seen.add(rule.name)
