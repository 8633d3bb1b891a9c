"""Learned → the text of a foreshock.yaml, for a person to read and edit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from streams.baseline import WHOLE
from streams.duration import DAY_MS, format_ms
from streams.learn import Learned
from streams.sketch.layout import NULL, Column, Kind, Layout, Role, requests
from streams.sketch.outcomes import Task

DEFAULT_RULES = """
      # The pipeline is broken: somebody upstream has to act, and nobody should retrain on this data.
      - {name: requests-failing, signals: [request_error_rate], response: data_incident, severity: critical}
      - {name: answers-slow, signals: [latency_p50, latency_p99], response: data_incident, for: 3}
      - {name: traffic-missing, signals: [request_rate, freshness], response: data_incident, for: 2, segments: false}
      - {name: schema-changed, signals: [schema_drift, missing_rate, type_mismatch_rate], response: data_incident, severity: critical}
      - {name: values-missing, signals: [null_rate], response: data_incident}
      - {name: categories-exploding, signals: [cardinality], response: data_incident}
      # The inputs have moved: a person decides what it means for the model.
      - {name: inputs-drifting, signals: [feature_drift, out_of_range_rate, unseen_rate], response: human_review, for: 2, clear: 4, cool_down: 7d}
      # The model answers differently.
      - {name: scores-drifting, signals: [score_drift, prediction_drift], response: human_review, for: 2, clear: 4, cool_down: 7d}
"""

FLOW_RULES = """
      # The labels have stopped, or meet no prediction (written with another key than their events, or by another
      # partitioner): what follows cannot be evaluated until they are back.
      - {name: labels-missing, signals: [label_rate, label_maturity], response: data_incident, for: 2}
      - {name: labels-unmatched, signals: [label_unmatched_rate], response: data_incident, for: 2}
      # Performance of the scores, as the labels come.
"""

PERFORMANCE_RULE = """
      - {name: performance-falling, signals: [%s], response: retrain, severity: critical, for: 2, clear: 3, cool_down: 7d}
"""
PERFORMANCE = {
    Task.BINARY: "accuracy, log_loss, auc",
    Task.MULTICLASS: "accuracy, log_loss",
    Task.REGRESSION: "mae, rmse",
}
"""Signals that a model of each task has."""

CLASS_RULES = """
      - {name: calibration-off, signals: [calibration_error, calibration_intercept, calibration_slope], response: retrain, for: 2, clear: 3, cool_down: 7d}
      - {name: segment-failing, signals: [segment_error_rate], response: human_review, for: 2, clear: 3, cool_down: 7d}
"""

BINARY_RULES = """
      - {name: class-failing, signals: [class_recall, class_precision], response: human_review, for: 2, clear: 3, cool_down: 7d}
      # Expected performance if only the inputs have moved: valid under covariate shift alone.
      - {name: performance-expected-to-fall, signals: [estimated_accuracy], response: human_review, for: 2, clear: 4, cool_down: 7d}
"""

FACTS_NOTE = """
    # feedback:              # what users say: topic feedback; signals override_rate, complaint_rate, workflow_step_rate
    #   complaint: {usual: 0.01}   # without 'usual', the same hours of earlier weeks say what is usual
    # jobs:                  # OpenLineage runs: topic runs; signals job_failure, freshness
    #   nightly_features: {every: 1d, longest: 2h}
    # kpis:                  # business numbers: topic outcomes; signal kpi, each with a rule of its own
    #   conversion: {aggregate: mean, better: higher, target: 0.3, tolerance: 0.1}
    # served: requests_served      # a KPI by which the serving side counts its requests; signal capture_ratio
