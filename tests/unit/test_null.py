"""Null laws: alarms without drift are as rare as asked for, and not much rarer. bench/null_study.py asks at length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streams.arrays import Floats, Mask
from streams.signals.distance import METHODS, chi_square, jensen_shannon, kolmogorov_smirnov
from streams.signals.null import jensen_shannon_moments
from streams.signals.presets import PRESETS, Fixed, preset_threshold
from streams.signals.rate_limits import quantile_band, rate_floor, rate_threshold

ALPHAS = (0.05, 0.01, 1e-3)
BINS = {
    "equal": np.full(10, 0.1),
    "skewed": np.r_[0.97, np.full(9, 0.03 / 9)],
    "zipf": (1 / np.arange(1, 51)) / (1 / np.arange(1, 51)).sum(),
    "zero mass": np.r_[np.full(9, 1 / 9), 0.0],
}


def drawn(shares: Floats, events: int, rows: int, seed: int) -> Floats:
    return np.random.default_rng(seed).multinomial(events, shares, rows).astype(float)


def framed(reference: Floats) -> tuple[Mask, Floats]:
    """Mask and centres of bins that are all real, at 0, 1, 2 …"""
    return np.ones(reference.shape, dtype=bool), np.broadcast_to(
        np.arange(reference.shape[1], dtype=float), reference.shape
    )


# Distances


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("m", "n"), [(500, 50), (5_000, 1_000), (1_000, 20_000)])
def test_false_alarms_are_as_rare_as_asked_for(name: str, bins: str, m: int, n: int) -> None:
    rows, method, seeds = 500, METHODS[name], range(2, 8)
    reference = drawn(BINS[bins], m, rows, seed=1)
    mask, centres = framed(reference)
    limits = [method.null_quantile(reference, n, alpha, mask, centres) for alpha in ALPHAS]
    distances = [method.distance(reference, drawn(BINS[bins], n, rows, seed), mask, centres) for seed in seeds]
    for alpha, limit in zip(ALPHAS, limits, strict=True):
        alarms = sum(int((distance > limit).sum()) for distance in distances)
        asked = len(seeds) * rows * alpha
        assert alarms <= 1.3 * asked + 4.0 * np.sqrt(asked)


@pytest.mark.parametrize("bins", ["equal", "zipf", "zero mass"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "chi_square"])
def test_a_null_quantile_is_not_wasteful(name: str, bins: str) -> None:
    m, n, rows, method = 20_000, 1_000, 10_000, METHODS[name]
    reference = drawn(BINS[bins], m, rows, seed=1)
    mask, centres = framed(reference)
    distance = method.distance(reference, drawn(BINS[bins], n, rows, seed=2), mask, centres)
    for alpha in ALPHAS[:2]:
        limit = method.null_quantile(reference[:50], n, alpha, mask[:50], centres[:50])
        assert np.median(limit) < 1.3 * np.quantile(distance, 1.0 - alpha)


@pytest.mark.parametrize("alpha", [0.05, 1e-4, 1e-8])
def test_psi_follows_chi_square_where_bins_are_filled(alpha: float) -> None:
    reference = np.full((1, 10), 1e6)
    limit = METHODS["psi"].null_quantile(reference, 1e6, 2.0 * alpha, *framed(reference))
    expected = (1e-6 + 1e-7) * stats.chi2.isf(alpha, 9)
    assert limit[0] == pytest.approx(expected, rel=0.005)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", METHODS)
def test_features_sizes_and_levels_are_taken_together_as_one_by_one(name: str) -> None:
    reference = drawn(BINS["zipf"], 3_000, 6, seed=1)
    mask, centres = framed(reference)
    mask[2, 30:] = False
    n, alpha = np.array([50, 500, 5_000, 50, 500, 5_000]), np.array([0.05, 1e-3, 1e-8, 1e-8, 0.05, 1e-3])
    method = METHODS[name]
    together = method.null_quantile(reference, n, alpha, mask, centres)
    rows = [slice(i, i + 1) for i in range(6)]
    alone = [method.null_quantile(reference[i], n[i], alpha[i], mask[i], centres[i])[0] for i in rows]
    assert np.all(together > 0.0)
    assert together == pytest.approx(np.array(alone), rel=1e-3)


@pytest.mark.parametrize("name", METHODS)
@given(n=st.integers(30, 100_000), exponent=st.floats(1.0, 8.0))
def test_more_events_and_a_higher_level_lower_the_quantile(name: str, n: int, exponent: float) -> None:
    reference = np.array([[900.0, 400.0, 200.0, 100.0, 50.0, 25.0]])
    quantile, frame = METHODS[name].null_quantile, framed(reference)
    limit = quantile(reference, n, 10.0**-exponent, *frame)[0]
    assert np.isfinite(limit)
    slack = 1.0 + 1e-3 + 3.0 / n  # maxima of whole counts fall in steps
    assert quantile(reference, 2 * n, 10.0**-exponent, *frame)[0] <= limit * slack
    assert quantile(reference, n, 2.0 * 10.0**-exponent, *frame)[0] <= limit * slack


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", METHODS)
def test_without_events_there_is_no_quantile(name: str) -> None:
    reference = np.array([[5.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    quantile, frame = METHODS[name].null_quantile, framed(reference)
    assert np.isnan(quantile(reference, 100, 0.01, *frame)).tolist() == [False, True]
    assert np.isnan(quantile(reference, 0, 0.01, *frame)).all()


def test_an_unseen_bin_is_no_surprise_to_the_chi_square_test_of_a_small_reference() -> None:
    reference = np.array([[50.0, 50.0, 0.0]])
    assert METHODS["chi_square"].null_quantile(reference, 100, 0.01, *framed(reference))[0] == np.inf


def test_the_moments_of_jensen_shannon_are_those_of_simulation() -> None:
    reference = drawn(BINS["equal"], 10_000, 5_000, seed=1)
    distance = jensen_shannon(reference, drawn(BINS["equal"], 500, 5_000, seed=2), framed(reference)[0])
    mean, deviation = jensen_shannon_moments(reference[:1], 500, framed(reference[:1])[0])
    assert mean[0] == pytest.approx(distance.mean(), rel=0.01)
    assert deviation[0] == pytest.approx(distance.std(), rel=0.03)


# Rates

sizes = st.integers(1, 20_000)
levels = st.floats(1.0, 8.0).map(lambda exponent: 10.0**-exponent)


@given(m=sizes, n=sizes, share=st.floats(0.0, 1.0), alpha=levels)
def test_the_rate_threshold_keeps_the_promise_and_is_nearly_the_smallest(
    m: int, n: int, share: float, alpha: float
) -> None:
    k0 = round(share * m)
    limit = round(float(rate_threshold(k0, m, n, alpha)) * n)
    if k0 == m:  # nothing could be too much
        assert limit == n
        return
    law = stats.betabinom(n, k0 + 1, m - k0)
    assert law.sf(limit) <= alpha * (1.0 + 1e-6)
    spare = (0.15 if m >= 30 else 0.4) * (limit - law.mean()) + 1.0  # the bound of the tail is not the tail
    assert limit == 0 or law.sf(max(limit - 1.0 - spare, -1.0)) > alpha - 1e-12


def test_a_handful_of_events_never_seen_before_is_a_breach() -> None:
    assert rate_threshold(0, 17_000, 1_000, 1e-6) == pytest.approx(0.004)
    assert rate_threshold(0, 17_000, 50, 1e-6) == pytest.approx(2 / 50)
    assert rate_threshold(0, 100, 1_000, 1e-6) > 0.1


@given(m=sizes, n=sizes, share=st.floats(0.0, 1.0), alpha=levels)
def test_a_floor_is_a_threshold_of_the_other_events(m: int, n: int, share: float, alpha: float) -> None:
    k0 = round(share * m)
    assert rate_floor(k0, m, n, alpha) == pytest.approx(1.0 - rate_threshold(m - k0, m, n, alpha))
    assert rate_floor(k0, m, n, alpha) <= rate_threshold(k0, m, n, alpha) or k0 in (0, m)


@pytest.mark.parametrize("p", [0.0002, 0.01, 0.4])
@pytest.mark.parametrize(("m", "n"), [(1_000, 100), (1_000, 50_000), (17_000, 1_000)])
def test_rates_without_change_stay_within_their_limits(p: float, m: int, n: int) -> None:
    generator, draws = np.random.default_rng(7), 40_000
    rate = generator.binomial(n, p, draws) / n
    k0, row = np.unique(generator.binomial(m, p, draws), return_inverse=True)
    for alpha in ALPHAS:
        asked = draws * alpha
        assert (rate > rate_threshold(k0, m, n, alpha)[row]).sum() <= asked + 3.0 * np.sqrt(asked)
        assert (rate < rate_floor(k0, m, n, alpha)[row]).sum() <= asked + 3.0 * np.sqrt(asked)


@pytest.mark.filterwarnings("error")
def test_rates_broadcast_and_know_when_there_is_nothing_to_say() -> None:
    limits = rate_threshold(np.array([[0], [5]]), [100, 1_000, 0], [50, 0, 50], 0.01)
    assert limits.shape == (2, 3)
    assert np.isnan(limits).tolist() == [[False, True, True], [False, True, True]]


def test_effective_sizes_need_not_be_whole() -> None:
    assert rate_threshold(10.5, 1_000.5, 400.5, 1e-4) == pytest.approx(rate_threshold(10, 1_000, 400, 1e-4), rel=0.1)
    assert rate_threshold(0.1, 10.0, 0.4, 1e-4) == 1.0


# Quantiles


@pytest.mark.parametrize("p", [0.5, 0.99])
@pytest.mark.parametrize(("m", "n"), [(2_000, 500), (2_000, 20_000), (20_000, 1_000)])
def test_the_windows_quantile_lies_in_its_band(p: float, m: int, n: int) -> None:
    """Order statistics of uniform values are beta, so that is how they are drawn."""
    generator, alpha, draws = np.random.default_rng(3), 0.01, 100_000
    lo, hi = (float(level) for level in quantile_band(p, m, n, alpha))
    assert lo < p < hi < 1.0
    rank, low, high = np.ceil(p * n), round(lo * m), round(hi * m)
    found = generator.beta(rank, n - rank + 1, draws)
    below = (found < generator.beta(low, m - low + 1, draws)).mean()
    above = (found > generator.beta(high, m - high + 1, draws)).mean()
    for outside in (below, above):
        assert 0.3 * alpha / 2.0 < outside < 1.2 * alpha / 2.0


def test_a_high_quantile_of_few_events_cannot_be_judged() -> None:
    lo, hi = quantile_band(0.99, 10_000, [50, 100, 1_000], 1e-6)
    assert (hi >= 1.0).tolist() == [True, True, False]
    assert np.all(lo > 0.5)


# Presets


def judged(name: str, reference: Floats, window: Floats, *, categorical: bool) -> tuple[float, float]:
    """Distance and threshold of a preset."""
    mask, centres = framed(reference)
    fixed = PRESETS[name].fixed(float(reference.sum()), categorical=categorical)
    distance = METHODS[fixed.method].distance(reference, window, mask, centres)
    return float(distance[0]), float(preset_threshold(fixed, reference, window.sum(axis=1), mask)[0])


@given(window=st.lists(st.integers(0, 60), min_size=4, max_size=4).filter(lambda found: sum(found) > 20))
def test_evidently_on_a_small_reference_is_scipys_chi_square_test(window: list[int]) -> None:
    reference, observed = np.array([[40.0, 30.0, 20.0, 10.0]]), np.array([window], dtype=float)
    distance, threshold = judged("evidently", reference, observed, categorical=True)
    p = stats.chisquare(observed[0], reference[0] / 100.0 * observed.sum()).pvalue
    assert (distance > threshold) == (p < 0.05)


def test_evidently_on_a_small_reference_is_the_kolmogorov_smirnov_test() -> None:
    generator = np.random.default_rng(2)
    reference, window = generator.integers(0, 10, 900), generator.integers(0, 11, 400)
    counted = [np.bincount(side, minlength=11)[None].astype(float) for side in (reference, window)]
    distance, threshold = judged("evidently", *counted, categorical=False)
    assert distance == pytest.approx(stats.ks_2samp(reference, window).statistic)
    assert stats.kstwobign.sf(threshold * np.sqrt(900 * 400 / 1_300)) == pytest.approx(0.05)


def test_units_are_those_of_the_distances() -> None:
    many = np.full((1, 5), 1_000.0)
    assert judged("evidently", many, many, categorical=True)[1] == pytest.approx(0.1 / np.sqrt(np.log(2.0)))
    assert judged("evidently", many, many, categorical=False) == (0.0, 0.1)
    assert judged("vertex", many, many, categorical=False)[1] == pytest.approx(np.sqrt(0.3))
    assert judged("vertex", many, many, categorical=True)[1] == pytest.approx(0.3)
    assert judged("sagemaker", many, many, categorical=True)[1] == pytest.approx(0.1 + 1.8 * np.sqrt(2 / 5_000))


@pytest.mark.filterwarnings("error")
def test_nannyml_takes_the_references_own_chunks_when_it_has_them() -> None:
    reference = drawn(BINS["equal"], 10_000, 3, seed=1)
    chunks = np.array([[0.02, 0.04, np.nan], [0.1, 0.1, 0.1], [np.nan, np.nan, np.nan]])
    fixed, mask = PRESETS["nannyml"].fixed(10_000, categorical=False), framed(reference)[0]
    expected = [0.03 + 3 * 0.01, 0.1, np.nan]
    assert preset_threshold(fixed, reference, 1_000, mask, chunks) == pytest.approx(expected, nan_ok=True)
    mean, deviation = jensen_shannon_moments(reference, 1_000, mask)
    assert preset_threshold(fixed, reference, 1_000, mask) == pytest.approx(mean + 3.0 * deviation)


def test_every_preset_names_a_method_and_covers_every_size() -> None:
    for preset in PRESETS.values():
        for m in (1, 1_000, 1_001, 10**9):
            for categorical in (False, True):
                fixed = preset.fixed(m, categorical=categorical)
                assert fixed.method in METHODS
                assert not (categorical and fixed.method.ordered)


@pytest.mark.filterwarnings("error")
def test_a_preset_has_no_threshold_without_events() -> None:
    reference = np.array([[5.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    for preset in PRESETS.values():
        for fixed in (*preset.numeric, *preset.categorical):
            found = preset_threshold(fixed, reference, [10, 10], framed(reference)[0])
            assert np.isnan(found).tolist() == [False, True]


def test_a_threshold_that_is_not_defined_is_refused() -> None:
    reference = np.ones((1, 3))
    with pytest.raises(ValueError, match="not for psi"):
        preset_threshold(Fixed("psi", "p_value", 0.05), reference, 10, framed(reference)[0])
    with pytest.raises(ValueError, match="pass chunks"):
        preset_threshold(Fixed("psi", "reference_sd", 3.0), reference, 10, framed(reference)[0])


def test_a_fixed_cut_fires_on_nothing_where_the_null_law_does_not() -> None:
    """Ten bins, 200 events each: PSI is above 0.1 in a third of all windows without drift."""
    reference, window = drawn(BINS["equal"], 200, 4_000, seed=1), drawn(BINS["equal"], 200, 4_000, seed=2)
    mask, centres = framed(reference)
    distance = METHODS["psi"].distance(reference, window, mask, centres)
    assert 0.25 < np.mean(distance > 0.1) < 0.4
    assert np.mean(distance > METHODS["psi"].null_quantile(reference, 200, 0.001, mask, centres)) < 0.002
    assert np.mean(chi_square(reference, window, mask) > 0.1) > 0.25
    assert np.mean(kolmogorov_smirnov(reference, window, mask) > 0.1) > 0.1
