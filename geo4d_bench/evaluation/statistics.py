"""What numbers are worth: intervals of success rates and of their differences, exact tests, tests that may be looked at
at any time, significance letters, and bootstrap intervals of what comes in clusters: windows of episodes, episodes of
training seeds. docs/statistics.md says what each assumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geo4d_bench.seeding import generator

Bools = npt.NDArray[np.bool_]
_RESAMPLES = 2000


class Mean(NamedTuple):
    """A number with its 95 % interval; NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval (low, high) of a success rate, k successes in n episodes.

    ValueError unless 0 <= k <= n and n >= 1: no episode, no interval.
    """
    if not (n >= 1 and 0 <= k <= n):
        raise ValueError(f"wilson: expected 0 <= k <= n and n >= 1, got k={k}, n={n}")
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(k, n, alpha=1.0 - 0.95, method="wilson")
    return float(low), float(high)


def mcnemar_exact(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Two-sided p-value of the exact McNemar test of two policies on the same episodes.

    Args:
        a, b: (n,) bool, success of each policy on episode i. Only episodes that one alone solved count; without any,
            p = 1.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"mcnemar_exact: expected two arrays (n,) of paired outcomes, got {a.shape} and {b.shape}")
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    return min(1.0, float(mcnemar(table, exact=True).pvalue))


def fisher_exact(k: tuple[int, int], n: tuple[int, int]) -> float:
    """Two-sided p-value of Fisher's exact test of two success rates on episodes that are not paired, k of n each."""
    from scipy import stats

    return min(1.0, float(stats.fisher_exact(np.array([k, np.subtract(n, k)]))[1]))


def unpaired_difference(k: tuple[int, int], n: tuple[int, int]) -> Mean:
    """Difference k0 / n0 - k1 / n1 of two independent success rates with its 95 % interval, made of their Wilson
    intervals (Newcombe 1998)."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(k[0], n[0], k[1], n[1], compare="diff", method="newcomb")
    return Mean(k[0] / n[0] - k[1] / n[1], float(low), float(high))


def paired_difference(only_a: int, only_b: int, n: int) -> Mean:
    """Difference of two success rates on the same n episodes, with its 95 % score interval.

    Tango 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B): what Wilson's interval is to one
    rate.

    Args:
        only_a, only_b: episodes that one of the two alone solved; ValueError where they are more than n, or n < 1.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    _check_pairs(only_a, only_b, n)
    difference = (only_a - only_b) / n

    def score(d: float) -> float:
        variance = n * float(2.0 * _constrained(only_a, only_b, n, d)[1] + d - d * d)
        return float((only_a - only_b - n * d) / np.sqrt(max(variance, 1e-300)))

    z, edge = float(norm.ppf(0.975)), 1.0 - 1e-9
    low = -1.0 if score(-edge) < z else brentq(lambda d: score(d) - z, -edge, difference - 1e-12)
    high = 1.0 if score(edge) > -z else brentq(lambda d: score(d) + z, difference + 1e-12, edge)
    return Mean(difference, float(low), float(high))


def _check_pairs(only_a: int, only_b: int, n: int) -> None:
    if not (n >= 1 and min(only_a, only_b) >= 0 and only_a + only_b <= n):
        raise ValueError(f"expected 0 <= only_a + only_b <= n and n >= 1, got {only_a}, {only_b} and {n}")


def _constrained(only_a: npt.ArrayLike, only_b: npt.ArrayLike, n: npt.ArrayLike, d: float) -> npt.NDArray[np.float64]:
    """(3, ...) most likely shares (only a, only b, rest) of n pairs whose rates differ by d; counts of any shape."""
    a, b, n = (np.asarray(each, dtype=np.float64) for each in (only_a, only_b, n))
    linear = -a - b + (2.0 * n - a + b) * d
    root = np.sqrt(np.maximum(linear**2 + 8.0 * n * b * d * (1.0 - d), 0.0))
    share = np.clip((root - linear) / (4.0 * n), max(0.0, -d), (1.0 - d) / 2.0)
    return np.stack([share + d, share, np.maximum(0.0, 1.0 - d - 2.0 * share)])


