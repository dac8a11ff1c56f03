"""Cluster bootstrap intervals against cases with a known answer."""

import numpy as np
import pytest

from geo4d_bench.evaluation.statistics import cluster_mean


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_two_clusters_give_the_three_means_that_are_possible() -> None:
    mean = cluster_mean([0.0, 1.0], ["a", "b"], rng())
    assert mean == (0.5, 0.0, 1.0)


def test_repeating_the_windows_of_an_episode_adds_no_certainty() -> None:
    values = rng().normal(size=20)
    once = cluster_mean(values, range(20), rng())
    tenfold = cluster_mean(np.repeat(values, 10), np.repeat(np.arange(20), 10).tolist(), rng())
    assert tenfold.low == pytest.approx(once.low)
    assert tenfold.high == pytest.approx(once.high)


def test_interval_has_the_width_of_the_normal_approximation() -> None:
    values = rng().normal(3.0, 2.0, size=400)
    mean = cluster_mean(values, range(400), rng())
    expected = 2 * 1.96 * values.std() / np.sqrt(400)
    assert mean.high - mean.low == pytest.approx(expected, rel=0.1)
    assert mean.low < mean.value < mean.high


def test_missing_and_infinite_values() -> None:
    mean = cluster_mean([1.0, np.nan, 3.0], ["a", "a", "b"], rng())
    assert mean.value == 2.0
    assert np.isnan(cluster_mean([np.nan], ["a"], rng()).value)
    one_episode = cluster_mean([1.0, 2.0], ["a", "a"], rng())
    assert one_episode.value == 1.5
    assert np.isnan(one_episode.low)
    assert cluster_mean([np.inf, 1.0], ["a", "b"], rng()).value == np.inf
