"""The rows on decisions: the actions that fire, and how far signals can be trusted."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.grafana.panels import COLOURED, Json, lines, link, look, rows, table, target, timeline
from deploy.grafana.queries import HERE, KEEP, MODEL, rate


def actions() -> Iterator[Json]:
    """What fires, and what was decided."""
    yield _firing_now()
    yield timeline(
        "Rules firing",
        (24, 8),
        "Red while the rule fires.",
        target(
            f"max by (rule, response, segment) (foreshock_action_firing{{{MODEL}}})",
            "{{rule}} → {{response}} {{segment}}",
        ),
        empty="Nothing has fired.",
    )
    yield lines(
        "Incidents",
        (12, 7),
        "Incidents that began to fire, were resolved, or were suppressed by a lower layer, by response, since the "
        "model's state began; and what shadow rules would have begun.",
        [
            target(f"sum by (response, state) (foreshock_actions_total{{{MODEL}}})", "{{response}} {{state}}"),
            target(f"sum(foreshock_shadow_incidents_total{{{MODEL}}})", "shadow rules"),
        ],
        stepped=True,
    )
    loud = rate("foreshock_decisions_total", f'{MODEL}, reason!="quiet"')
    yield lines(
        "Decisions, by reason",
        (12, 7),
        "Every rule decides about every window and segment, and says why. Quiet ones are left out here.",
        [target(f"sum by (reason) ({loud})", "{{reason}}")],
        unit="cps",
        stacked=True,
    )


def _firing_now() -> Json:
    """Every open incident; a segment is a link to its own view."""
    severities = {"critical": "red", "warning": "orange", "info": "blue"}
    colours = {name: {"color": color, "index": i} for i, (name, color) in enumerate(severities.items())}
    return table(
        "Firing now",
        (24, 8),
        "Each is on the topic actions, with its evidence, owner and runbook. Lower layers first: nobody retrains on "
        "broken data.",
        [rows(f"foreshock_action_firing{{{MODEL}}}")],
        columns={
            "layer": "Layer",
            "response": "Response",
            "severity": "Severity",
            "rule": "Rule",
            "version": "Version",
            "segment": "Segment",
        },
        hide=("Value", "instance", "job", "model"),
        looks=[
            look("Severity", custom_cellOptions=COLOURED, mappings=[{"type": "value", "options": colours}]),
            look(
                "Segment",
                links=[
                    link("Show this segment", f"{HERE}?${{model:queryparam}}&var-segment=${{__value.raw}}&{KEEP}"),
                ],
            ),
        ],
        sort=("Layer", False),
        empty="Nothing fires.",
    )


def ledger() -> Iterator[Json]:
    """What the labels said of the alarms."""
    each = f'{MODEL}, proxy!="total"'
    yield lines(
        "Alarms, by verdict",
        (12, 8),
        "Alarms of signals that speak before the labels come. Censored: the system was rolled back meanwhile. "
        "Proxies without an alarm are left out.",
        [target(f"foreshock_ledger_alarms{{{each}}} > 0", "{{proxy}} {{verdict}}")],
        stepped=True,
    )
    yield lines(
        "Bad episodes, by result",
        (12, 8),
        "Runs of spans whose labels were bad: caught before the labels showed them, announced late, or missed. Of all "
        "proxies together, and of those that said something.",
        [
            target(f'foreshock_ledger_episodes{{{MODEL}, proxy="total"}}', "{{outcome}}"),
            target(f'foreshock_ledger_episodes{{{each}, outcome!="missed"}} > 0', "{{proxy}} {{outcome}}"),
        ],
        stepped=True,
    )
    for title, metric, text in (
        ("Precision", "precision", "Share of confirmed alarms among confirmed and refuted, with the interval of all."),
        ("Recall", "recall", "Share of the bad episodes that were caught, with the interval of all."),
    ):
        yield lines(
            title,
            (8, 7),
            text,
            [
                target(f'foreshock_ledger_{metric}_ratio{{{each}, bound="value"}}', "{{proxy}}"),
                target(f'foreshock_ledger_{metric}_ratio{{{MODEL}, proxy="total"}}', "all, {{bound}}"),
            ],
            unit="percentunit",
        )
    yield lines(
        "Lead time",
        (8, 7),
        "From a confirmed alarm to when the labels showed it, the median. Below 0: the labels were faster.",
        [target(f'foreshock_ledger_lead_seconds{{{each}, quartile="0.5"}}', "{{proxy}}")],
        unit="s",
    )
    yield lines(
        "What was done about the rules",
        (12, 7),
        "Incidents of each rule that fired, and those that somebody acted on or dismissed: a rule that nobody acts on "
        "is decoration.",
        [target(f'foreshock_rule_actions{{{MODEL}, status=~"published|acted|dismissed"}} > 0', "{{rule}} {{status}}")],
        stepped=True,
    )
    yield lines(
        "False alarms a week",
        (12, 7),
        "Incidents that the truth refuted or somebody dismissed, over the weeks that were observed, and the budget.",
        [target(f"foreshock_false_alarms_per_week{{{MODEL}}}", "{{kind}}")],
    )
