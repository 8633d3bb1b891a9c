"""What a person writes → a configuration, or one line that says where, what and how to mend it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.config import MAX_FEATURES, Config, Response, Severity, bucket_of
from streams.configure import load
from streams.errors import ConfigError
from streams.sketch.layout import Kind
from tests.config_cases import LABELLED, SOUND, TOLD, WRONG, refused


def test_a_sound_file_says_what_it_says() -> None:
    config = load(SOUND)
    model = config.models["fraud"]
    assert (model.pane_ms, model.lateness_ms, config.limits.future_ms) == (60_000, 86_400_000, 3_600_000)
    assert (model.features["amount"].range, model.features["country"].type) == ((0.0, 100.0), Kind.CATEGORICAL)
    missing, drifting = model.rules
    assert (missing.response, missing.severity, missing.for_panes) == (Response.DATA_INCIDENT, Severity.WARNING, 1)
    assert (model.overs_ms(missing), model.overs_ms(drifting), drifting.for_panes) == ((60_000,), (900_000,), 2)
    assert model.signals["feature_drift"].effect == 0.3


def test_what_is_left_out_has_a_sound_default() -> None:
    config = load("models: {fraud: {}}")
    assert (config.kafka.chunk_size, config.web.listen) == (65_536, "127.0.0.1:6066")
    assert (config.models["fraud"].pane_ms, config.models["fraud"].rules) == (60_000, ())


@pytest.mark.parametrize(("old", "new", "says"), WRONG.values(), ids=WRONG.keys())
def test_each_mistake_is_told_in_one_line_that_names_its_place(old: str, new: str, says: str) -> None:
    assert SOUND.count(old) >= 1
    text = SOUND.replace(old, new, 1)
    line = refused(text)
    assert says in line
    first = SOUND[: SOUND.index(old)].count("\n") + 1
    lines = [first + offset for offset in range(new.count("\n") + 2)]
    context = [number for number in range(first - 1, 0, -1) if not SOUND.splitlines()[number - 1].startswith("      ")]
    assert any(
        f"foreshock.yaml, line {number}," in line or f"foreshock.yaml, line {number}:" in line
        for number in (*lines, *context[:1])
    ), line


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("    pane: 1m", "    pane: 0m", "line 16, models.fraud.pane"),
        ("        for: 2", "        for: 0", "line 34, models.fraud.rules[1].for"),
        ("[null_rate]", "[nul_rate]", "line 29, models.fraud.rules[0].signals[0]"),
        ("effect: 0.3", "effect: -1", "line 27, models.fraud.signals.feature_drift.effect"),
        ("[0, 100]", "[100, 0]", "line 24, models.fraud.features.amount.range"),
        ("buckets: 16", "buckets: many", "line 4, kafka.buckets"),
        (", response: data_incident}", "}", "line 29, models.fraud.rules[0]"),
        ("  prefix: ''", "  prefix: '", "line 3"),
    ],
)
def test_the_line_and_the_path_are_exact(old: str, new: str, place: str) -> None:
    assert refused(SOUND.replace(old, new, 1)).startswith(f"foreshock.yaml, {place}: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no mapping; expected a mapping with the key 'models'; run 'foreshock init'"),
        ("# nothing but a comment", "no mapping"),
        ("- models", "no mapping"),
        ("models", "no mapping"),
        ("models:", "null; expected object"),
        ("models: {}", "0 models; expected 1 to 5000; declare at least one"),
        ("kafka: {}", "missing required field `models`"),
        ("a: " * 3, "no YAML"),
        ("[" * 1_500, "nested too deep"),
        ("models: &m {a: *m}", "an alias of what it is a part of"),
        ("\ufeffmodels: {}\n---\nmodels: {}", "no YAML"),
    ],
)
def test_files_that_are_no_configuration(text: str, says: str) -> None:
    assert says in refused(text)


def test_too_many_features_are_refused() -> None:
    many = "".join(f"      f{i}: {{type: numeric}}\n" for i in range(MAX_FEATURES + 1))
    assert f"{MAX_FEATURES + 1} features" in refused("models:\n  m:\n    features:\n" + many)


def test_every_response_is_offered_where_one_is_missing() -> None:
    line = refused(SOUND.replace(", response: data_incident}", "}", 1))
    assert all(response in line for response in Response)
    assert "an alarm that nobody answers is decoration" in line


def test_a_response_of_ones_own_is_declared_once() -> None:
    text = SOUND.replace("web:\n", "responses: {page_fraud_desk: they call the customer}\nweb:\n")
    config = load(text.replace("response: data_incident", "response: page_fraud_desk"))
    rule = config.models["fraud"].rules[0]
    assert rule.response == "page_fraud_desk" and not rule.is_inhibitor


def test_aliases_and_merges_of_yaml_are_welcome() -> None:
    text = "models:\n  a: &a {pane: 5m, owner: x}\n  b: {<<: *a, owner: y}\n"
    models = load(text).models
    assert (models["b"].pane_ms, models["b"].owner) == (300_000, "y")


@settings(max_examples=150)
@given(st.data())
def test_no_edit_of_a_sound_file_gives_anything_but_a_configuration_or_one_line(data: st.DataObject) -> None:
    text = SOUND
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        size = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(EDITS) + text[at + size :]
    try:
        assert isinstance(load(text), Config)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("foreshock.yaml")


EDITS = st.one_of(
    st.sampled_from(
        [
            "",
            ": ",
            "- ",
            "{",
            "}",
            "[",
            "]",
            "'",
            '"',
            "\n",
            "  ",
            "#",
            "&a ",
            "*a",
            "!!int ",
            "null",
            "~",
            "-1",
            "1e400",
        ]
    ),
    st.sampled_from(
        [
            ".nan",
            ".inf",
            "2026-01-01",
            "99999999999999999999",
            "true",
            "? ",
            "<<: ",
            "|\n",
            "%",
            "@",
            "`",
            "\t",
            "\0",
            "é",
            "\ud800",
        ]
    ),
    st.text(max_size=5),
)


class TestBuckets:
    @pytest.mark.parametrize(
        ("model", "bucket"), [("fraud", 1), ("elec2", 6), ("", 5), ("東京", 15), ("__other__", 13)]
    )
    def test_a_models_bucket_is_the_same_in_every_release(self, model: str, bucket: int) -> None:
        """Frozen: a state topic written by an older worker is read by the bucket's number."""
        assert bucket_of(model, 16) == bucket

    def test_models_spread_over_the_buckets(self) -> None:
        sizes: dict[int, int] = {}
        for i in range(1_600):
            bucket = bucket_of(f"model-{i}", 16)
            sizes[bucket] = sizes.get(bucket, 0) + 1
        assert len(sizes) == 16
        assert 50 < min(sizes.values()) <= max(sizes.values()) < 160


