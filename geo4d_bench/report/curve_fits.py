"""What is fitted to response curves: isotonic curves, and where success halves, with cluster-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NEAR_DEG = 5.0
"""Success "at a training camera" is known where something was played within this angle of one."""
RESAMPLES = 500
_BINS, _FEWEST_BINS, _PER_BIN = 40, 8, 15
"""More places than one for every 15 values, within 8 and 40, are pooled: of few values the fit follows the extremes."""


class Fit(NamedTuple):
    """An isotonic curve at x (B,), with a 95 % band, and the number and mean of what lies there."""

    x: Floats
    n: Floats
    mean: Floats
    fit: Floats
    low: Floats
    high: Floats


class Halving(NamedTuple):
    """Where success is half of what it is at 0, with a 95 % interval; infinite: not within what was played."""

    at_zero: float
    x: float
    low: float
    high: float


def isotonic(
    x: Floats,
    y: Floats,
    clusters: Sequence[Any],
    worse: int,
    rng: np.random.Generator,
    best_place: bool = False,
    resamples: int = RESAMPLES,
) -> Fit:
    """Least-squares fit of y (N,) on x (N,) that gets worse along x, with a band from drawing whole clusters anew.

    Args:
        clusters: (N,) what is drawn together, such as the seed that several rows share.
        worse: 1 where larger y is worse, -1 where smaller y is.
        best_place: gets better up to one x, and worse from there on (unimodal regression, Stout 2008); that x is the
            one whose fit is nearest to the data, in each draw anew.
    """
    from scipy.optimize import isotonic_regression

    at, counts, sums = _binned(x, y, clusters)

    def fitted(n: Floats, s: Floats) -> Floats:
        there = n > 0
        n, mean = n[there], s[there] / n[there]

        def with_best(k: int) -> Floats:
            parts = ((slice(k), worse < 0), (slice(k, None), worse > 0))
            return np.concatenate([isotonic_regression(mean[p], weights=n[p], increasing=up).x for p, up in parts])

        fits = map(with_best, range(len(mean) if best_place else 1))
        return np.asarray(np.interp(at, at[there], min(fits, key=lambda fit: n @ (fit - mean) ** 2)))

    drawn = [fitted(w @ counts, w @ sums) for w in _weights(len(counts), resamples, rng)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    n, s = counts.sum(0), sums.sum(0)
    return Fit(at, n, s / n, fitted(n, s), low, high)


def halves(
    x: Floats, success: Floats, clusters: Sequence[Any], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Halving:
    """Where the success rate has fallen to half of that at x = 0, by a logistic curve below a plateau.

    ``top / (1 + exp((x - middle) / width))`` of the largest likelihood, over a grid: 40 tops up to 1, 76 middles up to
    1.5 times the largest x, 8 widths from 0.02 to 0.5 times it. What lies beyond the largest x was not seen, and counts
    as infinite. Its interval comes from drawing whole clusters anew, and reaches on either side to an x that was seen:
    between two of them the curve is no more than a guess. NaN where nothing succeeded, or where no x is within
    ``NEAR_DEG``, so that success at 0 was not seen.
    """
    from scipy.special import expit, logit

    if x.min() > NEAR_DEG or not success.any():
        return Halving(0.0 if x.min() <= NEAR_DEG else np.nan, np.nan, np.nan, np.nan)
    at, counts, sums = _binned(x, success, clusters)
    end = float(x.max())
    top, middle, width = (
        grid.ravel()
        for grid in np.meshgrid(
            np.arange(1, 41) / 40, np.linspace(0, 1.5 * end, 76), end * np.geomspace(0.02, 0.5, 8), indexing="ij"
        )
    )
    p = np.clip(top[:, None] * expit((middle[:, None] - at) / width[:, None]), 1e-6, 1 - 1e-6)
    at_zero = expit(middle / width)
    half = middle - width * logit(0.5 * at_zero)
    half[half > end] = np.inf
    weights = np.concatenate([np.ones((1, len(counts))), _weights(len(counts), resamples, rng)])
    weights = weights[weights @ sums.sum(1) > 0]
    won, played = weights @ sums, weights @ counts
    log_odds, log_lost = np.log(p) - np.log1p(-p), np.log1p(-p)
    best = np.concatenate(
        [
            np.argmax(log_odds @ won[i : i + 50].T + log_lost @ played[i : i + 50].T, axis=0)
            for i in range(0, len(weights), 50)
        ]
    )
    # Of a whole number of resamples: between a finite angle and an infinite one lies none.
    low, high = np.quantile(half[best[1:]], [0.025, 0.975], method="inverted_cdf")
    seen = np.unique(x)
    low, high = seen[seen <= low].max(initial=0.0), seen[seen >= high].min(initial=np.inf)
    return Halving(float(top[best[0]] * at_zero[best[0]]), float(half[best[0]]), float(low), float(high))


def _binned(x: Floats, y: Floats, clusters: Sequence[Any]) -> tuple[Floats, Floats, Floats]:
    """Places (B,), and for each cluster the number (C, B) and the sum (C, B) of what lies there."""
    places, place = np.unique(x, return_inverse=True)
    bins = int(np.clip(len(x) // _PER_BIN, _FEWEST_BINS, _BINS))
    if len(places) > bins:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1]))
        _, place = np.unique(np.searchsorted(edges, x, side="right"), return_inverse=True)
        places = np.bincount(place, x) / np.bincount(place)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    counts, sums = (np.zeros((cluster.max() + 1, len(places))) for _ in range(2))
    np.add.at(counts, (cluster, place), 1.0)
    np.add.at(sums, (cluster, place), y)
    return places, counts, sums


def _weights(clusters: int, resamples: int, rng: np.random.Generator) -> Floats:
    """(R, C) how often each cluster is drawn."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)
