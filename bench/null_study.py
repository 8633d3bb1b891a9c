"""Are the null laws of `streams.signals.null` safe, and how much do they give away?

Draws references and windows from the same distribution and prints, per method, sizes and bins, how often the distance
exceeded its null quantile, over alpha (safe: at most 1.3, the rest is noise), and the null quantile over the simulated
one (1 is perfect, 1.5 wasteful). Deterministic by its seed.

    python -m bench.null_study                         # all: about half an hour on one core
    python -m bench.null_study --bins skewed --methods psi wasserstein --references 2000
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from streams.arrays import Floats
from streams.signals.distance import METHODS, Method
from streams.signals.rate_limits import rate_floor, rate_threshold

ALPHAS = (0.05, 0.01, 1e-3, 1e-4)
REFERENCE_SIZES = (500, 5_000, 100_000)
WINDOW_SIZES = (50, 200, 1_000, 10_000, 50_000)
ZIPF = 1.0 / np.arange(1, 51)

BINS: dict[str, Floats] = {
    "10 equal": np.full(10, 0.1),
    "20 equal": np.full(20, 0.05),
    "skewed": np.r_[0.97, np.full(9, 0.03 / 9)],
    "50 zipf": ZIPF / ZIPF.sum(),
    "zero mass": np.r_[np.full(9, 1 / 9), 0.0],
    "two": np.full(2, 0.5),
    "rare of two": np.array([0.999, 0.001]),
    "outlier bin": np.r_[np.full(10, 0.0999), 0.001],
    "100 equal": np.full(100, 0.01),
}
CENTRES: dict[str, Floats] = {"outlier bin": np.r_[np.arange(10.0), 100.0]}
RATES = (0.0, 1e-4, 1e-3, 0.01, 0.3)


def simulated(
    method: Method, shares: Floats, centres: Floats, sizes: tuple[int, int], draws: tuple[int, int], seed: int
) -> tuple[Floats, Floats]:
    """False-alarm rates over alpha, and null over simulated quantiles, both (alphas,); draws: references × windows."""
    (m, n), (references, windows) = sizes, draws
    generator = np.random.default_rng(seed)
    reference = generator.multinomial(m, shares, references).astype(float)
    mask, place = np.ones(reference.shape, bool), np.broadcast_to(centres, reference.shape)
    limits = np.array([method.null_quantile(reference, n, alpha, mask, place) for alpha in ALPHAS])
    alarms, found = np.zeros(len(ALPHAS)), []
    for _ in range(windows):
        distance = method.distance(reference, generator.multinomial(n, shares, references), mask, place)
        alarms += (distance > limits).sum(axis=1)
        found.append(distance)
    everything = np.concatenate(found)
    quantiles = np.quantile(everything[~np.isnan(everything)], 1.0 - np.array(ALPHAS))
    with np.errstate(divide="ignore", invalid="ignore"):
        return alarms / everything.size / ALPHAS, np.nanmedian(limits, axis=1) / quantiles


def distances(args: argparse.Namespace) -> Iterator[str]:
    """A line of the table for each method, bins and sizes."""
    yield f"{'method':19}{'bins':13}{'m':>7}{'n':>7}   false alarms / alpha at {ALPHAS}   null / simulated quantile"
    for name in args.methods:
        for bins in args.bins:
            centres = CENTRES.get(bins, np.arange(len(BINS[bins]), dtype=float))
            for sizes in ((m, n) for m in args.m for n in args.n):
                draws = args.references, args.windows
                alarms, ratios = simulated(METHODS[name], BINS[bins], centres, sizes, draws, args.seed)
                row = " ".join(f"{rate:6.2f}" for rate in alarms) + "   " + " ".join(f"{r:5.2f}" for r in ratios)
                yield f"{name:19}{bins:13}{sizes[0]:>7}{sizes[1]:>7}   {row}{'  !' if max(alarms[:3]) > 1.3 else ''}"


def rates(args: argparse.Namespace) -> Iterator[str]:
    """A line for each true rate and sizes: how often a rate was above its threshold, or below its floor, over alpha."""
    yield f"{'rate':>9}{'m':>8}{'n':>7}   above its threshold / alpha   below its floor / alpha, at {ALPHAS}"
    generator, draws = np.random.default_rng(args.seed), args.references * args.windows
    for p in RATES:
        for m, n in ((m, n) for m in args.m for n in args.n):
            k0, share = generator.binomial(m, p, draws), generator.binomial(n, p, draws) / n
            known, row = np.unique(k0, return_inverse=True)
            high = [(share > rate_threshold(known, m, n, alpha)[row]).mean() / alpha for alpha in ALPHAS]
            low = [(share < rate_floor(known, m, n, alpha)[row]).mean() / alpha for alpha in ALPHAS]
            yield (
                f"{p:>9}{m:>8}{n:>7}   "
                + " ".join(f"{x:6.2f}" for x in high)
                + "   "
                + " ".join(f"{x:6.2f}" for x in low)
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=[*METHODS])
    parser.add_argument("--bins", nargs="*", choices=BINS, default=[*BINS])
    parser.add_argument("-m", type=int, nargs="*", default=REFERENCE_SIZES, help="reference sizes")
    parser.add_argument("-n", type=int, nargs="*", default=WINDOW_SIZES, help="window sizes")
    parser.add_argument("--references", type=int, default=10_000)
    parser.add_argument("--windows", type=int, default=20, help="windows drawn for each reference")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    for table in (distances(args), rates(args)):
        for line in table:
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
