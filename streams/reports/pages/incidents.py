"""Incidents of a report → tables with their evidence and what was answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streams.reports.html import Column, Markup, paragraph, safe, table, tag, when
from streams.reports.incidents import Incident
from streams.reports.pages.cells import cell_name
from streams.reports.periods import Period
from streams.reports.phrases import measure_title, number_text


def incident_tables(incidents: Sequence[Incident], period: Period, when_: str) -> Iterator[str]:
    """Incidents that were due, those that were held back, and a word on shadows."""
    due = [found for found in incidents if not found.only_held_back and not found.shadow]
    held = [found for found in incidents if found.only_held_back and not found.shadow]
    shadows = [found for found in incidents if found.shadow]
    if due:
        yield _incident_table(f"Incidents open {when_}", due, period)
        answered = sum(bool(found.acks) for found in due)
        yield paragraph(
            f"{answered} of {len(due)} were answered by an ack."
            if answered
            else "Nobody has sent an ack for any of them: what was done is not known here.",
            "note",
        )
    else:
        yield paragraph(f"No incident was open {when_}.")
    if held:
        yield _incident_table("Held back, because a lower layer explains them", held, period)
    if shadows:
        yield paragraph(
            f"{len(shadows)} more of rules in shadow, which try themselves out: "
            + ", ".join(dict.fromkeys(found.rule for found in shadows))
            + "."
        )


def _incident_table(caption: str, incidents: Sequence[Incident], period: Period) -> Markup:
    return table(
        caption,
        [
            "rule",
            "where",
            "response",
            Column("state", roomy=True),
            Column("evidence of the last action", roomy=True),
            "owner",
            "answer",
        ],
        (
            (
                found.rule,
                cell_name(found, False),
                Markup(f"{safe(found.response)} <small>{safe(found.severity)}</small>"),
                _state(found, period),
                _evidence(found),
                _owner(found),
                _answers(found),
            )
            for found in incidents
        ),
    )


def _state(found: Incident, period: Period) -> Markup:
    began = when(found.fired or found.held_back or "")
    if found.only_held_back:
        text = Markup(f'<span class="suppressed">◆ held back</span> since {began}')
        text = Markup(f"{text} by {safe(found.cause)}") if found.cause else text
    elif found.is_open(period):
        text = Markup(f'<span class="firing">▲ open</span> since {began}')
    else:
        text = Markup(f'<span class="resolved">● ended</span>, from {began}')
    if found.ended is None or found.is_open(period):
        return text
    return Markup(f"{text} to {when(found.ended)}")


def _evidence(found: Incident) -> Markup:
    items = [
        f"{measure_title(item.name, item.feature)} {number_text(item.name, item.value)} "
        f"(limit {number_text(item.name, item.threshold)}, n {'–' if item.n is None else f'{item.n:,}'})"
        for item in found.evidence[:3]
    ]
    more = len(found.evidence) - 3
    return Markup("<br>".join(map(safe, items)) + (f"<br>and {more} more" if more > 0 else ""))


def _owner(found: Incident) -> Markup:
    owner = safe(found.owner or "nobody is named")
    if not found.runbook:
        return owner
    if found.runbook.startswith(("https://", "http://")):
        return Markup(f"{owner}<br>{tag('a', 'runbook', href=found.runbook)}")
    return Markup(f"{owner}<br>{safe(found.runbook)}")


def _answers(found: Incident) -> Markup:
    if not found.acks:
        return safe("none")
    return Markup("<br>".join(safe(f"{said.status} by {said.by}" + (f": {said.note}" if said.note else ""))
                              for said in found.acks))  # fmt: skip
