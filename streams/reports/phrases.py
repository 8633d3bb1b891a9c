"""Counts, segments, names of signals and their numbers → the words of a report."""

from __future__ import annotations

from collections.abc import Mapping

from streams.reports.lines import ERROR_RATE

PER_SECOND = frozenset({"request_rate", "label_rate"})
MILLISECONDS = frozenset({"freshness", "latency_p50", "latency_p99"})
PERCENT = frozenset({"accuracy", ERROR_RATE, "segment_error_rate", "class_recall", "class_precision"})


def count_text(number: int, what: str) -> str:
    """
    >>> count_text(1, "incident"), count_text(2_000, "label")
    ('1 incident', '2,000 labels')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def segment_phrase(segment: Mapping[str, str] | None, before: str = "") -> str:
    """As `origin EWR`; nothing for the whole model."""
    return before + ", ".join(f"{name} {value}" for name, value in segment.items()) if segment else ""


def measure_title(name: str, feature: str | None = None) -> str:
    """As a person would say it.

    >>> measure_title("class_recall", "fraud")
    'class recall of fraud'
    """
    return name.replace("_", " ") + (f" of {feature}" if feature is not None else "")


def number_text(name: str, value: float | None) -> str:
    """A number in the unit of its signal; nothing is a dash.

    >>> number_text("accuracy", 0.68349), number_text("log_loss", 0.53704732), number_text("auc", None)
    ('68.3%', '0.537', '–')
    """
    if value is None:
        return "–"
    if name in PER_SECOND:
        return f"{value:.3g} /s"
    if name in MILLISECONDS:
        return f"{value / 1000:,.3g} s" if abs(value) >= 1_000 else f"{value:.3g} ms"
    if name in PERCENT or name.endswith(("_rate", "_maturity")):
        return f"{100 * value:.1f}%".replace("-", "−")
    size = abs(value)
    text = f"{value:,.0f}" if size >= 1_000 else f"{value:.3g}" if size >= 100 else f"{value:.3f}"
    return ("0.000" if text == "-0.000" else text).replace("-", "−")
