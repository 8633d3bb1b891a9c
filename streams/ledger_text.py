"""Rows of ledgers → lines for a person: a table of the proxies, one of the rules, and the false alarms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from streams.ledger_rows import ENOUGH, LedgerRows, ProxyRow, Realised, RuleRow

PROXIES = (
    *("proxy", "alarms", "confirmed", "refuted", "open", "unknown", "censored", "caught", "late", "missed"),
    *("precision", "recall", "lead (quartiles)"),
)
RULES = ("rule", "published", "seen", "acted", "dismissed", "done", "acted on", "time to ack", "")


def ledger_lines(rows: LedgerRows) -> Iterator[str]:
    """The lines of all models, one after the other."""
    for realised in rows.realised:
        yield realised.model
        yield from proxy_lines(row for row in rows.proxies if row.model == realised.model)
        yield from _table([RULES, *(_rule(row) for row in rows.rules if row.model == realised.model)])
        if not any(row.seen + row.acted + row.dismissed for row in rows.rules if row.model == realised.model):
            yield "  nobody has said what was done about an action: see 'foreshock ack -h'"
        yield realised_line(realised)


def proxy_lines(rows: Iterable[ProxyRow]) -> Iterator[str]:
    """The proxies of one model."""
    mine = list(rows)
    yield from _table([PROXIES, *map(_proxy, mine)])
    if any(row.precision and not row.enough for row in mine):
        yield f"  *: fewer than {ENOUGH} verdicts, not to be built on"


def realised_line(found: Realised) -> str:
    return (
        f"  false alarms: {found.false_alarms} in {found.weeks:.1f} weeks, {found.per_week:.2f} a week; "
        f"budget {found.budget:g}"
    )


def _proxy(row: ProxyRow) -> Sequence[str]:
    verdicts = (row.alarms, row.confirmed, row.refuted, row.open, row.unknown, row.censored)
    counts = (*verdicts, row.caught, row.late, row.missed)
    lead = "" if row.lead_s is None else f"{_time(row.lead_s[0])} ({_time(row.lead_s[1])} to {_time(row.lead_s[2])})"
    precision = _share(row.precision) + ("" if row.enough or row.precision is None else "*")
    return row.proxy, *map(str, counts), precision, _share(row.recall), lead


def _rule(row: RuleRow) -> Sequence[str]:
    counts = (row.published, row.seen, row.acted, row.dismissed, row.done)
    share = "" if row.share is None else f"{row.share:.0%}"
    wait = "" if row.ack_s is None else _time(row.ack_s)
    said = "shadow" if row.shadow else "decoration: nobody acts on it" if row.decoration else ""
    return row.rule, *map(str, counts), share, wait, said


def _share(found: tuple[float, float, float] | None) -> str:
    return "" if found is None else f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"


def _time(seconds: float) -> str:
    """About how long, in the largest unit of which it is at least one.

    >>> _time(-5400.0)
    '-1.5h'
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if abs(seconds) >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        first, *rest = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        yield f"  {row[0].ljust(len(first))}  {'  '.join(rest)}".rstrip()