def evidence(wins: npt.ArrayLike, trials: npt.ArrayLike, rate: float = 0.5) -> npt.NDArray[np.float64]:
    """How much more likely trials are under an unknown rate than under ``rate``: an e-value that may be looked at after
    every trial.

    The mixture over Jeffreys' prior is a martingale where ``rate`` is true, so that it ever reaches 1 / alpha with
    probability alpha at most (Ville), however often and whenever one looks and stops. Of two policies on the same
    episodes, the trials are the episodes that one alone solved.

    Args:
        wins, trials: (...) counts so far.
    """
    from scipy.special import betaln, xlogy

    w, t = np.asarray(wins, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    mixture = betaln(0.5 + w, 0.5 + t - w) - betaln(0.5, 0.5)
    return np.asarray(np.exp(np.minimum(mixture - xlogy(w, rate) - xlogy(t - w, 1.0 - rate), 700.0)))


def evidence_against_difference(
    only_a: npt.ArrayLike, only_b: npt.ArrayLike, n: npt.ArrayLike, d: float
) -> npt.NDArray[np.float64]:
    """Like :func:`evidence`, against success rates on the same n episodes that differ by d.

    The mixture over Dirichlet(1/2, 1/2, 1/2) of the shares (only a, only b, rest), over the most likely ones that
    differ by d: never more than a martingale where d is true.

    Args:
        only_a, only_b, n: (...) counts so far.
    """
    from scipy.special import gammaln, xlogy

    counts = np.stack(np.broadcast_arrays(only_a, only_b, np.subtract(n, np.add(only_a, only_b)))).astype(np.float64)
    total = counts.sum(0)
    mixture = gammaln(counts + 0.5).sum(0) - 3.0 * gammaln(0.5) + gammaln(1.5) - gammaln(total + 1.5)
    shares = np.maximum(_constrained(counts[0], counts[1], total, d), 1e-300)
    return np.asarray(np.exp(np.minimum(mixture - xlogy(counts, shares).sum(0), 700.0)))


def anytime_difference(only_a: int, only_b: int, n: int, alpha: float = 0.05) -> Mean:
    """Difference of two success rates on the same n episodes, with an interval that holds at whatever n one stops: the
    probability that it ever misses the truth is alpha at most. Wider than :func:`paired_difference`, and than what
    :func:`evidence` needs."""
    from scipy.optimize import brentq

    _check_pairs(only_a, only_b, n)
    difference = (only_a - only_b) / n

    def excess(d: float) -> float:
        return float(evidence_against_difference(only_a, only_b, n, d)) - 1.0 / alpha

    edge = 1.0 - 1e-9
    low = -1.0 if excess(-edge) < 0 else brentq(excess, -edge, difference)
    high = 1.0 if excess(edge) < 0 else brentq(excess, difference, edge)
    return Mean(difference, float(low), float(high))


def significance_groups(outcomes: Mapping[str, Mapping[int, bool]]) -> dict[str, str]:
    """Group letters of policies: two without a shared letter differ at the 5 % level.

    Every pair is tested with :func:`mcnemar_exact` on the seeds that both have, and the p-values are corrected
    together with Holm's method. A pair without common seeds cannot be told apart, so it does not differ.

    Args:
        outcomes: success by seed of each policy.

    Returns:
        letters by name; ``a`` belongs to the best success rate. A name may have several ("ab").
    """
    from statsmodels.stats.multitest import multipletests

    rate = {name: float(np.mean(list(by_seed.values()))) if by_seed else 0.0 for name, by_seed in outcomes.items()}
    names = sorted(outcomes, key=lambda name: (-rate[name], name))
    rows, columns = np.triu_indices(len(names), k=1)
    p_values = []
    for i, j in zip(rows, columns, strict=True):
        first, second = outcomes[names[i]], outcomes[names[j]]
        seeds = sorted(first.keys() & second.keys())
        p_values.append(mcnemar_exact([first[s] for s in seeds], [second[s] for s in seeds]))
    differs = np.zeros((len(names), len(names)), dtype=bool)
    if p_values:
        differs[rows, columns] = multipletests(p_values, alpha=0.05, method="holm")[0]
    return dict(zip(names, compact_letters(differs | differs.T), strict=True))


def compact_letters(differs: npt.ArrayLike) -> list[str]:
    """Compact letter display: names i and j share a letter exactly where ``differs[i, j]`` is False.

    Insert-and-absorb (Piepho 2004, doi:10.1198/1061860043515): start with one letter for all; a pair that differs
    splits every letter that holds both; letters whose members another letter holds too are dropped.

    Args:
        differs: (N, N) bool, symmetric, False on the diagonal; names in the order in which letters shall begin.

    Returns:
        N strings of lower-case letters (``a`` to ``z``, then ``a1`` ...).
    """
    differs = np.asarray(differs, dtype=bool)
    n = len(differs)
    columns = [frozenset(range(n))]
    for i, j in zip(*np.nonzero(np.triu(differs)), strict=True):
        split: list[frozenset[int]] = []
        for column in columns:
            split += [column - {i}, column - {j}] if i in column and j in column else [column]
        columns = [c for c in dict.fromkeys(split) if not any(c < other for other in split)]
    columns.sort(key=sorted)
    letters = [f"{'abcdefghijklmnopqrstuvwxyz'[k % 26]}{k // 26 or ''}" for k in range(len(columns))]
    return ["".join(letter for letter, c in zip(letters, columns, strict=True) if i in c) for i in range(n)]


def cluster_mean(values: npt.ArrayLike, clusters: Sequence[object], rng: np.random.Generator) -> Mean:
    """The mean of ``values`` (N,), one a window, with a percentile interval from resampling whole clusters.

    A resample draws as many clusters as there are, with replacement, and takes the mean over all their values, so that
    a cluster weighs by its size (Davison and Hinkley, Bootstrap Methods, 1997, 3.8). NaN values are left out; there is
    no interval with infinite values (the PSNR of equal frames) or fewer than two ``clusters`` (N,), the episodes.
    """
    every = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(every)
    present = every[kept]
    if len(present) == 0:
        return Mean(np.nan)
    mean = float(present.mean())
    _, index = np.unique(np.asarray([str(c) for c in clusters])[kept], return_inverse=True)
    sums, sizes = np.bincount(index, weights=present), np.bincount(index)
    if len(sums) < 2 or np.isinf(present).any():
        return Mean(mean)
    drawn = rng.integers(len(sums), size=(_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    return Mean(mean, float(low), float(high))


Outcomes = Mapping[int, bool]
"""Of one checkpoint: success by the episode's seed."""


def hierarchical_mean(method: Sequence[Outcomes]) -> Mean:
    """The success rate of a method, the mean over its training seeds, with a 95 % percentile interval.

    A resample draws as many training seeds as there are, with replacement, and as many episodes; an episode that
    several training seeds played is drawn for all of them at once. The plain bootstrap of S seeds scatters too little:
    how far the drawn seeds' mean is from that of all is multiplied by sqrt(S / (S - 1)), and by what Student's t has
    over the normal distribution. There is no interval of fewer than two training seeds. What it covers:
    docs/statistics.md.

    Args:
        method: each training seed's outcomes.
    """
    return hierarchical_difference(method, None)


def hierarchical_difference(method: Sequence[Outcomes], other: Sequence[Outcomes] | None) -> Mean:
    """Difference of two methods' success rates, see :func:`hierarchical_mean`; where ``other`` is None, the rate of the
    one. Episodes of the same name are the same for both methods, and are drawn for both at once."""
    from scipy import stats

    sides = [method] if other is None else [method, other]
    episodes = sorted({episode for side in sides for outcomes in side for episode in outcomes})
    rng = generator("statistics", "", 0, "hierarchical")
    drawn = rng.multinomial(len(episodes), np.full(len(episodes), 1.0 / len(episodes)), size=_RESAMPLES)
    free = sum(len(side) - 1 for side in sides)
    tails = float(stats.t.ppf(0.975, free) / stats.norm.ppf(0.975)) if free else np.nan
    value, resampled = 0.0, np.zeros(_RESAMPLES)
    for sign, side in zip((1.0, -1.0), sides, strict=False):
        solved = np.array([[float(outcomes.get(e, False)) for e in episodes] for outcomes in side])
        played = np.array([[float(e in outcomes) for e in episodes] for outcomes in side])
        size = len(side)
        seeds = rng.multinomial(size, np.full(size, 1.0 / size), size=_RESAMPLES) / size - 1.0 / size
        rates = (drawn @ solved.T) / np.maximum(drawn @ played.T, 1.0)
        value += sign * float(np.mean(solved.sum(1) / played.sum(1)))
        between = tails * np.sqrt(size / max(size - 1, 1)) * (seeds * rates).sum(1)
        resampled += np.asarray(sign * (rates.mean(1) + between), dtype=np.float64)
    if min(map(len, sides)) < 2:
        return Mean(value)
    low, high = np.clip(np.percentile(resampled, [2.5, 97.5]), 0.0 if other is None else -1.0, 1.0)
    return Mean(value, float(low), float(high))


def training_seeds_p(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Two-sided p-value of the exact permutation test of two methods, the training seed being the unit.

    Args:
        a, b: (S,) success rate of each training seed, all on the same episodes: of other episodes for the two methods
            it is no test of the methods. All ways to share them out are counted (100,000 drawn at random where there
            are more), so that 3 and 3 seeds cannot reach less than 0.1, nor 1 and 4 less than 0.4.
    """
    from scipy.stats import permutation_test

    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(len(x), len(y)) == 1:  # which scipy refuses
        every = np.concatenate([x, y])
        lone = every - (every.sum() - every) / (len(every) - 1)
        found = lone[0] if len(x) == 1 else lone[-1]
        tail = min(np.mean(lone <= found + 1e-12), np.mean(lone >= found - 1e-12))
        return min(1.0, 2.0 * float(tail))
    found = permutation_test(
        (x, y), lambda u, v, axis: u.mean(axis) - v.mean(axis), vectorized=True, n_resamples=100_000, rng=0
    )
    return float(found.pvalue)


def training_seeds_power(seeds: int, effect: float, alpha: float = 0.05) -> float:
    """Chance that :func:`training_seeds_p` tells two methods apart whose training seeds' rates are normal.

    Up to 7 training seeds each of 2,000 pairs of samples (drawn from one seed) are put to the exact permutation test;
    from 8 on it is the t-test's power, which the permutation test has within a point or two.

    Args:
        seeds: of each method.  effect: difference of the two methods in standard deviations between training seeds.
    """
    if seeds > 7:
        from statsmodels.stats.power import TTestIndPower

        return float(TTestIndPower().power(effect, seeds, alpha))
    drawn = generator("statistics", "", 0, "training seeds").standard_normal((2000, 2 * seeds))
    drawn[:, :seeds] += effect
    shared_out = np.zeros((comb(2 * seeds, seeds), 2 * seeds))
    for row, mine in zip(shared_out, combinations(range(2 * seeds), seeds), strict=True):
        row[list(mine)] = 1.0
    sums = drawn @ shared_out.T  # the first way is the one that was drawn
    tail = np.minimum((sums >= sums[:, :1] - 1e-9).mean(1), (sums <= sums[:, :1] + 1e-9).mean(1))
    return float(np.mean(2.0 * tail <= alpha))


def mcnemar_power(n: int, detect: float, discordant: float, alpha: float = 0.05) -> float:
    """Chance that :func:`mcnemar_exact` tells two policies apart on n paired episodes.

    Args:
        detect: true difference of the rates.  discordant: share of episodes that one alone solves, >= detect.
    """
    from scipy.stats import binom

    m = np.arange(n + 1)
    at_least = np.asarray(binom.ppf(alpha / 2, m, 0.5))  # the smallest k with P(X <= k) >= alpha / 2
    critical = at_least - (binom.cdf(at_least, m, 0.5) > alpha / 2)
    share = (discordant + detect) / (2.0 * discordant)
    rejects = binom.cdf(critical, m, share) + binom.sf(m - critical - 1, m, share)
    return float(binom.pmf(m, n, discordant) @ np.where(critical >= 0, rejects, 0.0))
