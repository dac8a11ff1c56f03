"""Statistics against closed forms: no golden numbers."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtri, xlogy
from scipy.stats import binom

from geo4d_bench.evaluation.statistics import (
    anytime_difference,
    compact_letters,
    evidence,
    evidence_against_difference,
    fisher_exact,
    hierarchical_difference,
    hierarchical_mean,
    mcnemar_exact,
    mcnemar_power,
    paired_difference,
    significance_groups,
    training_seeds_p,
    training_seeds_power,
    unpaired_difference,
    wilson,
)


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


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(12, 2, 44), (0, 7, 20), (3, 3, 9), (1, 0, 50), (20, 0, 20)])
def test_a_paired_interval_ends_where_the_score_test_rejects(only_a: int, only_b: int, n: int) -> None:
    # Tango's test: (b - c - n d) / sqrt(n (2 p01 + d - d^2)), p01 being most likely where the rates differ by d.
    difference = paired_difference(only_a, only_b, n)
    assert difference.low <= difference.value == (only_a - only_b) / n <= difference.high
    for d in difference[1:]:
        if abs(d) == 1.0:
            continue
        p01 = np.linspace(max(0.0, -d), (1.0 - d) / 2, 200_001)[1:-1]
        likely = xlogy(only_a, p01 + d) + xlogy(only_b, p01) + xlogy(n - only_a - only_b, 1 - d - 2 * p01)
        best = p01[likely.argmax()]
        z = (only_a - only_b - n * d) / math.sqrt(n * (2 * best + d - d * d))
        assert abs(z) == pytest.approx(1.959963984540054, abs=1e-3)
    mirrored = paired_difference(only_b, only_a, n)
    assert mirrored[1:] == pytest.approx((-difference.high, -difference.low), abs=1e-6)


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(-1, 0, 3), (2, 2, 3), (0, 0, 0)])
def test_a_paired_interval_refuses_impossible_counts(only_a: int, only_b: int, n: int) -> None:
    for interval in (paired_difference, anytime_difference):
        with pytest.raises(ValueError, match="expected 0 <= only_a"):
            interval(only_a, only_b, n)


def test_unpaired_rates_have_a_closed_form() -> None:
    # Newcombe: the square roots of the squared distances to the ends of both Wilson intervals.
    (l1, u1), (l2, u2) = wilson(12, 44), wilson(2, 44)
    d = (12 - 2) / 44
    found = unpaired_difference((12, 2), (44, 44))
    assert found.low == pytest.approx(d - math.hypot(12 / 44 - l1, u2 - 2 / 44))
    assert found.high == pytest.approx(d + math.hypot(u1 - 12 / 44, 2 / 44 - l2))
    assert fisher_exact((3, 0), (3, 3)) == pytest.approx(2 / math.comb(6, 3))
    assert fisher_exact((5, 5), (10, 10)) == 1.0


RUNS, LOOKS = 10_000, 500


def test_a_test_that_is_looked_at_after_every_episode_keeps_its_error_rate() -> None:
    rng = np.random.default_rng(0)
    for rate in (0.5, 0.1):  # two equal policies whichever share of the episodes tells them apart; a fixed rate
        trials = np.arange(LOOKS + 1)
        table = evidence(trials, trials[:, None], rate)  # by trials and wins
        wins = (rng.random((RUNS, LOOKS)) < rate).cumsum(1, dtype=np.int16)
        ever = (table[trials[1:], wins] >= 1 / 0.05).any(1)
        assert 0.005 < ever.mean() <= 0.05
        # Looked at as often, a test for one look is wrong several times as often.
        if rate == 0.5:
            p = 2 * binom.cdf(np.minimum(trials, trials[:, None] - trials), trials[:, None], 0.5)
            assert (p[trials[1:], wins] <= 0.05).any(1).mean() > 0.2


def test_a_sequential_test_finds_a_difference_early() -> None:
    rng = np.random.default_rng(1)
    wins = (rng.random((500, LOOKS)) < 0.75).cumsum(1)
    crossed = evidence(wins, np.arange(1, LOOKS + 1)) >= 20
    assert crossed.any(1).all()
    assert np.median(crossed.argmax(1)) < 40


@pytest.mark.parametrize(("p10", "p01"), [(0.15, 0.15), (0.3, 0.1), (0.02, 0.0), (0.0, 0.6)])
def test_an_interval_that_is_looked_at_after_every_episode_misses_seldom(p10: float, p01: float) -> None:
    rng = np.random.default_rng(2)
    drawn = rng.random((RUNS // 4, 200))
    only_a, only_b = (drawn < p10).cumsum(1), (drawn > 1 - p01).cumsum(1)
    n = np.arange(1, drawn.shape[1] + 1)
    against = evidence_against_difference(only_a, only_b, n, p10 - p01)
    assert (against >= 20).any(1).mean() <= 0.05
    for run, looks in ((0, 20), (1, 200)):
        a, b = int(only_a[run, looks - 1]), int(only_b[run, looks - 1])
        found, once = anytime_difference(a, b, looks), paired_difference(a, b, looks)
        assert found.low <= once.low <= once.value <= once.high <= found.high
        assert (found.low <= p10 - p01 <= found.high) == (against[run, looks - 1] <= 20)


def test_training_seeds_are_the_unit_of_a_method() -> None:
    episodes = range(100)
    # Three training seeds of .5, .7, .9: the interval is theirs, whatever the episodes.
    method = [{e: e % 10 < k for e in episodes} for k in (5, 7, 9)]
    found = hierarchical_mean(method)
    assert found.value == pytest.approx(0.7)
    low, high = wilson(210, 300)
    assert found.low < low - 0.05
    assert found.high > high + 0.05
    # Without scatter between them it is that of the episodes, which all of them played.
    same = hierarchical_mean([{e: e % 10 < 7 for e in episodes}] * 3)
    assert (same.low, same.high) == pytest.approx(wilson(70, 100), abs=0.03)
    # On equal episodes a difference that is the same in all of them is certain.
    ahead = hierarchical_difference([dict.fromkeys(episodes, True)] * 2, [dict.fromkeys(episodes, False)] * 2)
    assert ahead == (1.0, 1.0, 1.0)
    paired = hierarchical_difference(method, method)
    other = hierarchical_difference(method, [{e + 1000: done for e, done in each.items()} for each in method])
    assert paired.value == other.value == 0.0
    assert paired.high - paired.low < other.high - other.low
    assert math.isnan(hierarchical_mean(method[:1]).low)


def scattered(
    rng: np.random.Generator, seeds: int, episodes: int, sd: float, hard: npt.NDArray[np.float64]
) -> list[dict[int, bool]]:
    """A method's outcomes: rates of its training seeds are .7 with that deviation, episodes are alike hard for all."""
    rates = np.clip(0.7 + sd * rng.standard_normal(seeds), 0, 1)
    latent = (hard + rng.standard_normal((seeds, episodes))) / 2**0.5
    return [dict(enumerate((row < ndtri(rate)).tolist())) for row, rate in zip(latent, rates, strict=True)]