def test_a_message_leaves_out_what_it_has_nothing_to_say_about() -> None:
    errors: list[tuple[dict[str, Any], str]] = [
        ({"seen": "a"}, "a"),
        ({"seen": "a", "mend": "c"}, "a; c"),
        ({"seen": "a\nb", "expected": "c", "mend": "d", "place": "file"}, "file: a b; expected c; d"),
    ]
    assert [str(ConfigError(**parts)) for parts, _ in errors] == [text for _, text in errors]


def test_labels_are_read() -> None:
    labels = load(LABELLED).models["fraud"].labels
    assert labels is not None
    assert (labels.task, labels.classes, labels.critical, labels.horizon_ms) == (
        "binary",
        ("0", "1"),
        ("1",),
        30 * 86_400_000,
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('classes: ["0", "1"]', 'classes: ["0"]', "expected 2 different ones"),
        ("task: binary", "task: sorting", "labels.task"),
        ('critical: ["1"]', 'critical: ["2"]', "class '2'"),
        ("task: binary", "task: regression", "expected 0 different ones"),
        ('critical: ["1"]', "horizon: soon", "expected a duration"),
        ("signals: [null_rate]", "signals: [null_rate, accuracy]", "make two rules of it"),
    ],
)
def test_what_cannot_be_said_of_labels_is_one_line(before: str, after: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(LABELLED.replace(before, after, 1))
    assert said in str(error.value) and "foreshock.yaml, line " in str(error.value)


def test_a_rule_about_labels_needs_labels() -> None:
    with pytest.raises(ConfigError, match="without 'labels:'"):
        load(SOUND.replace("signals: [null_rate]", "signals: [accuracy]"))


def test_what_else_is_told_is_read() -> None:
    model = load(TOLD).models["fraud"]
    assert model.kpi_clocks == ("loss", "margin", "capture_ratio")
    assert model.observed_kpis == ("loss", "gain", "requests")
    assert (model.jobs["nightly"].allowed_ms, model.job_named("any", "nightly")) == (36 * 3_600_000, "nightly")
    assert [rule.kpi for rule in model.rules][:4] == ["loss", None, None, "capture_ratio"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("complaint: {usual", "complaints: {usual", "did you mean 'complaint'?"),
        ("usual: 0.01", "usual: 2", "a rate between 0 and 1"),
        ("usual: 0.01", "values: [a]", "values of workflow_step alone"),
        ("values: [call]", "values: [call, call]", "2 values"),
        ("values: [call]", "value: [call]", "did you mean 'values'?"),
        ("feedback:\n", "feedback: [1]\n    old:\n", "feedback"),
        ("aggregate: sum", "aggregate: median", "aggregate"),
        ("aggregate: sum, ", "", "aggregate"),
        ("better: lower", "better: less", "better"),
        ("target: 100", "target: .inf", "target"),
        ("target: 100", "tolerance: -1", "0 or more"),
        ("target: 100", "of: [a, b]", "it with 'ratio' alone"),
        ("of: [gain, loss]", "of: [gain]", "two: what is divided"),
        ("of: [gain, loss]", "of: [gain, gain]", "'gain' twice; expected two different KPIs"),
        ("      loss: {", "      capture_ratio: {", "a printable name"),
        ("kpis:\n", "kpis: [1]\n    old:\n", "kpis"),
        ("served: requests", "served: ''", "the name of a KPI"),
        ("every: 1d", "every: often", "a duration"),
        ("longest: 2h", "longest: 2", "longest"),
        ("every: 1d, ", "", "every"),
        ("nightly: {every: 1d, longest: 2h}", "nightly:", "nightly"),
        ("features: [loss]", "features: [los]", "the one KPI that the rule is about"),
        ("signals: [kpi], features: [loss]", "signals: [kpi]", "no 'features'"),
        ("signals: [kpi]", "signals: [kpi, null_rate]", "make two rules of it"),
        ("features: [nightly]", "features: [daily]", "feature 'daily'"),
        ("features: [call]", "features: [mail]", "feature 'mail'"),
        ("    served: requests\n", "", "'capture_ratio', of a model without 'served:'"),
        (
            "      complaint: {usual: 0.01}\n      workflow_step: {values: [call]}",
            "      complaint: {}",
            "workflow_step",
        ),
    ],
)
def test_what_cannot_be_said_of_what_is_told_is_one_line(before: str, after: str, said: str) -> None:
    assert before in TOLD
    with pytest.raises(ConfigError) as error:
        load(TOLD.replace(before, after, 1))
    text = str(error.value)
    assert said in text and text.startswith("foreshock.yaml, line ") and "\n" not in text
