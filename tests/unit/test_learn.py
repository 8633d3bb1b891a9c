"""Reference events → baseline: what the columns are, where their bins lie, how long a pane is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.baseline import WHOLE, Baseline
from streams.config import MAX_FEATURES, MAX_SEGMENTS, OTHER
from streams.duration import UNITS_MS
from streams.errors import ConfigError, DataError
from streams.learn import ENOUGH_EVENTS, MAX_CATEGORIES, PANES_MS, Learned, choose_pane_ms, learn
from streams.sketch.layout import ABSENT, BINS, NULL, WRONG, Column, Kind, Layout, Role, requests
from tests.later_release import later_release

START_MS = 1_767_225_600_000
MINUTE, HOUR, DAY = UNITS_MS["m"], UNITS_MS["h"], UNITS_MS["d"]


def lines(events: Iterable[dict[str, Any]]) -> list[bytes]:
    defaults = {"model": "m", "features": {}}
    return [
        json.dumps({"event_id": str(i), "ts": START_MS + i * 1_000, **defaults, **event}).encode()
        for i, event in enumerate(events)
    ]


def learned_from(events: Iterable[dict[str, Any]], model: str = "m") -> Learned:
    written = lines(events)
    return learn(model, lambda: written)


def of_values(values: Iterable[Any]) -> Learned:
    return learned_from({"features": {"x": value}} for value in values)


def column(learned: Learned, name: str) -> Column:
    return next(item for item in learned.baseline.columns if item.name == name)


def bins(learned: Learned, name: str) -> list[int]:
    """Counts of a column's bins over the whole reference."""
    layout = Layout(learned.baseline.columns)
    at = next(i for i, item in enumerate(layout.columns) if item.name == name)
    return layout.block(learned.baseline.totals[WHOLE].dense(), at)[BINS:].tolist()


class TestTypes:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ([1.5, 2.5, None], Kind.NUMERIC),
            ([1, 2, 3], Kind.NUMERIC),
            (["a", "b", None], Kind.CATEGORICAL),
            ([True, False, True], Kind.BOOLEAN),
            (["a", "b", 3], Kind.CATEGORICAL),
            ([1, 2, "n/a"], Kind.NUMERIC),
            (["1", "2", "3"], Kind.CATEGORICAL),
        ],
    )
    def test_a_feature_has_the_type_that_most_of_its_values_have(self, values: list[Any], kind: Kind) -> None:
        assert column(of_values(values), "x").kind is kind

    @pytest.mark.parametrize(
        ("predictions", "kind", "categories"),
        [
            ([0, 1, 1], Kind.CODE, ("1", "0")),
            ([0.0, 1.0, 1.0], Kind.CODE, ("1", "0")),
            ([12.7, 3.0, 5.5], Kind.NUMERIC, ()),
            (list(range(60)), Kind.NUMERIC, ()),
            (["fraud", "fine", "fine"], Kind.CATEGORICAL, ("fine", "fraud")),
            ([True, False, False], Kind.BOOLEAN, ("false", "true")),
            ([None, None, None], Kind.CATEGORICAL, ()),
        ],
    )
    def test_predictions_are_classes_or_numbers(self, predictions: list[Any], kind: Kind, categories: Any) -> None:
        found = column(learned_from({"prediction": item} for item in predictions), "prediction")
        assert (found.kind, found.categories) == (kind, categories)

    def test_a_score_of_classes_has_a_column_for_each(self) -> None:
        learned = learned_from([{"score": {"b": 0.2, "a": 0.8}}, {"score": {"a": 1.0}}])
        assert [item.name for item in learned.baseline.columns if item.role is Role.SCORE] == ["score.a", "score.b"]

    def test_a_feature_without_a_value_is_left_out_and_named(self) -> None:
        learned = learned_from([{"features": {"x": 1, "empty": None}}] * 5)
        assert learned.skipped_features == ("empty",)
        assert [item.name for item in learned.baseline.columns if item.role is Role.FEATURE] == ["x"]

    def test_a_feature_that_was_left_out_is_no_news_when_the_stream_has_it(self) -> None:
        learned = learned_from([{"features": {"x": 1, "empty": None}, "region": "eu"}] * 5)
        assert learned.baseline.fields == ("features.empty", "region")

    def test_features_beyond_what_a_configuration_may_declare_are_left_out(self) -> None:
        names = [f"f{i}" for i in range(MAX_FEATURES + 2)]
        learned = learned_from([{"features": dict.fromkeys(names, 1)}] * 2)
        assert learned.skipped_features == (names[-2], names[-1])

    @pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "\0"])
    def test_a_feature_that_no_configuration_can_name_is_left_out(self, name: str) -> None:
        learned = learned_from([{"features": {"x": 1, name: 2}}] * 5)
        assert learned.skipped_features == (name,)


