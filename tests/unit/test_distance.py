"""Laws of the distances between binned distributions, and their agreement with scipy's."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.spatial.distance import jensenshannon

from streams.arrays import Floats
from streams.signals.distance import (
    METHODS,
    chi_square,
    jensen_shannon,
    kolmogorov_smirnov,
    l_infinity,
    psi,
    wasserstein,
)

SYMMETRIC = ("psi", "jensen_shannon", "kolmogorov_smirnov", "l_infinity")
BOUNDED_BY_1 = ("jensen_shannon", "kolmogorov_smirnov", "l_infinity")

BINS = 6
CENTRES = np.array([[-3.0, -1.0, 0.0, 0.5, 2.0, 10.0]])
REAL = np.ones((1, BINS), dtype=bool)

counts = hnp.arrays(np.int64, (1, BINS), elements=st.integers(0, 10_000)).filter(lambda found: found.sum() > 0)
spread_counts = counts.filter(lambda found: np.count_nonzero(found) > 1)


def measured(name: str, reference: Floats, window: Floats) -> float:
    return float(METHODS[name].distance(reference, window, REAL, CENTRES)[0])


@pytest.mark.parametrize("name", METHODS)
@given(reference=spread_counts, window=counts)
def test_a_distance_is_not_negative(name: str, reference: Floats, window: Floats) -> None:
    assert measured(name, reference, window) >= 0.0


@pytest.mark.parametrize("name", METHODS)
@given(reference=spread_counts, times=st.integers(1, 1000))
def test_equal_proportions_are_no_distance_whatever_the_sizes(name: str, reference: Floats, times: int) -> None:
    assert measured(name, reference, times * reference) == pytest.approx(0.0, abs=1e-7)
    assert measured(name, times * reference, reference) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("name", METHODS)
@given(reference=spread_counts, window=counts)
def test_different_proportions_are_some_distance(name: str, reference: Floats, window: Floats) -> None:
    assume(not np.allclose(reference / reference.sum(), window / window.sum(), atol=1e-6))
    assert measured(name, reference, window) > 1e-9


@pytest.mark.parametrize("name", SYMMETRIC)
@given(reference=counts, window=counts)
def test_either_side_may_be_the_reference(name: str, reference: Floats, window: Floats) -> None:
    assert measured(name, reference, window) == pytest.approx(measured(name, window, reference), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", BOUNDED_BY_1)
@given(reference=counts, window=counts)
def test_a_bounded_distance_is_at_most_1(name: str, reference: Floats, window: Floats) -> None:
    assert measured(name, reference, window) <= 1.0 + 1e-12


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.name.ordered])
@given(reference=spread_counts, window=counts, order=st.permutations(range(BINS)))
def test_where_bins_have_no_order_it_does_not_matter(
    name: str, reference: Floats, window: Floats, order: list[int]
) -> None:
    shuffled = measured(name, reference[:, order], window[:, order])
    assert shuffled == pytest.approx(measured(name, reference, window), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", METHODS)
@given(reference=spread_counts, window=counts, junk=st.integers(0, 10_000))
def test_columns_outside_the_mask_do_not_count(name: str, reference: Floats, window: Floats, junk: int) -> None:
    pad = np.full((1, 2), junk)
    mask = np.concatenate([REAL, np.zeros((1, 2), dtype=bool)], axis=1)
    centres = np.concatenate([CENTRES, np.full((1, 2), np.nan)], axis=1)
    padded = METHODS[name].distance(np.hstack([reference, pad]), np.hstack([window, pad + 1]), mask, centres)
    assert padded[0] == pytest.approx(measured(name, reference, window), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_features_are_measured_together_as_one_by_one(name: str) -> None:
    generator = np.random.default_rng(5)
    reference, window = generator.integers(1, 100, (2, 7, BINS))
    mask, centres = np.ones((7, BINS), dtype=bool), np.tile(CENTRES, (7, 1))
    together = METHODS[name].distance(reference, window, mask, centres)
    assert together == pytest.approx([measured(name, r[None], w[None]) for r, w in zip(reference, window, strict=True)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", METHODS)
def test_an_empty_side_has_no_distance(name: str) -> None:
    full, empty = np.array([[1, 2, 3, 4, 5, 6]]), np.zeros((1, BINS))
    assert np.isnan(measured(name, full, empty))
    assert np.isnan(measured(name, empty, full))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(1, 6\), \(1, 5\) and \(1, 6\); expected one shape"):
        psi(np.ones((1, 6)), np.ones((1, 5)), REAL)


# Agreement with scipy


@given(reference=counts, window=counts)
def test_jensen_shannon_agrees_with_scipy(reference: Floats, window: Floats) -> None:
    expected = jensenshannon(reference[0], window[0], base=2)
    assert jensen_shannon(reference, window, REAL)[0] == pytest.approx(expected, abs=1e-6)


@given(reference=spread_counts, window=counts)
def test_wasserstein_agrees_with_scipy(reference: Floats, window: Floats) -> None:
    place, weights = CENTRES[0], reference[0] / reference.sum()
    deviation = np.sqrt(weights @ (place - weights @ place) ** 2)
    expected = stats.wasserstein_distance(place, place, reference[0], window[0]) / deviation
    assert wasserstein(reference, window, REAL, CENTRES)[0] == pytest.approx(expected, rel=1e-9, abs=1e-12)


small = hnp.arrays(np.int64, (1, BINS), elements=st.integers(0, 50)).filter(lambda found: found.sum() > 0)


@given(reference=small, window=small)
def test_kolmogorov_smirnov_agrees_with_scipy(reference: Floats, window: Floats) -> None:
    samples = [np.repeat(CENTRES[0], side[0]) for side in (reference, window)]
    expected = stats.ks_2samp(*samples, method="asymp").statistic
    assert kolmogorov_smirnov(reference, window, REAL)[0] == pytest.approx(expected, abs=1e-12)


@given(reference=counts.filter(lambda found: found.all()), window=counts)
def test_chi_square_agrees_with_scipy(reference: Floats, window: Floats) -> None:
    n, m = window.sum(), reference.sum()
    expected = stats.chisquare(window[0], reference[0] * (n / m)).statistic
    assert n * chi_square(reference, window, REAL)[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


# What the docstrings promise


@given(reference=counts.filter(lambda found: found.min() > 100), window=counts.filter(lambda found: found.min() > 100))
def test_psi_is_the_published_formula_where_bins_are_filled(reference: Floats, window: Floats) -> None:
    r, w = reference[0] / reference.sum(), window[0] / window.sum()
    assert psi(reference, window, REAL)[0] == pytest.approx(((w - r) * np.log(w / r)).sum(), rel=0.02, abs=1e-6)


def test_a_stray_event_in_an_empty_bin_weighs_little() -> None:
    reference = np.array([[20_000, 20_000, 20_000, 20_000, 20_000, 0]])
    window = np.array([[200, 200, 200, 200, 199, 1]])
    assert psi(reference, window, REAL)[0] < 0.002
    assert chi_square(reference, window, REAL)[0] == np.inf


def test_a_bin_without_a_place_is_left_out_of_wasserstein() -> None:
    """The missing values' bin stands first and has no centre: it matters to Kolmogorov–Smirnov alone."""
    centres = CENTRES.copy()
    centres[0, 0] = np.nan
    reference, masked = np.array([[10, 1, 2, 3, 2, 1]]), np.array([[9_000, 1, 2, 3, 2, 1]])
    assert wasserstein(reference, masked, REAL, centres)[0] == pytest.approx(0.0, abs=1e-12)
    assert kolmogorov_smirnov(reference, masked, REAL)[0] > 0.4


def test_a_reference_without_spread_has_no_wasserstein_distance() -> None:
    assert np.isnan(wasserstein(np.array([[5, 0, 0, 0, 0, 0]]), np.array([[1, 1, 1, 1, 1, 1]]), REAL, CENTRES)[0])


def test_l_infinity_is_the_bin_that_changed_most() -> None:
    reference, window = np.array([[50, 30, 20, 0, 0, 0]]), np.array([[5, 3, 2, 0, 0, 10]])
    assert l_infinity(reference, window, REAL)[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "measure", [psi, jensen_shannon, chi_square, kolmogorov_smirnov, l_infinity], ids=lambda found: found.__name__
)
def test_whole_numbers_and_floats_are_alike(measure: Callable[[Floats, Floats, Floats], Floats]) -> None:
    reference, window = np.array([[5, 3, 2, 1, 1, 1]]), np.array([[2, 3, 2, 1, 1, 9]])
    assert measure(reference, window, REAL) == pytest.approx(measure(reference.astype(float), window * 1.0, REAL))