@pytest.mark.parametrize(
    ("seeds", "episodes", "sd"),
    [
        (3, 300, 0.1),
        *(
            pytest.param(*cell, marks=pytest.mark.exhaustive)
            for cell in itertools.product((2, 3, 5, 10), (100, 500), (0.0, 0.05, 0.1, 0.15))
        ),
    ],
)
def test_the_hierarchical_bootstrap_covers_methods_and_their_differences(seeds: int, episodes: int, sd: float) -> None:
    rng = np.random.default_rng(0)
    held, equal, runs = 0, 0, 100
    for _ in range(runs):
        hard = rng.standard_normal(episodes)
        a, b = (scattered(rng, seeds, episodes, sd, hard) for _ in range(2))
        mean, difference = hierarchical_mean(a), hierarchical_difference(a, b)
        held += mean.low <= 0.7 <= mean.high
        equal += difference.low <= 0 <= difference.high
    assert held >= 0.9 * runs
    assert equal >= 0.9 * runs


def test_power_of_training_seeds_is_that_of_the_permutation_test() -> None:
    rng = np.random.default_rng(1)
    for seeds, effect in ((4, 3.2), (6, 2.0)):
        found = [
            training_seeds_p(
                0.5 + 0.01 * (rng.standard_normal(seeds) + effect), 0.5 + 0.01 * rng.standard_normal(seeds)
            )
            for _ in range(200)
        ]
        assert np.mean(np.array(found) <= 0.05) == pytest.approx(training_seeds_power(seeds, effect), abs=0.07)


@pytest.mark.parametrize("seeds", [3, 4, 5])
def test_training_seeds_that_do_not_overlap_have_the_smallest_p_there_is(seeds: int) -> None:
    p = training_seeds_p(0.8 + 0.01 * np.arange(seeds), 0.5 + 0.01 * np.arange(seeds))
    assert p == pytest.approx(2 / math.comb(2 * seeds, seeds))
    assert training_seeds_p([0.5, 0.7], [0.7, 0.5]) == 1.0
    assert training_seeds_p([0.9], 0.5 + 0.01 * np.arange(seeds)) == pytest.approx(2 / (seeds + 1))
    assert training_seeds_p(0.5 + 0.01 * np.arange(seeds), [0.9]) == pytest.approx(2 / (seeds + 1))
    assert training_seeds_p([0.5], [0.5] * seeds) == 1.0


def test_power_is_the_chance_of_the_exact_test() -> None:
    n, detect, discordant = 12, 0.4, 0.6
    p10, p01 = 0.5, 0.1
    chance = 0.0
    for b, c in itertools.product(range(n + 1), repeat=2):
        if b + c <= n and mcnemar_exact([True] * b + [False] * c, [False] * b + [True] * c) <= 0.05:
            ways = math.comb(n, b) * math.comb(n - b, c)
            chance += ways * p10**b * p01**c * 0.4 ** (n - b - c)
    assert mcnemar_power(n, detect, discordant) == pytest.approx(chance)