"""

MAX_NOTE = 60


def foreshock_yaml(learned: Learned, source: str, baseline_file: str, realised: str = "") -> str:
    """The text of the file.

    Parameters:
        realised: result of a replay of the reference through this file, in one line.
    """
    return "\n".join(_lines(learned, source, baseline_file, realised)) + "\n"


def _lines(learned: Learned, source: str, baseline_file: str, realised: str) -> Iterator[str]:
    baseline = learned.baseline
    yield f"# Written by 'foreshock init' from {_note(source)}: {baseline.events:,} events."
    yield "# It is yours to edit. 'foreshock check' says what is wrong with it; 'foreshock backtest' tries it on the past."
    yield "kafka:"
    yield "  broker: 127.0.0.1:9092   # security: {protocol: SASL_SSL, …} goes here; secrets come from files or variables"
    yield "  prefix: ''               # in front of every topic"
    yield "web:"
    yield "  listen: 127.0.0.1:6066   # /metrics and /health"
    yield "models:"
    yield f"  {_text(baseline.model)}:"
    yield f"    baseline: {_text(baseline_file)}"
    yield f"    versions: {_list(learned.versions)}"
    yield "    owner: ''                # who answers the actions; a rule may name another"
    yield f"    pane: {format_ms(learned.pane_ms):<8}         # {_pane_reason(learned)}"
    yield f"    grace: {format_ms(learned.grace_ms):<8}        # how long a closed pane waits for events that are out of order"
    yield f"    lateness: {format_ms(max(DAY_MS, 2 * learned.pane_ms)):<8}     # later than this an event is counted late and left out"
    yield "    false_alarms_per_week: 1 # the budget that all tests of this model share"
    if realised:
        yield f"    # Through this file the reference itself gives {realised}."
    yield "    # preset: evidently      # or nannyml, sagemaker, vertex: their fixed thresholds for drift, instead of the budget"
    yield from _label_lines(learned)
    yield from _segment_lines(learned)
    lines = list(_feature_lines(learned))
    yield "    features:" if any(column.role is Role.FEATURE for column in baseline.columns) else "    features: {}"
    yield from lines
    yield from FACTS_NOTE.strip("\n").splitlines()
    yield "    # signals:               # change a signal's smallest effect, or the distance it uses"
    yield "    #   feature_drift: {effect: 0.2, method: psi, categorical_method: psi}"
    yield "    rules:"
    yield DEFAULT_RULES.strip("\n")
    if baseline.outcomes is not None:
        task = baseline.outcomes.layout.task
        yield FLOW_RULES.strip("\n")
        yield PERFORMANCE_RULE.strip("\n") % PERFORMANCE[task]
        if task is not Task.REGRESSION:
            yield CLASS_RULES.strip("\n")
        if task is Task.BINARY:
            yield BINARY_RULES.strip("\n")


def _pane_reason(learned: Learned) -> str:
    baseline = learned.baseline
    if not baseline.pane_ms:
        return "the reference has no times to learn it from: choose one that holds some 1,000 events"
    return f"holds about {_median_events(learned):,} events of the reference"


def _median_events(learned: Learned) -> int:
    sizes = sorted(int(requests(block[WHOLE].dense())) for block in learned.baseline.opened_blocks())
    return sizes[len(sizes) // 2]


def _label_lines(learned: Learned) -> Iterator[str]:
    if learned.baseline.outcomes is None:
        yield '    # labels: {task: binary, classes: ["0", "1"]}   # joins labels to predictions; \'foreshock init --labels\' learns more'
        return
    layout = learned.baseline.outcomes.layout
    yield "    labels:                  # the topic that tells, later, what was true"
    yield f"      task: {layout.task}"
    if layout.classes:
        note = (
            "   # the negative one, then the one whose probability the score is" if layout.task is Task.BINARY else ""
        )
        yield f"      classes: {_list(layout.classes)}{note}"
        yield f"      critical: {_list(layout.classes[1:] if layout.task is Task.BINARY else ())}   # classes whose recall and precision are judged"
    if layout.task is Task.BINARY:
        yield f"      threshold: {layout.threshold:.6g}         # decides where an event has no prediction"
    yield "      horizon: 30d           # so long a prediction waits for its label"


def _segment_lines(learned: Learned) -> Iterator[str]:
    if not learned.segments:
        yield "    segments: {}             # dimensions of the events' 'segments' to be watched on their own"
        return
    yield "    segments:                # watched on their own; other values are counted as __other__"
    for name, values in learned.segments.items():
        dropped = learned.dropped_segments.get(name, 0)
        note = f"   # and {dropped} rarer" if dropped else ""
        yield f"      {_text(name)}: {_list(values)}{note}"


def _feature_lines(learned: Learned) -> Iterator[str]:
    baseline = learned.baseline
    layout = Layout(baseline.columns)
    total = baseline.totals[WHOLE].dense()
    events = int(requests(total))
    features = [(i, column) for i, column in enumerate(layout.columns) if column.role is Role.FEATURE]
    width = max((len(_text(column.name)) for _, column in features), default=0) + 1
    for i, column in features:
        nulls = int(layout.block(total, i)[NULL]) / events
        described = _describe(column, baseline.statistics[i].distinct)
        note = f"{described[1]}, {nulls:.1%} null" if nulls else described[1]
        yield f"      {_text(column.name) + ':':<{width}} {described[0]:<44} # {note}"
    for name in learned.skipped_features:
        yield f"      # {_note(name)}: not watched, as it has no value in the reference, or no name that can be declared"


def _describe(column: Column, distinct: int) -> tuple[str, str]:
    if column.kind is Kind.NUMERIC:
        low, high = _rounded(column.edges[0], ROUND_FLOOR), _rounded(_below(column.edges[-1]), ROUND_CEILING)
        return f"{{type: numeric, range: [{low}, {high}]}}", f"{distinct:,} values"
    few = ", ".join(map(_note, column.categories[:3]))
    return f"{{type: {column.kind}}}", f"{distinct:,} categories: {few}{', …' if distinct > 3 else ''}"


def _rounded(value: float, direction: str) -> str:
    """Six significant digits, away from the values that the reference holds; as YAML reads a number."""
    exact = Decimal(repr(value))
    if not exact:
        return "0"
    last = max(exact.adjusted() - 5, int(exact.as_tuple().exponent))  # the place of the last digit that is kept
    short = exact.quantize(Decimal(1).scaleb(last), rounding=direction)
    if not math.isfinite(float(short)):
        short = exact
    if -6 < short.adjusted() < 16:
        return f"{short:f}".rstrip("0").rstrip(".") if "." in f"{short:f}" else f"{short:f}"
    mantissa, _, exponent = f"{short:e}".partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def _below(value: float) -> float:
    return math.nextafter(value, -math.inf)


def _list(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(_text, values)) + "]"


def _text(value: str) -> str:
    """A YAML scalar: plain words may stand without quotes."""
    plain = value.replace("_", "").replace("-", "").replace(" ", "")
    reserved = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
    if plain.isascii() and plain.isalpha() and value == value.strip() and value.lower() not in reserved:
        return value if not value.startswith("-") else f'"{value}"'
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    """What YAML does not let stand in a file, or takes for the end of a line, is written by its number."""
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _note(text: str) -> str:
    """A text as a comment may hold it."""
    return "".join(character if character.isprintable() else " " for character in text[:MAX_NOTE])
