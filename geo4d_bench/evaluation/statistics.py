"""What a success rate is worth: Wilson intervals, paired tests on the same seeds, and significance letters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (low, high) of a success rate, k successes in n episodes.

    ValueError unless 0 <= k <= n and n >= 1: no episode, no interval.
    """
    if not (n >= 1 and 0 <= k <= n):
        raise ValueError(f"wilson: expected 0 <= k <= n and n >= 1, got k={k}, n={n}")
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(k, n, alpha=1.0 - confidence, method="wilson")
    return float(low), float(high)


def mcnemar_exact(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Two-sided p-value of the exact McNemar test of two policies on the same episodes.

    Args:
        a, b: (n,) bool, success of each policy on episode i. Only episodes that one solved and the other did not
            tell anything; where there is none, p = 1.
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"mcnemar_exact: expected two arrays (n,) of paired outcomes, got {a.shape} and {b.shape}")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    if only_a + only_b == 0:
        return 1.0
    from statsmodels.stats.contingency_tables import mcnemar

    table = [[int(np.sum(a & b)), only_a], [only_b, int(np.sum(~a & ~b))]]
    return min(1.0, float(mcnemar(table, exact=True).pvalue))


def significance_groups(outcomes: Mapping[str, Mapping[int, bool]], alpha: float = 0.05) -> dict[str, str]:
    """Group letters of policies: two that share a letter do not differ at ``alpha``.

    Every pair is tested with :func:`mcnemar_exact` on the seeds that both have, and the p-values are corrected
    together with Holm's method. A pair without common seeds cannot be told apart, so it does not differ.

    Args:
        outcomes: success by seed of each policy.

    Returns:
        letters by name; ``a`` belongs to the best success rate. A name may have several ("ab").
    """
    rate = {name: float(np.mean(list(by_seed.values()))) if by_seed else 0.0 for name, by_seed in outcomes.items()}
    names = sorted(outcomes, key=lambda name: (-rate[name], name))
    pairs = list(itertools.combinations(range(len(names)), 2))
    differs = np.zeros((len(names), len(names)), dtype=bool)
    if pairs:
        from statsmodels.stats.multitest import multipletests

        p_values = []
        for i, j in pairs:
            first, second = outcomes[names[i]], outcomes[names[j]]
            seeds = sorted(first.keys() & second.keys())
            p_values.append(mcnemar_exact([first[s] for s in seeds], [second[s] for s in seeds]) if seeds else 1.0)
        rejected = multipletests(p_values, alpha=alpha, method="holm")[0]
        for (i, j), reject in zip(pairs, rejected, strict=True):
            differs[i, j] = differs[j, i] = bool(reject)
    return dict(zip(names, compact_letters(differs), strict=True))


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
    if differs.shape != (n, n) or np.any(differs != differs.T) or np.any(np.diag(differs)):
        raise ValueError("compact_letters: expected a symmetric (N, N) matrix that is False on its diagonal")
    columns: list[frozenset[int]] = [frozenset(range(n))] if n else []
    for i, j in zip(*np.nonzero(np.triu(differs)), strict=True):
        split: list[frozenset[int]] = []
        for column in columns:
            split += [column - {i}, column - {j}] if i in column and j in column else [column]
        columns = [c for c in dict.fromkeys(split) if not any(c < other for other in split)]
    columns.sort(key=sorted)
    return ["".join(_letter(k) for k, column in enumerate(columns) if i in column) for i in range(n)]


def _letter(index: int) -> str:
    """a ... z, a1 ... z1, a2 ..."""
    letter = "abcdefghijklmnopqrstuvwxyz"[index % 26]
    return letter if index < 26 else f"{letter}{index // 26}"
