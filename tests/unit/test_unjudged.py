"""Whatever a configuration names and no verdict is given of is said, with the fix; of what `init` writes nothing is."""

from __future__ import annotations

import re
from functools import cache

import pytest

from streams.backtest import ModelSummary, Summary
from streams.compare import Spells
from streams.configure import load
from streams.judge_model import Outcome
from streams.plan import Facts, ModelPlan, compile_plan
from streams.reports.backtest import BacktestPage, incident_line
from streams.unjudged import unjudged, unread
from tests import scenario
from tests.actions import action

LATENCY_RULE = "      - {name: answers-slow, signals: [latency_p50, latency_p99], response: data_incident, for: 3}\n"


def planned(text: str, *, bare: bool = False) -> ModelPlan:
    baselines = {} if bare else {scenario.MODEL: scenario.reference().baseline}
    return compile_plan(load(text), baselines).models[scenario.MODEL]


@cache
def sound() -> str:
    """A configuration all of which is judged: its reference has no latencies, and its feedback no rule for steps."""
    found = scenario.text().replace("      workflow_step: {values: [manual_check]}\n", "")
    assert LATENCY_RULE in found
    return found.replace(LATENCY_RULE, "")


def without_labels_text() -> str:
    return re.sub(r"      (classes|critical):.*\n", "", sound().replace("task: binary", "task: regression"))


def test_of_what_init_writes_all_is_judged() -> None:
    assert unjudged(planned(sound())) == []


RULE = "      - {name: x, signals: [%s], response: human_review%s}\n    # end\n"
CASES: dict[str, tuple[str, str]] = {
    "another pane": (
        re.sub(r"pane: \S+", "pane: 90s", sound()),
        "models.credit.pane: 90s, and the baseline has blocks",
    ),
    "another feature": (
        sound().replace("    features:\n", "    features:\n      nova: {type: numeric}\n"),
        "models.credit.features.nova: not in the baseline",
    ),
    "another dimension": (
        sound()
        .replace("    segments:", "    segments:\n      plan: [gold, free]\n    # was segments:")
        .replace("      region: [north, south]\n", ""),
        "models.credit.segments.plan: the baseline holds fewer than 30 events of it",
    ),
    "another value": (sound().replace("[north, south]", "[north, south, east]"), "fewer than 30 events of east"),
    "another task": (
        without_labels_text(),
        "models.credit.labels: regression [], and the baseline's labels are binary",
    ),
    "a signal of another task": (sound() + RULE % ("mae", ""), "mae is not judged (a binary model has none)"),
    "a window longer than the reference": (
        sound() + RULE % ("request_rate", ", over: 30m"),
        "request_rate is not judged (the reference holds fewer than 3 whole stretches of 30m)",
    ),
    "a rule that needs more than comes": (
        sound() + RULE % ("null_rate", ", min_n: 5000"),
        "a window of 1m holds about 600.0 events of the reference; 5000 are needed",
    ),
    "a KPI without a rule": (
        sound().replace("      conversion: {", "      refunds: {aggregate: sum, better: lower}\n      conversion: {"),
        "models.credit.kpis.refunds: no rule looks at this KPI",
    ),
    "a latency that the reference has not": (scenario.text(), "latency_p50, latency_p99 are not judged"),
}


@pytest.mark.parametrize("what", CASES)
def test_what_is_not_judged_is_said_by_its_place(what: str) -> None:
    text, said = CASES[what]
    lines = [note.line for note in unjudged(planned(text))]
    assert any(said in line for line in lines), lines
    assert all("\n" not in line and "; " in line for line in lines)


def test_without_a_baseline_it_is_one_line() -> None:
    (note,) = unjudged(planned(sound(), bare=True))
    assert note.line.startswith("models.credit: no baseline: ")
    assert "foreshock init" in note.fix


def test_a_backtest_says_what_it_had_nothing_to_look_at_for() -> None:
    plan = planned(sound())

    def said(counts: ModelSummary | None, labelled: bool = False, kinds: tuple[Facts, ...] = ()) -> list[str]:
        return [note.seen for note in unread(plan, counts, labelled=labelled, kinds=kinds, file="e.ndjson")]

    assert said(None) == said(ModelSummary()) == ["no event of it in e.ndjson: nothing was judged"]
    assert said(ModelSummary(read=7, late=7)) == ["7 events of it, none counted, in e.ndjson: nothing was judged"]
    some = ModelSummary(read=9, counted=9, windows=3, labels={"matched": 0}, told={"runs": {"counted": 1}})
    assert said(some) == [
        "no --labels: its rules of labels were not judged",
        *(f"no --{kind}: what is declared for it was not judged" for kind in Facts),
    ]
    assert said(some, labelled=True, kinds=(Facts.RUNS,))[0].startswith("none of its labels met an event")
    assert len(said(some, labelled=True, kinds=tuple(Facts))) == 3


def test_a_page_lists_actions_by_time_and_incidents_with_their_ends() -> None:
    page, spells = BacktestPage(), Spells()
    first, second = action("f", 1), action("r", 2)
    for one in (second, first):
        page.add(Outcome("m", [], [one]))
    for one in (first, second):
        spells.take(one)
    html = page.html(compile_plan(load(scenario.text()), {}), Summary(read=0, rejected=0, models={}))
    assert html.index(">firing<") < html.index(">resolved<")
    assert "Incidents in the order of their beginnings" in html
    (spell,) = spells.all()
    assert spell.end is not None
    assert incident_line(spell).startswith(f"{spell.start} to {spell.end}: {spell.rule} (")