class TestNumericBins:
    def test_a_column_of_few_values_has_a_bin_for_each(self) -> None:
        learned = of_values([0, 0, 0, 1, 1, 2])
        assert bins(learned, "x") == [0, 3, 2, 1, 0]
        assert column(learned, "x").edges == (0.0, 1.0, 2.0, np.nextafter(2.0, 3.0))

    def test_twenty_values_are_few_and_twenty_one_are_many(self) -> None:
        few, many = of_values(range(20)), of_values(range(21))
        assert bins(few, "x") == [0, *[1] * 20, 0]
        assert len(column(many, "x").edges) == 21

    def test_a_column_of_many_values_has_twenty_bins_of_equal_share(self) -> None:
        found = bins(of_values(np.random.default_rng(1).normal(size=4_000).tolist()), "x")
        assert found[0] == found[-1] == 0
        assert len(found) == 22
        assert all(180 <= size <= 220 for size in found[1:-1])

    def test_a_heavy_value_has_a_bin_of_its_own_and_none_is_empty(self) -> None:
        found = bins(of_values([0.0] * 700 + np.linspace(0.1, 9, 300).tolist()), "x")
        assert max(found) >= 700
        assert all(size > 0 for size in found[1:-1])

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=60))
    def test_the_reference_itself_is_within_its_range(self, values: list[float]) -> None:
        learned = of_values(values)
        found = bins(learned, "x")
        edges = column(learned, "x").edges
        assert (found[0], found[-1], sum(found)) == (0, 0, len(values))
        assert all(low < high for low, high in pairwise(edges))

    def test_one_value_beyond_the_range_is_out_of_it(self) -> None:
        edges = np.array(column(of_values([1.0, 2.0, 3.0] * 4), "x").edges)
        outside = [np.nextafter(1.0, 0), np.nextafter(3.0, 4)]
        assert np.searchsorted(edges, [1.0, 3.0], "right").tolist() == [1, 3]
        assert np.searchsorted(edges, outside, "right").tolist() == [0, 4]

    def test_minus_zero_is_zero(self) -> None:
        learned = of_values([-0.0, 0.0, 1.0])
        assert bins(learned, "x") == [0, 2, 1, 0]
        assert str(column(learned, "x").edges[0]) == "0.0"

    def test_numbers_that_are_not_finite_widen_no_range(self) -> None:
        written = [
            b'{"event_id":"%d","ts":%d,"model":"m","features":{"x":%s}}' % (i, START_MS + i * 1000, value)
            for i, value in enumerate([b"1", b"2", b"1e400", b"-Infinity", b"NaN"])
        ]
        learned = learn("m", lambda: written)
        assert bins(learned, "x") == [1, 1, 1, 1]

    def test_centres_are_the_mean_values_of_the_bins(self) -> None:
        learned = of_values([*range(40), 0.5])
        at = [item.name for item in learned.baseline.columns].index("x")
        centres, sizes = learned.baseline.statistics[at].centres, bins(learned, "x")
        assert sum(c * n for c, n in zip(centres, sizes, strict=True)) == pytest.approx(sum(range(40)) + 0.5)


