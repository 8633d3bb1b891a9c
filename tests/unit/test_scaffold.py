"""The file that `init` writes is one that `check` takes, whatever the reference data is called and holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.config import Config, Model, is_nameable
from streams.configure import load
from streams.learn import Learned, learn
from streams.plan import compile_plan
from streams.scaffold import foreshock_yaml

START_MS = 1_767_225_600_000
HOSTILE = [
    *(
        "a b",
        "a: b",
        "a #b",
        "#a",
        "- a",
        "-a",
        "-",
        "?",
        "? a",
        "a'b",
        "'a'",
        'a"b',
        '"a"',
        "a\\b",
        "{a}",
        "[a]",
        "a, b",
    ),
    *("&a", "*a", "!a", "!!int", "|", ">", "%a", "@a", "`a`", "~", "=", "<<", "---", "...", "a:", ":", ",", " a", "a "),
    *("null", "Null", "true", "TRUE", "yes", "No", "on", "OFF", "y", "n", "nan", ".nan", ".inf", "None", "NULL_"),
    *("1", "01", "1.0", "1e5", "1e-05", "0x1F", "0o7", "1_000", "1:30", "2026-01-01", "-1", "+1", "."),
    *(
        "é",
        "東京",
        "😀",
        "\u00a0",
        "\u2028",
        "\u2029",
        "\x85",
        "\x7f",
        "\ufeff",
        "\ufffe",
        "\ue000",
        "\u202e",
        "\U0010ffff",
    ),
    *("\0", "\n", "a\nb: c", "\t", "\r\n", "x" * 300, "x" * 2_000, "", "__other__", "type", "features", "models"),
]
names = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(codec="utf-8"), max_size=8))


def learned_from(model: str = "m", **event: Any) -> Learned:
    written = [
        json.dumps({"event_id": str(i), "ts": START_MS + i * 1000, "model": model, "features": {}, **event}).encode()
        for i in range(120)
    ]
    return learn(model, lambda: written)


def loaded(learned: Learned, source: str = "reference.ndjson", baseline: str = "m.baseline") -> Config:
    """What `check` makes of what `init` writes."""
    config = load(foreshock_yaml(learned, source, baseline))
    compile_plan(config, {learned.baseline.model: learned.baseline})
    return config


def only(config: Config) -> Model:
    (model,) = config.models.values()
    assert isinstance(model, Model)
    return model


class TestNames:
    @pytest.mark.parametrize("name", HOSTILE, ids=ascii)
    def test_any_feature_or_segment_is_declared_under_its_name_or_left_out(self, name: str) -> None:
        learned = learned_from(features={name: 1, "plain": "x"}, segments={name: "a"}, model_version="1")
        model = only(loaded(learned))
        expected = [name, "plain"] if is_nameable(name) else ["plain"]
        assert list(model.features) == list(dict.fromkeys(expected))
        assert list(model.segments) == ([name] if is_nameable(name) else [])

    @pytest.mark.parametrize("name", HOSTILE, ids=ascii)
    def test_any_value_is_a_segments_value(self, name: str) -> None:
        model = only(loaded(learned_from(segments={"region": name})))
        assert dict(model.segments) == ({"region": (name,)} if name != "__other__" else {})

    @pytest.mark.parametrize("name", [name for name in HOSTILE if 0 < len(name) <= 128], ids=ascii)
    def test_any_version_is_listed(self, name: str) -> None:
        assert only(loaded(learned_from(model_version=name))).versions == (name,)

    @pytest.mark.parametrize("name", HOSTILE, ids=ascii)
    def test_any_category_may_stand_in_a_note(self, name: str) -> None:
        config = loaded(learned_from(features={"x": name}))
        assert list(only(config).features) == ["x"]
        assert len(config.models) == 1

    @pytest.mark.parametrize("name", [name for name in HOSTILE if is_nameable(name) and name != "__other__"], ids=ascii)
    def test_any_model_is_called_by_its_name(self, name: str) -> None:
        assert list(loaded(learned_from(name)).models) == [name]

    @pytest.mark.parametrize("name", HOSTILE, ids=ascii)
    def test_any_file_may_be_the_source_and_the_baseline(self, name: str) -> None:
        assert only(loaded(learned_from(), f"{name}.ndjson", f"{name}.baseline")).baseline == f"{name}.baseline"

    @pytest.mark.parametrize("name", HOSTILE, ids=ascii)
    def test_any_feature_without_values_may_stand_in_a_comment(self, name: str) -> None:
        learned = learned_from(features={name: None, "plain": 1})
        assert list(only(loaded(learned)).features) == ["plain"]

    @settings(max_examples=80)
    @given(
        features=st.dictionaries(names, st.one_of(names, st.integers(), st.none()), max_size=4),
        segment=names,
        value=names,
    )
    @example(features={"a": "x\nmodels: {}"}, segment="a", value="b")
    def test_any_mixture_is_a_sound_file(self, features: dict[str, Any], segment: str, value: str) -> None:
        config = loaded(learned_from(features=features, segments={segment: value}))
        watched = {name for name, item in features.items() if item is not None and is_nameable(name)}
        assert set(only(config).features) == watched


class TestNumbers:
    @settings(max_examples=80)
    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
    @example([0.00001, 0.00002])
    @example([1e20, 3e20])
    @example([0.12345678906, 0.98765432101])
    @example([-0.12345678904, -0.12345678903])
    @example([-1e-300, 1e-300])
    @example([-1.7976931348623157e308, 1.7976931348623157e308])
    @example([5e-324])
    @example([123456789012, 123456789013])
    def test_the_range_that_is_written_holds_the_references(self, values: list[float]) -> None:
        written = [
            b'{"event_id":"%d","ts":%d,"model":"m","features":{"x":%s}}' % (i, START_MS + i, repr(value).encode())
            for i, value in enumerate(values * 2)
        ]
        learned = learn("m", lambda: written)
        found = only(loaded(learned)).features["x"].range
        assert found[0] <= min(values) <= max(values) <= found[1]

    def test_the_range_is_short_and_close(self) -> None:
        learned = learned_from(features={"x": 0.123456789})
        assert "range: [0.123456, 0.123457]" in foreshock_yaml(learned, "r", "b")


class TestRules:
    def test_every_rule_has_a_response_and_a_signal_is_watched_by_one_rule(self) -> None:
        rules = only(loaded(learned_from(features={"x": 1}))).rules
        signals = [signal for rule in rules for signal in rule.signals]
        assert all(rule.response for rule in rules)
        assert len(signals) == len(set(signals))

    def test_it_says_what_it_was_learned_from(self) -> None:
        text = foreshock_yaml(learned_from(features={"x": 1, "gone": None}), "reference.ndjson", "m.baseline")
        assert text.startswith("# Written by 'foreshock init' from reference.ndjson: 120 events.")
        assert "gone" in text
