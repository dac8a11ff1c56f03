"""What numbers are worth: a success rate's Wilson interval, paired tests on the same seeds and significance letters,
and bootstrap intervals of means over windows that come in clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_RESAMPLES = 2000


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


def significance_groups(outcomes: Mapping[str, Mapping[int, bool]]) -> dict[str, str]:
    """Group letters of policies: two that share a letter do not differ at the 5 % level.

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


class Mean(NamedTuple):
    """A number with its 95 % interval; NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan


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
