"""``geo4d-bench leaderboard plan``: how many episodes and training seeds it takes to find a difference."""

from __future__ import annotations

import functools
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
_TEETH, _FLAT = 30, 5000
"""The power of exact tests is a saw, whose teeth no longer matter from that many episodes on."""
_CERTAIN = 5.0
"""Standard deviations that 4 training seeds always tell."""

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
        most = min(2 * self.success + self.detect, 2.0 - 2 * self.success - self.detect)
        if self.discordant is not None and self.discordant > most + 1e-9:
            raise ConfigError(
                f"--discordant is {self.discordant}, expected at most {most:.4g}: no more can be solved by one alone "
                f"where {self.success} and {self.success + self.detect:.4g} of all are solved"
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
            f"two checkpoints, other seeds (Fisher's exact test): {self.unpaired} episodes each",
            "two methods, training seeds of each (the checkpoints of a method are its sample):",
            f"{'episodes a checkpoint':>22} {'equal seeds':>22} {'not paired':>22}",
            *rows,
            f"assumed: {self.discordant:.3f} of equal seeds are solved by one of the two alone (--discordant); success "
            f"rates of one method's training seeds scatter by {c.seed_sd:g} (--seed-sd); at least 4 training seeds, "
            "with which the permutation test can reach 0.05. One comparison: Holm's correction for several takes more.",
        ]
        return "\n".join(lines)


def run(config: PlanConfig) -> Plan:
    """Plan."""
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

    low, high = config.success, config.success + config.detect
    by_chance = low * (1.0 - high) + high * (1.0 - low)
    discordant = config.discordant or max(PAIRED_SHARE * by_chance, config.detect)
    normal = samplesize_proportions_2indep_onetail(
        config.detect, low, config.power, alpha=ALPHA, alternative="two-sided"
    )
    normal = max(float(normal), 1.0)
    # What Fisher's exact test takes, by the continuity correction of Fleiss, Tytun and Ury (1980).
    unpaired = normal / 4.0 * (1.0 + math.sqrt(1.0 + 4.0 / (normal * config.detect))) ** 2
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
    """The fewest paired episodes from which on the exact test has the power."""
    return _fewest(1, lambda n: statistics.mcnemar_power(n, config.detect, discordant, ALPHA) >= config.power)


def _training_seeds(config: PlanConfig, sd: float) -> int:
    effect = min(config.detect / max(sd, 1e-9), _CERTAIN)
    enough = functools.cache(lambda n: statistics.training_seeds_power(n, effect, ALPHA) >= config.power)
    return _fewest(4, enough, teeth=3)


def _fewest(least: int, enough: Callable[[int], bool], teeth: int = _TEETH) -> int:
    """The smallest number from ``least`` on that is enough, as are the ``teeth`` larger ones."""
    found = _about(least, enough)
    while found < _FLAT and (short := [n for n in range(found, found + teeth + 1) if not enough(n)]):
        found = short[-1] + 1
    return found


def _about(least: int, enough: Callable[[int], bool]) -> int:
    """A number that is enough and whose predecessor is not, by bisection."""
    low, high = least - 1, least
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
