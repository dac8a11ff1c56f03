"""``geo4d-bench leaderboard plan``: how many episodes and training seeds it takes to find a difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation import statistics
from geo4d_bench.options import check_ranges

ALPHA = 0.05
PAIRED_SHARE = 0.6
"""Episodes that one policy alone solves, against what chance would give: .56 in the mean of 192 pairs of runs with
20 equal seeds or more in ``results/`` whose rates are between .5 and .97."""
EPISODES = (20, 50, 100, 200, 500)

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class PlanConfig:
    detect: Share = 0.05
    """Difference of the two success rates that shall be found."""
    power: Annotated[float, Field(gt=0, le=0.999)] = 0.8
    """Probability of finding it."""
    success: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Success rate of the worse of the two."""
    discordant: Share | None = None
    """Share of equal seeds that one of the two alone solves; where not given, 0.6 of what it would be by chance."""
    seed_sd: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Standard deviation of the true success rate between training seeds of one method."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.success + self.detect > 1.0:
            raise ConfigError(f"--success is {self.success} and --detect {self.detect}, expected at most 1 together")
        if self.discordant is not None and self.discordant < self.detect:
            raise ConfigError(
                f"--discordant is {self.discordant}, expected at least --detect ({self.detect}): the policies "
                "differ on no other episodes"
            )
        if self.detect < 0.005:
            raise ConfigError(
                f"--detect is {self.detect}, expected at least 0.005: less takes more than 50,000 episodes"
            )


@dataclass(frozen=True)
class Plan:
    """What has to be played.

    Attributes:
        discordant: share of equal seeds that one of the two alone solves, as assumed.
        paired, unpaired: episodes of each of two checkpoints, on equal seeds or not.
        training_seeds: of each of two methods, by (episodes of each training seed, whether they are paired).
    """

    config: PlanConfig
    discordant: float
    paired: int
    unpaired: int
    training_seeds: dict[tuple[int, bool], int]

    def __str__(self) -> str:
        c = self.config
        rows = [
            f"{episodes:>22} {self.training_seeds[episodes, True]:>22} {self.training_seeds[episodes, False]:>22}"
            for episodes in EPISODES
        ]
        lines = [
            f"to find a difference of {c.detect:g} ({c.success:g} against {c.success + c.detect:g}) with a probability "
            f"of {c.power:g}, at an error rate of {ALPHA:g}, two-sided:",
            f"two checkpoints, equal seeds (exact McNemar): {self.paired} episodes each",
            f"two checkpoints, other seeds (not paired): {self.unpaired} episodes each",
            "two methods, training seeds of each (the checkpoints of a method are its sample):",
            f"{'episodes a checkpoint':>22} {'equal seeds':>22} {'not paired':>22}",
            *rows,
            f"assumed: {self.discordant:.3f} of equal seeds are solved by one of the two alone (--discordant); success "
            f"rates of one method's training seeds scatter by {c.seed_sd:g} (--seed-sd); training seeds by the t-test's"
            " power, at least 4, with which the permutation test can reach 0.05. One comparison: Holm's correction for "
            "several takes more.",
        ]
        return "\n".join(lines)


def run(config: PlanConfig) -> Plan:
    """Plan."""
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

    low, high = config.success, config.success + config.detect
    by_chance = low * (1.0 - high) + high * (1.0 - low)
    discordant = config.discordant or max(PAIRED_SHARE * by_chance, config.detect)
    unpaired = float(
        samplesize_proportions_2indep_onetail(config.detect, low, config.power, alpha=ALPHA, alternative="two-sided")
    )
    # Variance of one checkpoint's rate that its episodes make, in a difference of two.
    noise = {
        True: max(discordant - config.detect**2, 0.0) / 2.0,
        False: (low * (1.0 - low) + high * (1.0 - high)) / 2.0,
    }
    training_seeds = {
        (episodes, paired): _training_seeds(config, math.sqrt(config.seed_sd**2 + noise[paired] / episodes))
        for episodes in EPISODES
        for paired in (True, False)
    }
    return Plan(config, discordant, _paired(config, discordant), math.ceil(unpaired), training_seeds)


def _paired(config: PlanConfig, discordant: float) -> int:
    """The fewest paired episodes with which the exact test has the power, to the tooth of its saw."""
    return _fewest(1, lambda n: statistics.mcnemar_power(n, config.detect, discordant, ALPHA) >= config.power)


def _training_seeds(config: PlanConfig, sd: float) -> int:
    from statsmodels.stats.power import TTestIndPower

    return _fewest(4, lambda n: sd == 0 or TTestIndPower().power(config.detect / sd, n, ALPHA) >= config.power)


def _fewest(least: int, enough: Callable[[int], bool]) -> int:
    """The smallest number from ``least`` on that is enough, where every larger one is, too."""
    low, high = least - 1, least
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
