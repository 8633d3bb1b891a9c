"""Text of a foreshock.yaml → Config, or a ConfigError that names the line and the fix."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from streams.config import (
    MAX_FEATURES,
    MAX_MODELS,
    MAX_SEGMENT_VALUES,
    MAX_SEGMENTS,
    MAX_VERSION,
    MIN_PANE_MS,
    NAME,
    OTHER,
    OWN_TOPICS,
    SOURCES,
    Config,
    Feature,
    Kafka,
    Labels,
    Model,
    RawConfig,
    RawModel,
    Response,
    Rule,
    Tuning,
    is_nameable,
)
from streams.configure_facts import check_rule, columns_of, with_facts
from streams.duration import format_ms, parse_ms
from streams.events import MAX_NAME
from streams.maintenance import DAILY, WEEKDAYS
from streams.signals.names import SIGNALS, Method, Preset, judges_labels
from streams.sketch.layout import Kind
from streams.sketch.outcomes import MAX_CLASSES, Task
from streams.times import NO_TIME, instant_ms
from streams.yaml_reader import YamlReader

MAX_TOPIC_PART = 110
"""Characters of the prefix, and of a topic's name: Kafka allows 249 of both together."""
TOPIC = re.compile(rf"[A-Za-z0-9._-]{{0,{MAX_TOPIC_PART}}}")
PRINTABLE = f"a printable name of 1 to {MAX_NAME} characters"


def load(text: str, file: str = "foreshock.yaml") -> Config:
    """The Config, with every model, feature, tuning and rule converted and checked."""
    reader = YamlReader(text, file)
    if not isinstance(reader.plain, dict):
        raise reader.fail((), "no mapping", "a mapping with the key 'models'", "run 'foreshock init'")
    config = reader.read(reader.plain, RawConfig, ())
    _check_kafka(reader, config.kafka)
    parse_ms(config.limits.future, reader.place(("limits", "future")))
    if config.limits.max_record_bytes < 1:
        raise reader.fail(
            ("limits", "max_record_bytes"), str(config.limits.max_record_bytes), "1 or more", "use 1048576"
        )
    if not 0 < len(config.models) <= MAX_MODELS:
        raise reader.fail(("models",), f"{len(config.models)} models", f"1 to {MAX_MODELS}", "declare at least one")
    for name in config.responses:
        if not name.isidentifier() or name in list(Response):
            raise reader.fail(
                ("responses", name), repr(name[:80]), "a new name of letters, digits and _", "choose another"
            )
    models = {str(name): _model(reader, str(name), value, config.responses) for name, value in config.models.items()}
    return Config(models=models, kafka=config.kafka, web=config.web, limits=config.limits, responses=config.responses)


def _check_kafka(reader: YamlReader, kafka: Kafka) -> None:
    size = kafka.chunk_size
    if size < 256 or size & (size - 1):
        raise reader.fail(("kafka", "chunk_size"), str(size), "a power of two from 256 up", "use 65536")
    if not 1 <= kafka.buckets <= 4096:
        raise reader.fail(("kafka", "buckets"), str(kafka.buckets), "1 to 4096", "use 16")
    for key in ("prefix", *SOURCES):
        name = getattr(kafka, key)
        if not TOPIC.fullmatch(name) or not (name or key == "prefix"):
            expected = f"letters, digits, '.', '_' and '-' of ASCII, at most {MAX_TOPIC_PART}"
            raise reader.fail(
                ("kafka", key), repr(name)[:80], expected, "Kafka has no topics of other names: rename it"
            )
    _check_sources(reader, kafka)
    if not 0 < len(kafka.group) <= MAX_NAME or not kafka.group.isprintable():
        raise reader.fail(("kafka", "group"), repr(kafka.group)[:80], PRINTABLE, "rename it")


def _check_sources(reader: YamlReader, kafka: Kafka) -> None:
    """A topic that is read twice, or that workers write, would be counted as what it is not."""
    taken = dict.fromkeys(OWN_TOPICS, "Foreshock writes itself")
    for key in SOURCES:
        name = getattr(kafka, key)
        if kafka.prefix + name in (".", ".."):
            raise reader.fail(("kafka", key), repr(name), "a name that Kafka takes for a topic", "rename it")
        if name in taken:
            seen = f"{name!r}, a topic that {taken[name]}"
            raise reader.fail(("kafka", key), seen, "a topic of its own", "name another topic")
        taken[name] = f"'{key}' is read from"


