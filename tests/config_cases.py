"""Configurations: a sound one, and what is wrong with one edit of it."""

from __future__ import annotations

import pytest

from streams.config import OTHER
from streams.configure import load
from streams.errors import ConfigError

SOUND = """\
kafka:
  broker: 127.0.0.1:9092
  prefix: ''
  buckets: 16
  chunk_size: 65536
web:
  listen: 127.0.0.1:6066
limits:
  max_record_bytes: 1048576
  future: 1h
models:
  fraud:
    baseline: fraud.baseline
    versions: ["1", "2"]
    owner: team-fraud
    pane: 1m
    grace: 1m
    lateness: 1d
    false_alarms_per_week: 1
    max_versions: 8
    segments:
      region: [north, south]
    features:
      amount: {type: numeric, range: [0, 100]}
      country: {type: categorical}
    signals:
      feature_drift: {effect: 0.3, method: psi}
    rules:
      - {name: values-missing, signals: [null_rate], response: data_incident}
      - name: inputs-drifting
        signals: [feature_drift]
        response: human_review
        over: 15m
        for: 2
"""
WRONG: dict[str, tuple[str, str, str]] = {
    # what: (what stands there, what stands there instead, what the error says)
    "no models": ("models:", "modells:", "unknown key 'modells'; expected a known key; did you mean 'models'?"),
    "an unknown key of the file": ("web:\n", "colour: red\nweb:\n", "unknown key 'colour'"),
    "an unknown key of a model": ("    pane: 1m", "    panes: 1m", "did you mean 'pane'?"),
    "an unknown key of kafka": ("  prefix: ''", "  prefixes: ''", "did you mean 'prefix'?"),
    "a source that workers write": (
        "  prefix: ''",
        "  labels: actions",
        "'actions', a topic that Foreshock writes itself",
    ),
    "a source that is another one too": (
        "  prefix: ''",
        "  outcomes: runs",
        "'runs', a topic that 'runs' is read from",
    ),
    "a default source that is another one too": (
        "  prefix: ''",
        "  inference: labels",
        "'labels', a topic that 'infer",
    ),
    "a source that Kafka has no topic for": ("  prefix: ''", "  runs: '..'", "a name that Kafka takes for a topic"),
    "an unknown key of web": ("  listen:", "  port:", "unknown key 'port'"),
    "an unknown key of a feature": ("{type: categorical}", "{type: categorical, rang: 1}", "did you mean 'range'?"),
    "an unknown key of a rule": ("        over: 15m", "        ovver: 15m", "did you mean 'over'?"),
    "an unknown key of a tuning": ("effect: 0.3", "effekt: 0.3", "did you mean 'effect'?"),
    "a rule without a response": (
        ", response: data_incident}",
        "}",
        "rule 'values-missing' without a response; expected a response that somebody carries out",
    ),
    "a response that nobody knows": ("response: data_incident", "response: page_everyone", "page_everyone"),
    "a severity that nobody knows": ("        for: 2", "        severity: loud", "loud"),
    "a signal that nobody knows": ("[null_rate]", "[nul_rate]", "did you mean 'null_rate'?"),
    "a signal to tune that nobody knows": (
        "feature_drift: {effect",
        "featur_drift: {effect",
        "did you mean 'feature_drift'?",
    ),
    "a method that nobody knows": ("method: psi", "method: psy", "did you mean 'psi'?"),
    "a method for numbers only": (
        "method: psi",
        "categorical_method: wasserstein",
        "use psi, jensen_shannon or l_infinity",
    ),
    "a preset that nobody knows": (
        "    owner: team-fraud",
        "    preset: magic",
        "one of evidently, nannyml, sagemaker, vertex",
    ),
    "a rule without signals": ("[null_rate]", "[]", "a rule without a name or signals"),
    "a rule without a name": ("{name: values-missing,", "{name: '',", "a rule without a name or signals"),
    "a rule that has no name at all": ("{name: values-missing, ", "{", "missing required field `name`"),
    "two rules with one name": ("name: inputs-drifting", "name: values-missing", "a second rule 'values-missing'"),
    "a rule for a feature that is not there": ("        for: 2", "        features: [amont]", "did you mean 'amount'?"),
    "for 0 panes": ("        for: 2", "        for: 0", "0; expected 1 or more; raise it"),
    "for minus one": ("        for: 2", "        clear: -1", "-1; expected 1 or more"),
    "min_n of 0": ("        for: 2", "        min_n: 0", "0; expected 1 or more"),
    "for half a pane": ("        for: 2", "        for: 1.5", "expected int"),
    "over that is no multiple of the pane": (
        "over: 15m",
        "over: 90s",
        "90s; expected a multiple of the pane (1m); round it",
    ),
    "over without a unit": (
        "over: 15m",
        "over: '15'",
        "'15'; expected a duration above zero and of at most ten years, such as 30s, 15m, 1h or 7d",
    ),
    "no window at all": ("over: 15m", "over: []", "[]; expected a window, or several"),
    "one of two windows no multiple of the pane": ("over: 15m", "over: [15m, 90s]", "90s; expected a multiple of the"),
    "a cool-down without a unit": ("        for: 2", "        cool_down: '5'", "'5'; expected a duration above zero"),
    "another way to match": ("        for: 2", "        match: most", "'most'"),
    "shadow as a text": ("        for: 2", "        shadow: 'yes'", "'yes'; expected bool"),
    "a segment of a rule that is not declared": (
        "        for: 2",
        "        segments: {regoin: [north]}",
        "segment 'regoin'",
    ),
    "a response declared that there is": (
        "web:\n",
        "responses: {retrain: again}\nweb:\n",
        "'retrain'; expected a new name",
    ),
    "a response with a blank in it": (
        "web:\n",
        "responses: {call me: again}\nweb:\n",
        "'call me'; expected a new name",
    ),
    "a maintenance without a time": ("    pane: 1m", "    maintenance: [{days: [sat]}]", "no time, or two; expected"),
    "a maintenance with two": (
        "    pane: 1m",
        "    maintenance: [{daily: 02:00-03:00, from: '2026-01-01T00:00:00Z', to: '2026-01-02T00:00:00Z'}]",
        "no time, or two; expected 'from' and 'to', or 'daily'",
    ),
    "a maintenance that never ends": (
        "    pane: 1m",
        "    maintenance: [{from: '2026-01-01T00:00:00Z'}]",
        "no time, or two; expected",
    ),
    "a maintenance that ends first": (
        "    pane: 1m",
        "    maintenance: [{from: '2026-01-02T00:00:00Z', to: '2026-01-01T00:00:00Z'}]",
        "expected a time after 2026-01-02T00:00:00Z",
    ),
    "a maintenance from tomorrow": (
        "    pane: 1m",
        "    maintenance: [{from: tomorrow, to: '2026-01-01T00:00:00Z'}]",
        "'tomorrow'; expected RFC 3339",
    ),
    "a maintenance at 25 o'clock": (
        "    pane: 1m",
        "    maintenance: [{daily: 25:00-26:00}]",
        "write it as 02:00-03:30",
    ),
    "a maintenance on a holiday": (
        "    pane: 1m",
        "    maintenance: [{daily: 02:00-03:00, days: [xmas]}]",
        "day 'xmas'",
    ),
    "a maintenance for a rule that is not there": (
        "    pane: 1m",
        "    maintenance: [{daily: 02:00-03:00, rules: [values-mising]}]",
        "did you mean 'values-missing'?",
    ),
    "over as a number": ("over: 15m", "over: 15", "expected str"),
    "a pane without a unit": ("    pane: 1m", "    pane: 1 minute", "'1 minute'; expected a duration above zero"),
    "a pane of nothing": ("    pane: 1m", "    pane: 0m", "'0m'; expected a duration above zero"),
    "a pane in sexagesimal": ("    pane: 1m", "    pane: 1:30", "90; expected str"),
    "a pane shorter than a second": ("    pane: 1m", "    pane: 10ms", "10ms; expected 1s or more"),
    "a lateness of 10,000 years": ("    lateness: 1d", "    lateness: 520000w", "at most ten years"),
    "a lateness below the grace": (
        "    lateness: 1d",
        "    lateness: 30s",
        "30s; expected no less than the grace (1m); raise it",
    ),
    "a future that is no duration": ("  future: 1h", "  future: soon", "'soon'; expected a duration"),
    "an alarm budget of 0": ("false_alarms_per_week: 1", "false_alarms_per_week: 0", "expected above 0"),
    "an alarm budget that is no number": (
        "false_alarms_per_week: 1",
        "false_alarms_per_week: .nan",
        "expected above 0",
    ),
    "an infinite alarm budget": ("false_alarms_per_week: 1", "false_alarms_per_week: .inf", "expected above 0"),
    "an effect below 0": ("effect: 0.3", "effect: -0.1", "-0.1; expected 0 or more"),
    "an effect that is no number": ("effect: 0.3", "effect: .nan", "nan; expected 0 or more"),
    "a range that is upside down": ("[0, 100]", "[100, 0]", "[100.0, 0.0]; expected [low, high] of a numeric feature"),
    "a range with no number": ("[0, 100]", "[.nan, 100]", "expected [low, high] of a numeric feature"),
    "a range of three": ("[0, 100]", "[0, 50, 100]", "length"),
    "a range of a category": ("{type: categorical}", "{type: categorical, range: [0, 1]}", "of a numeric feature"),
    "a type that nobody knows": ("{type: categorical}", "{type: text}", "text"),
    "a feature without a type": ("{type: categorical}", "{}", "missing required field `type`"),
    "a feature that is no mapping": ("{type: categorical}", "categorical", "expected object"),
    "a feature whose name is a number": (
        "      country:",
        "      7:",
        "the key '7', which YAML reads as int; expected a text; quote it",
    ),
    "a model whose name is a number": ("  fraud:", "  2024:", "the key '2024', which YAML reads as int"),
    "a segment whose name is a boolean": ("      region:", "      on:", "the key 'on', which YAML reads as bool"),
    "a feature with quotes in its name": (
        "      country:",
        "      'a\"b':",
        "expected a printable name of 1 to 256 characters without quotes or backslashes",
    ),
    "a feature twice": (
        "      country: {type: categorical}",
        "      amount: {type: categorical}",
        "a second key 'amount'; expected each key once",
    ),
    "rules twice": (
        "        for: 2\n",
        "        for: 2\n    rules: []\n",
        "a second key 'rules'; expected each key once",
    ),
    "a model called like the others": ("  fraud:", f"  {OTHER}:", f"the name '{OTHER}'"),
    "a model with no name": ("  fraud:", "  '':", "the name ''"),
    "a model with a long name": ("  fraud:", f"  {'m' * 257}:", "at most 256"),
    "a model with a newline in its name": ("  fraud:", '  "a\\nb":', "printable"),
    "a model with a lone surrogate in its name": ("  fraud:", '  "a\\ud800":', "half of a pair of surrogates"),
    "a dimension with a quote in its name": ("      region:", "      'a\"b':", "without quotes or backslashes"),
    "a segment twice": ("[north, south]", "[north, north]", "2 values; expected at most 64 different ones"),
    "a segment called like the others": ("[north, south]", f"[north, {OTHER}]", "none of them '__other__'"),
    "a dimension with no name": ("      region:", "      '':", "expected a printable name of 1 to 256 characters"),
    "too many segment values": ("[north, south]", str([f"v{i}" for i in range(65)]), "65 values; expected at most 64"),
    "too many dimensions": (
        "      region: [north, south]",
        "\n".join(f"      d{i}: [a]" for i in range(9)),
        "9 segments; expected at most 8",
    ),
    "segment values that are numbers": ("[north, south]", "[1, 2]", "expected str"),
    "versions that are numbers": ('["1", "2"]', "[1, 2]", "expected str"),
    "more versions than are kept": (
        "max_versions: 8",
        "max_versions: 1",
        "1; expected no fewer than the versions named (2)",
    ),
    "no versions kept": ("max_versions: 8", "max_versions: 0", "0; expected 1 to 64"),
    "a version too long": ('["1", "2"]', f'["{"v" * 129}"]', "at most 128"),
    "a chunk size that is no power of two": (
        "chunk_size: 65536",
        "chunk_size: 60000",
        "60000; expected a power of two",
    ),
    "no buckets": ("buckets: 16", "buckets: 0", "0; expected 1 to 4096"),
    "no record may pass": ("max_record_bytes: 1048576", "max_record_bytes: 0", "0; expected 1 or more"),
    "broken indentation": ("    owner: team-fraud", "   owner: team-fraud", "no YAML"),
    "a missing quote": ("  prefix: ''", "  prefix: '", "no YAML"),
    "a tab": ("    owner: team-fraud", "\towner: team-fraud", "no YAML"),
    "a date that is none": (
        "    owner: team-fraud",
        "    owner: 2026-13-45",
        "'2026-13-45', no timestamp (month must be in 1..12); expected a value; quote it",
    ),
    "a number that is none": ("    owner: team-fraud", "    owner: !!int x", "'x', no int"),
    "a tag that nobody knows": ("    owner: team-fraud", "    owner: !!python/object:os.system x", "no YAML"),
    "an alias to nothing": ("    owner: team-fraud", "    owner: *nobody", "no YAML"),
    "a control character": ("    owner: team-fraud", "    owner: 'a\0b'", "no YAML"),
    "a null where a text is": ("    owner: team-fraud", "    owner:", "null; expected str"),
    "a list where a mapping is": (
        "    signals:\n      feature_drift: {effect: 0.3, method: psi}",
        "    signals: [null_rate]",
        "expected object",
    ),
    "a rule that is a text": (
        "{name: values-missing, signals: [null_rate], response: data_incident}",
        "values-missing",
        "expected object",
    ),
}


def refused(text: str) -> str:
    """The one line that a person sees."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.exit_code == 2
    assert caught.value.__cause__ is None, "no second traceback"
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 800
    return line


LABELLED = SOUND.replace(
    "    pane: 1m\n", '    labels: {task: binary, classes: ["0", "1"], critical: ["1"]}\n    pane: 1m\n'
)
TOLD = SOUND.replace(
    "    rules:\n",
    """\
    feedback:
      complaint: {usual: 0.01}
      workflow_step: {values: [call]}
    kpis:
      loss: {aggregate: sum, better: lower, target: 100}
      margin: {aggregate: ratio, better: higher, of: [gain, loss]}
    served: requests
    jobs:
      nightly: {every: 1d, longest: 2h}
    rules:
      - {name: loss-high, signals: [kpi], features: [loss], response: rollback}
      - {name: job-failing, signals: [job_failure, freshness], features: [nightly], response: data_incident}
      - {name: steps, signals: [workflow_step_rate], features: [call], response: human_review}
      - {name: lost, signals: [capture_ratio], response: data_incident}
""",
)
