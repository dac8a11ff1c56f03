"""Statistics against closed forms: no golden numbers."""

import itertools
import math

import numpy as np
import pytest

from geo4d_bench.evaluation.statistics import compact_letters, mcnemar_exact, significance_groups, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (13, 20), (128, 200)])
def test_wilson_bounds_solve_the_score_equation(k: int, n: int) -> None:
    # By definition both bounds p satisfy (k/n - p)^2 = z^2 p (1 - p) / n.
    z = 1.959963984540054
    for p in wilson(k, n):
        assert (k / n - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / n, abs=1e-12)


def test_wilson_of_all_successes_is_closed_form() -> None:
    z2 = 1.959963984540054**2
    assert wilson(10, 10)[0] == pytest.approx(10 / (10 + z2))
    assert wilson(10, 10)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= k <= n"):
        wilson(k, n)


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 0), (6, 0), (8, 1), (3, 3), (1, 0)])
def test_mcnemar_is_the_binomial_tail_of_the_discordant_pairs(only_a: int, only_b: int) -> None:
    a = [True] * only_a + [False] * only_b + [True] * 4 + [False] * 2
    b = [False] * only_a + [True] * only_b + [True] * 4 + [False] * 2
    m, least = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(m, i) for i in range(least + 1)) / 2**m
    assert mcnemar_exact(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar_exact(b, a) == mcnemar_exact(a, b)


def test_mcnemar_of_equal_outcomes_is_one_and_pairs_must_match() -> None:
    assert mcnemar_exact([True, False], [True, False]) == 1.0
    with pytest.raises(ValueError, match="paired outcomes"):
        mcnemar_exact([True], [True, False])


@pytest.mark.parametrize("seed", range(20))
def test_letters_are_shared_exactly_where_nothing_differs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    differs = np.triu(rng.random((n, n)) < 0.4, 1)
    differs |= differs.T
    letters = [set(text) for text in compact_letters(differs)]
    for i, j in itertools.combinations(range(n), 2):
        assert bool(letters[i] & letters[j]) == (not differs[i, j])
    assert all(letters)


def test_letters_of_a_chain() -> None:
    # The best differs from the worst, the middle one from neither.
    assert compact_letters([[0, 0, 1], [0, 0, 0], [1, 0, 0]]) == ["a", "ab", "b"]


def test_groups_correct_for_the_number_of_pairs() -> None:
    def policy(successes: int) -> dict[int, bool]:
        return {seed: seed < successes for seed in range(10)}

    # Six discordant pairs of ten: p = 2 / 2**6 = 0.031, significant alone, not among three pairs (Holm: 0.031 * 3).
    assert significance_groups({"x": policy(6), "y": policy(0)}) == {"x": "a", "y": "b"}
    three = significance_groups({"x": policy(6), "y": policy(0), "z": policy(3)})
    assert three == {"x": "a", "z": "a", "y": "a"}


def test_groups_use_common_seeds_only() -> None:
    expert = dict.fromkeys(range(20), True)
    random = dict.fromkeys(range(100, 120), False)
    assert significance_groups({"expert": expert, "random": random}) == {"expert": "a", "random": "a"}
    assert significance_groups({"expert": expert, "random": dict.fromkeys(expert, False)}) == {
        "expert": "a",
        "random": "b",
    }