def _model(reader: YamlReader, name: str, value: object, responses: Mapping[str, str]) -> Model:
    path = ("models", name)
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name == OTHER:
        raise reader.fail(
            path, f"the name {name[:80]!r}", f"a printable name of its own of at most {MAX_NAME}", "rename the model"
        )
    raw = reader.read(value, RawModel, path)
    for key in ("pane", "grace", "lateness", "idle"):
        parse_ms(getattr(raw, key), reader.place((*path, key)))
    model = Model(**raw.settings())
    _check_settings(reader, path, model)
    features = {str(key): _feature(reader, (*path, "features", key), key, item) for key, item in raw.features.items()}
    if len(features) > MAX_FEATURES:
        raise reader.fail((*path, "features"), f"{len(features)} features", f"at most {MAX_FEATURES}", "drop some")
    model = msgspec.structs.replace(
        with_facts(reader, path, raw, model),
        features=features,
        signals={str(key): _tuning(reader, (*path, "signals"), str(key), item) for key, item in raw.signals.items()},
    )
    rules = tuple(_rule(reader, (*path, "rules", i), item, model, responses) for i, item in enumerate(raw.rules))
    _check_names(reader, path, rules)
    _check_maintenance(reader, path, model, rules)
    return msgspec.structs.replace(model, rules=rules)


def _check_settings(reader: YamlReader, path: tuple[str | int, ...], model: Model) -> None:
    if model.pane_ms < MIN_PANE_MS:
        raise reader.fail((*path, "pane"), model.pane, f"{format_ms(MIN_PANE_MS)} or more", "use 1m")
    if not 0 < model.false_alarms_per_week < math.inf:
        raise reader.fail((*path, "false_alarms_per_week"), str(model.false_alarms_per_week), "above 0", "use 1")
    if model.preset is not None and model.preset not in list(Preset):
        raise reader.fail((*path, "preset"), repr(model.preset), "one of " + ", ".join(Preset), "choose one")
    if model.lateness_ms < model.grace_ms:
        raise reader.fail((*path, "lateness"), model.lateness, f"no less than the grace ({model.grace})", "raise it")
    if not 1 <= model.max_versions <= 64:
        raise reader.fail((*path, "max_versions"), str(model.max_versions), "1 to 64", "use 8")
    _check_versions(reader, path, model)
    if model.labels is not None:
        _check_labels(reader, (*path, "labels"), model.labels)
    _check_segments(reader, path, model)


def _feature(reader: YamlReader, path: tuple[str | int, ...], name: str, value: object) -> Feature:
    feature = reader.read(value, Feature, path)
    if not is_nameable(name):
        raise reader.fail(path, repr(name[:80]), NAME, "rename it")
    if feature.range is not None and not (feature.type is Kind.NUMERIC and feature.range[0] <= feature.range[1]):
        raise reader.fail((*path, "range"), str(list(feature.range)), "[low, high] of a numeric feature", "correct it")
    return feature


def _check_versions(reader: YamlReader, path: tuple[str | int, ...], model: Model) -> None:
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


def _check_labels(reader: YamlReader, path: tuple[str | int, ...], labels: Labels) -> None:
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


def _check_segments(reader: YamlReader, path: tuple[str | int, ...], model: Model) -> None:
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


def _tuning(reader: YamlReader, path: tuple[str | int, ...], name: str, value: object) -> Tuning:
    _known(reader, (*path, name), name, SIGNALS, "signal")
    tuning = reader.read(value, Tuning, (*path, name))
    for key in ("method", "categorical_method"):
        method = getattr(tuning, key)
        if method is not None:
            _known(reader, (*path, name, key), method, dict.fromkeys(map(str, Method)), "method")
            if key == "categorical_method" and Method(method).ordered:
                raise reader.fail(
                    (*path, name, key),
                    method,
                    "a method for bins without an order",
                    "use psi, jensen_shannon or l_infinity",
                )
    if tuning.effect is not None and not 0 <= tuning.effect < math.inf:
        raise reader.fail((*path, name, "effect"), str(tuning.effect), "0 or more", "raise it")
    return tuning


def _known(reader: YamlReader, path: tuple[str | int, ...], name: str, table: Mapping[str, object], what: str) -> None:
    if name not in table:
        close = difflib.get_close_matches(name, table, 1)
        mend = f"did you mean {close[0]!r}?" if close else "choose one of them"
        raise reader.fail(path, f"{what} {name!r}", "one of " + ", ".join(table), mend)