class TestCategories:
    def test_they_stand_in_falling_order_of_their_counts(self) -> None:
        assert column(of_values(["b", "a", "c", "c", "a", "c"]), "x").categories == ("c", "a", "b")

    def test_those_beyond_the_cap_are_not_listed(self) -> None:
        learned = of_values([f"v{i}" for i in range(MAX_CATEGORIES + 10)] * 2)
        at = [item.name for item in learned.baseline.columns].index("x")
        statistics = learned.baseline.statistics[at]
        assert len(column(learned, "x").categories) == MAX_CATEGORIES
        assert (statistics.distinct, statistics.singletons) == (MAX_CATEGORIES + 10, 0)
        assert bins(learned, "x")[-1] == 20

    def test_statistics_tell_common_from_rare_and_what_was_seen_once(self) -> None:
        learned = of_values(["big"] * 300 + [f"once {i}" for i in range(7)] + ["twice"] * 2)
        statistics = learned.baseline.statistics[0]
        assert (statistics.distinct, statistics.singletons, statistics.listed_singletons) == (9, 7, 7)
        assert statistics.common == 1

    def test_classes_of_missing_values_are_told_apart(self) -> None:
        learned = learned_from([{"features": item} for item in ({"x": "a"}, {"x": None}, {}, {"x": 3}, {"x": "a"})])
        layout = Layout(learned.baseline.columns)
        block = layout.block(learned.baseline.totals[WHOLE].dense(), 0)
        assert block[[ABSENT, NULL, WRONG, BINS]].tolist() == [1, 1, 1, 2]


class TestSegments:
    def test_values_are_watched_if_they_are_frequent_enough(self) -> None:
        events = [{"segments": {"region": "north" if i % 10 else "rare" + str(i)}} for i in range(1_000)]
        learned = learned_from(events)
        assert learned.segments == {"region": ("north",)}
        assert learned.dropped_segments == {"region": 100}

    def test_their_counts_are_kept_for_the_whole_and_by_segment(self) -> None:
        learned = learned_from([{"segments": {"region": "n" if i % 4 else "s"}} for i in range(1_000)])
        totals = {key: int(requests(counts.dense())) for key, counts in learned.baseline.totals.items()}
        assert totals == {WHOLE: 1_000, ("region", "n"): 750, ("region", "s"): 250}

    def test_segments_are_texts_as_the_stream_has_them(self) -> None:
        learned = learned_from([{"segments": {"vip": bool(i % 2), "tier": 1.5}} for i in range(400)])
        assert learned.segments == {"vip": ("false", "true"), "tier": ("1.5",)}

    def test_lists_and_nothing_are_no_segments(self) -> None:
        assert learned_from([{"segments": {"tags": ["a"], "none": None}}] * 400).segments == {}

    def test_what_no_configuration_can_name_is_left_out(self) -> None:
        events = [{"segments": {"": "a", "region": OTHER if i % 2 else "n"}} for i in range(400)]
        assert learned_from(events).segments == {"region": ("n",)}

    def test_no_more_dimensions_than_a_configuration_may_declare(self) -> None:
        learned = learned_from([{"segments": {f"d{i}": "a" for i in range(MAX_SEGMENTS + 2)}}] * 400)
        assert len(learned.segments) == MAX_SEGMENTS


