"""Feedback, KPIs and jobs of a configuration → records, or a ConfigError with the line and the fix."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

import msgspec

from streams.config import (
    CAPTURE,
    OTHER,
    Aggregate,
    Feedback,
    FeedbackKind,
    Job,
    Kpi,
    Model,
    RawModel,
    Rule,
    is_nameable,
)
from streams.duration import parse_ms
from streams.events import MAX_NAME
from streams.signals.names import AS_TOLD
from streams.yaml_reader import YamlReader

Path = tuple[str | int, ...]

MAX_NAMES = 64
"""Number of KPIs, of jobs, and of values of one kind of feedback."""
NEEDS = {
    "override_rate": ("feedback", "override"),
    "complaint_rate": ("feedback", "complaint"),
    "workflow_step_rate": ("feedback", "workflow_step"),
    "job_failure": ("jobs", ""),
    "kpi": ("kpis", ""),
    CAPTURE: ("served", ""),
}
"""What a model must declare for a signal to exist."""


def with_facts(reader: YamlReader, path: Path, raw: RawModel, model: Model) -> Model:
    """The model with its feedback, KPIs and jobs, read and checked."""
    parts: dict[str, Mapping[str, object]] = {"feedback": raw.feedback, "kpis": raw.kpis, "jobs": raw.jobs}
    for key, declared in parts.items():
        if len(declared) > MAX_NAMES:
            raise reader.fail((*path, key), f"{len(declared)} entries", f"at most {MAX_NAMES}", "drop some")
        for name in declared:
            if not is_nameable(str(name)) or str(name) in (OTHER, CAPTURE):
                raise reader.fail(
                    (*path, key, name), repr(name)[:80], f"a printable name of at most {MAX_NAME}", "rename it"
                )
    if model.served is not None and not is_nameable(model.served):
        raise reader.fail((*path, "served"), repr(model.served)[:80], "the name of a KPI", "rename it")
    return msgspec.structs.replace(
        model,
        feedback=dict(_feedback(reader, (*path, "feedback", kind), kind, item) for kind, item in raw.feedback.items()),
        kpis={str(name): _kpi(reader, (*path, "kpis", name), value) for name, value in raw.kpis.items()},
        jobs={str(name): _job(reader, (*path, "jobs", name), value) for name, value in raw.jobs.items()},
    )


def _feedback(reader: YamlReader, path: Path, kind: str, value: object) -> tuple[Feedback, FeedbackKind]:
    if kind not in list(Feedback):
        close = difflib.get_close_matches(kind, map(str, Feedback), 1)
        mend = f"did you mean {close[0]!r}?" if close else "choose one of them"
        raise reader.fail(path, f"feedback {kind!r}", "one of " + ", ".join(Feedback), mend)
    found = reader.read({} if value is None else value, FeedbackKind, path)
    if found.usual is not None and not 0 < found.usual < 1:
        raise reader.fail(
            (*path, "usual"), str(found.usual), "a rate between 0 and 1", "leave it out if it is not known"
        )
    if found.values and kind != Feedback.WORKFLOW_STEP:
        raise reader.fail((*path, "values"), f"values of {kind!r}", "values of workflow_step alone", "leave them out")
    if len(found.values) > MAX_NAMES or len(set(found.values)) < len(found.values) or OTHER in found.values:
        raise reader.fail(
            (*path, "values"),
            f"{len(found.values)} values",
            f"at most {MAX_NAMES} different ones, none of them {OTHER!r}",
            f"keep those you would act on; the rest is counted as {OTHER!r}",
        )
    return Feedback(kind), found


def _kpi(reader: YamlReader, path: Path, value: object) -> Kpi:
    found = reader.read(value, Kpi, path)
    if found.aggregate is Aggregate.RATIO and len(found.of) != 2:
        raise reader.fail((*path, "of"), f"{len(found.of)} KPIs", "two: what is divided, and by what", "name them")
    if found.aggregate is not Aggregate.RATIO and found.of:
        raise reader.fail((*path, "of"), f"'of' beside {found.aggregate}", "it with 'ratio' alone", "leave it out")
    if len(set(found.of)) < len(found.of):
        raise reader.fail((*path, "of"), f"{found.of[0]!r} twice", "two different KPIs", "name what it is divided by")
    for i, name in enumerate(found.of):
        if not is_nameable(name):
            raise reader.fail((*path, "of", i), repr(name)[:80], "the name of a KPI", "rename it")
    if found.target is not None and not math.isfinite(found.target):
        raise reader.fail((*path, "target"), str(found.target), "a number", "leave it out if there is none")
    if not 0 <= found.tolerance < math.inf:
        raise reader.fail((*path, "tolerance"), str(found.tolerance), "0 or more, as 0.1 for a tenth", "use 0.1")
    return found


def _job(reader: YamlReader, path: Path, value: object) -> Job:
    found = reader.read(value, Job, path)
    for key in ("every", "longest", "late"):
        text = getattr(found, key)
        if text is not None:
            parse_ms(text, reader.place((*path, key)))
    return found


def check_rule(reader: YamlReader, path: Path, rule: Rule, model: Model) -> None:
    """Raises unless a rule uses declared names only; a rule about a KPI has that KPI's clock, and no other signals."""
    for i, signal in enumerate(rule.signals):
        key, entry = NEEDS.get(signal, ("", ""))
        declared = getattr(model, key) if key else (signal,)
        if not declared or (entry and entry not in declared):
            what = f"{key}: {{{entry}: …}}" if entry else f"{key}:"
            raise reader.fail(
                (*path, "signals", i),
                f"{signal!r}, of a model without '{what}'",
                "a model that declares what the signal is of",
                f"add '{what}', or leave the signal out",
            )
    told = [name for name in rule.signals if name in AS_TOLD]
    if told and len(rule.signals) > 1:
        raise reader.fail(
            (*path, "signals"),
            f"{told[0]!r} beside other signals",
            "it alone: it is evaluated when its observations come, the others with the events",
            "make two rules of it",
        )
    if told == ["kpi"] and (len(rule.features or ()) != 1 or (rule.features or ("",))[0] not in model.kpis):
        raise reader.fail(
            (*path, "features") if rule.features else path,
            str(list(rule.features)) if rule.features else "no 'features'",
            "the one KPI that the rule is about, of " + ", ".join(map(str, model.kpis)),
            "write 'features: [NAME]'; every KPI has a rule of its own",
        )


def columns_of(model: Model, rule: Rule) -> Mapping[str, object]:
    """The names that a rule may choose from beside features."""
    found: dict[str, object] = {}
    if {"freshness", "job_failure"} & set(rule.signals):
        found |= model.jobs
    if "kpi" in rule.signals:
        found |= model.kpis
    if "workflow_step_rate" in rule.signals:
        found |= dict.fromkeys([*model.feedback[Feedback.WORKFLOW_STEP].values, OTHER])
    return found