def _rule(
    reader: YamlReader,
    path: tuple[str | int, ...],
    value: object,
    model: Model,
    responses: Mapping[str, str],
) -> Rule:
    if isinstance(value, dict) and "response" not in value:
        raise reader.fail(
            path,
            f"rule {value.get('name', '')!r} without a response",
            "a response that somebody carries out: " + ", ".join((*Response, *responses)),
            "add 'response:', or delete the rule: an alarm that nobody answers is decoration",
        )
    rule = reader.read(value, Rule, path)
    if not rule.name or not rule.signals:
        raise reader.fail(path, "a rule without a name or signals", "both", "add them")
    if len(rule.name) > MAX_NAME or not rule.name.isprintable():
        raise reader.fail((*path, "name"), repr(rule.name)[:80], PRINTABLE, "rename it")
    _known(reader, (*path, "response"), rule.response, dict.fromkeys((*Response, *responses)), "response")
    for i, signal in enumerate(rule.signals):
        _known(reader, (*path, "signals", i), signal, SIGNALS, "signal")
    _check_clock(reader, path, rule, model)
    check_rule(reader, path, rule, model)
    for i, feature in enumerate(rule.features or ()):
        _known(reader, (*path, "features", i), feature, {**model.features, **columns_of(model, rule)}, "feature")
    for key, number in (("for", rule.for_panes), ("clear", rule.clear_panes), ("min_n", rule.min_n)):
        if number < 1:
            raise reader.fail((*path, key), str(number), "1 or more", "raise it")
    _check_spans(reader, path, rule, model)
    _check_rule_segments(reader, (*path, "segments"), rule, model)
    return rule


def _check_spans(reader: YamlReader, path: tuple[str | int, ...], rule: Rule, model: Model) -> None:
    if rule.over == ():
        raise reader.fail((*path, "over"), "[]", "a window, or several", "name one, or drop the key")
    for i, over in enumerate(rule.overs):
        place = (*path, "over") if isinstance(rule.over, str) else (*path, "over", i)
        if parse_ms(over, reader.place(place)) % model.pane_ms:
            raise reader.fail(place, over, f"a multiple of the pane ({model.pane})", "round it")
    if rule.cool_down is not None:
        parse_ms(rule.cool_down, reader.place((*path, "cool_down")))


def _check_rule_segments(reader: YamlReader, path: tuple[str | int, ...], rule: Rule, model: Model) -> None:
    if isinstance(rule.segments, bool):
        return
    for name, values in rule.segments.items():
        _known(reader, (*path, name), name, model.segments, "segment")
        for i, value in enumerate(values):
            _known(reader, (*path, name, i), value, dict.fromkeys(model.segments[name]), "value")


def _check_maintenance(reader: YamlReader, path: tuple[str | int, ...], model: Model, rules: Sequence[Rule]) -> None:
    names = dict.fromkeys(rule.name for rule in rules)
    for i, window in enumerate(model.maintenance):
        place = (*path, "maintenance", i)
        both = window.from_ is not None and window.to is not None
        if both == (window.daily is not None) or (window.from_ is None) != (window.to is None):
            raise reader.fail(place, "no time, or two", "'from' and 'to', or 'daily'", "write one of the two")
        for key, text in (("from", window.from_), ("to", window.to)):
            if text is not None and instant_ms(text) == NO_TIME:
                raise reader.fail((*place, key), repr(text), "RFC 3339", "write it as 2026-01-05T00:00:00Z")
        if window.span_ms is not None and window.span_ms[0] >= window.span_ms[1]:
            raise reader.fail((*place, "to"), str(window.to), f"a time after {window.from_}", "correct it")
        if window.daily is not None and not DAILY.fullmatch(window.daily):
            raise reader.fail((*place, "daily"), repr(window.daily), "two times of day, UTC", "write it as 02:00-03:30")
        for k, day in enumerate(window.days):
            _known(reader, (*place, "days", k), day, dict.fromkeys(WEEKDAYS), "day")
        for k, name in enumerate(window.rules or ()):
            _known(reader, (*place, "rules", k), name, names, "rule")


def _check_clock(reader: YamlReader, path: tuple[str | int, ...], rule: Rule, model: Model) -> None:
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


def _check_names(reader: YamlReader, path: tuple[str | int, ...], rules: tuple[Rule, ...]) -> None:
    seen: set[str] = set()
    for i, rule in enumerate(rules):
        if rule.name in seen:
            raise reader.fail((*path, "rules", i), f"a second rule {rule.name!r}", "names of their own", "rename one")
        seen.add(rule.name)