class TestTime:
    @pytest.mark.parametrize(("every_s", "hours"), [(0.05, 1), (0.5, 8), (0.9, 8), (5, 48), (7, 72)])
    def test_a_pane_is_the_shortest_that_holds_enough_events_to_be_judged(self, every_s: float, hours: int) -> None:
        times = START_MS + (np.arange(int(hours * 3600 / every_s)) * every_s * 1000).astype(np.int64)
        pane_ms = choose_pane_ms(times)
        shorter_ms = max((other for other in PANES_MS if other < pane_ms), default=0)
        assert pane_ms / (every_s * 1000) >= ENOUGH_EVENTS > shorter_ms / (every_s * 1000)

    @pytest.mark.parametrize(("every_s", "days", "pane_ms"), [(60, 14, DAY), (3_600, 300, 7 * DAY)])
    def test_a_slow_stream_gets_days_or_weeks(self, every_s: float, days: int, pane_ms: int) -> None:
        """24 events a day: nothing holds enough, so it is the longest pane that still gives blocks."""
        times = START_MS + np.arange(int(days * 86_400 / every_s)) * int(every_s * 1000)
        assert choose_pane_ms(times) == pane_ms

    def test_a_short_reference_gets_a_shorter_pane_for_the_sake_of_its_blocks(self) -> None:
        times = START_MS + np.arange(5_000) * 60_000 // 500
        assert choose_pane_ms(times) == MINUTE

    def test_a_good_part_of_a_day_is_made_a_whole_one(self) -> None:
        """60 events an hour: enough need some ten hours, and a day holds whole cycles."""
        times = START_MS + np.arange(60 * 24 * 10) * MINUTE
        assert choose_pane_ms(times) == DAY

    def test_a_reference_without_usable_times_has_no_blocks(self) -> None:
        learned = learned_from([{"ts": START_MS}] * 10)
        assert (learned.baseline.pane_ms, learned.baseline.blocks, learned.pane_ms) == (0, (), MINUTE)

    def test_blocks_hold_every_event_once(self) -> None:
        learned = learned_from([{"ts": START_MS + i * 100} for i in range(3_000)])
        sizes = [int(requests(block[WHOLE].dense())) for block in learned.baseline.opened_blocks()]
        assert (learned.pane_ms, sum(sizes)) == (MINUTE, 3_000)
        assert all(block.start_ms % MINUTE == 0 for block in learned.baseline.blocks)

    def test_the_longest_gap_is_kept(self) -> None:
        times = [0, 1_000, 2_000, 62_000, 63_000]
        assert learned_from([{"ts": START_MS + at} for at in times]).baseline.longest_gap_ms == 60_000

    def test_the_order_of_the_reference_does_not_matter(self) -> None:
        events = [{"ts": START_MS + i * 100, "features": {"x": i % 7}} for i in range(2_000)]
        shuffled = random.Random(3).sample(events, len(events))
        assert learned_from(shuffled).baseline.to_bytes() == learned_from(events).baseline.to_bytes()

    @pytest.mark.parametrize(
        ("behind_ms", "grace_ms"), [(0, MINUTE), (20_000, MINUTE), (100_000, 2 * MINUTE), (2 * HOUR, MINUTE)]
    )
    def test_the_grace_covers_the_disorder_of_a_nearly_ordered_reference(self, behind_ms: int, grace_ms: int) -> None:
        """Two hours behind in a stream of five-minute panes is no disorder but another order."""
        events = [{"ts": START_MS + i * 300 - (behind_ms if i % 50 == 49 else 0)} for i in range(24_000)]
        assert learned_from(events).grace_ms == grace_ms


class TestWhatIsUnusable:
    def test_rejects_are_counted_by_reason_and_the_rest_is_learned(self) -> None:
        written = [*lines([{}] * 5), b"no json", b'{"model": "m"}', b"\xff"]
        learned = learn("m", lambda: written)
        assert learned.baseline.events == 5
        assert sum(learned.rejected.values()) == 3
        assert any(reason.startswith("bad_json") for reason in learned.rejected)

    @pytest.mark.parametrize("written", [[], [b"no json"], lines([{}])], ids=["nothing", "no events", "one event"])
    def test_nothing_to_learn_from_is_told_in_one_line(self, written: list[bytes]) -> None:
        with pytest.raises(DataError) as caught:
            learn("m", lambda: written)
        assert "usable events" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_versions_are_listed_by_their_counts(self) -> None:
        learned = learned_from([{"model_version": "b" if i % 3 else "a"} for i in range(10)])
        assert learned.versions == ("b", "a")


class TestBytes:
    def test_a_baseline_survives_its_file(self) -> None:
        baseline = of_values([1, 2, "x", None, 2.5] * 20).baseline
        assert Baseline.from_bytes(baseline.to_bytes()) == baseline

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: b"",
            lambda data: data[:-1],
            lambda data: data[: len(data) // 2],
            lambda data: b"x" + data,
            lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
            lambda data: b"models:\n",
        ],
        ids=["empty", "short", "half", "shifted", "a bit", "another file"],
    )
    def test_a_damaged_file_is_told_in_one_line_that_names_it(self, damage: Callable[[bytes], bytes]) -> None:
        data = damage(of_values([1, 2, 3]).baseline.to_bytes())
        with pytest.raises(ConfigError) as caught:
            Baseline.from_bytes(data, "fraud.baseline")
        assert str(caught.value).startswith("fraud.baseline: no baseline (")
        assert str(caught.value).endswith("run it again")

    def test_a_file_of_a_later_release_is_none_to_be_learned_again_at_once(self) -> None:
        data = of_values([1, 2, 3]).baseline.to_bytes()
        with pytest.raises(ConfigError) as caught:
            Baseline.from_bytes(later_release(data, b""), "fraud.baseline")
        assert str(caught.value) == (
            "fraud.baseline: format 3, of a later release; expected format 1 or 2; "
            "upgrade, or run 'foreshock init' again"
        )
