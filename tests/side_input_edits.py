"""Edits of what a configuration says of KPIs, feedback and jobs."""

from __future__ import annotations

import random

from tests.config_document import Document, some_model, without_rules


def kpi_renamed(document: Document, drawn: random.Random) -> bool:
    """Nobody writes it under its new name."""
    model = some_model(document, drawn)
    kpis = model.get("kpis") or {}
    if not kpis:
        return False
    name = drawn.choice(list(kpis))
    model["kpis"] = {f"{key}-anew" if key == name else key: item for key, item in kpis.items()}
    for item in model["kpis"].values():
        if "of" in item:
            item["of"] = [f"{part}-anew" if part == name else part for part in item["of"]]
    for rule in model.get("rules") or []:
        if rule.get("features") == [name]:
            rule["features"] = [f"{name}-anew"]
    return True


def kpi_added(document: Document, drawn: random.Random) -> bool:
    """One that is written already, or one that is not, with a rule."""
    model, name = some_model(document, drawn), drawn.choice(("requests_served", "refunds"))
    model.setdefault("kpis", {})[name] = {"aggregate": "sum", "better": drawn.choice(("lower", "higher"))}
    rule = {"name": f"{name}-off", "signals": ["kpi"], "features": [name], "response": "human_review"}
    model.setdefault("rules", []).append(rule)
    return True


def kpi_turned(document: Document, drawn: random.Random) -> bool:
    """What was better is worse."""
    kpis = some_model(document, drawn).get("kpis") or {}
    if not kpis:
        return False
    item = kpis[drawn.choice(list(kpis))]
    item["better"] = "lower" if item["better"] == "higher" else "higher"
    return True


def kpi_of_other_parts(document: Document, drawn: random.Random) -> bool:
    ratios = [item for item in (some_model(document, drawn).get("kpis") or {}).values() if "of" in item]
    if not ratios:
        return False
    ratios[0]["of"] = ratios[0]["of"][::-1]
    return True


def kpi_target(document: Document, drawn: random.Random) -> bool:
    kpis = some_model(document, drawn).get("kpis") or {}
    if not kpis:
        return False
    kpis[drawn.choice(list(kpis))] |= {"target": drawn.choice((0.3, 0.9)), "tolerance": drawn.choice((0.05, 0.3))}
    return True


def kpis_removed(document: Document, drawn: random.Random) -> bool:
    """All of them, and what was served: their topic is read no more."""
    model = some_model(document, drawn)
    known = [model.pop(name, None) for name in ("kpis", "served")]
    without_rules(model, lambda rule: bool({"kpi", "capture_ratio"} & set(rule["signals"])))
    return any(known)


def served_renamed(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    if "served" not in model:
        return False
    model["served"] += "-anew"
    return True


def kpi_removed(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    kpis = model.get("kpis") or {}
    if not kpis:
        return False
    name = drawn.choice(list(kpis))
    del kpis[name]
    without_rules(model, lambda rule: rule.get("features") == [name])
    return True


def kpi_of_another_kind(document: Document, drawn: random.Random) -> bool:
    kpis = [item for item in (some_model(document, drawn).get("kpis") or {}).values() if item["aggregate"] != "ratio"]
    if not kpis:
        return False
    item = drawn.choice(kpis)
    item["aggregate"] = "sum" if item["aggregate"] == "mean" else "mean"
    return True


def served_removed(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    if not model.pop("served", None):
        return False
    without_rules(model, lambda rule: "capture_ratio" in rule["signals"])
    return True


def feedback_removed(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    feedback = model.get("feedback") or {}
    if not feedback:
        return False
    name = drawn.choice(list(feedback))
    del feedback[name]
    without_rules(model, lambda rule: f"{name}_rate" in rule["signals"])
    return True


def feedback_added(document: Document, drawn: random.Random) -> bool:
    feedback = some_model(document, drawn).setdefault("feedback", {})
    missing = [name for name in ("complaint", "override", "workflow_step") if name not in feedback]
    if missing:
        feedback[drawn.choice(missing)] = {}
    return bool(missing)


def feedback_ends(document: Document, drawn: random.Random) -> bool:
    """All of it: its topic is read no more."""
    model = some_model(document, drawn)
    names = [f"{name}_rate" for name in model.pop("feedback", None) or {}]
    without_rules(model, lambda rule: bool({*names} & set(rule["signals"])))
    return bool(names)


def feedback_usual(document: Document, drawn: random.Random) -> bool:
    feedback = some_model(document, drawn).get("feedback") or {}
    if not feedback:
        return False
    feedback[drawn.choice(list(feedback))]["usual"] = drawn.choice((0.001, 0.2))
    return True


def feedback_values(document: Document, drawn: random.Random) -> bool:
    feedback = some_model(document, drawn).get("feedback") or {}
    if not feedback:
        return False
    item = feedback[drawn.choice(list(feedback))]
    item["values"] = [*item.get("values", []), "another"]
    return True


def job_renamed(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    if not model.get("jobs"):
        return False
    model["jobs"] = {f"{name}-anew": item for name, item in model["jobs"].items()}
    return True


def job_added(document: Document, drawn: random.Random) -> bool:
    some_model(document, drawn).setdefault("jobs", {})["training"] = {"every": "1d"}
    return True


def job_times(document: Document, drawn: random.Random) -> bool:
    jobs = some_model(document, drawn).get("jobs") or {}
    if not jobs:
        return False
    jobs[drawn.choice(list(jobs))] |= {"every": drawn.choice(("10m", "1d")), "longest": drawn.choice(("1m", "9m"))}
    return True


def jobs_removed(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    if not model.pop("jobs", None):
        return False
    without_rules(model, lambda rule: "job_failure" in rule["signals"])
    return True
