"""Playing episodes: several simulations step side by side and share each call of the policy."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from geo4d_bench.policies import Observation, Policy
from geo4d_bench.policies.protocol import ActionChunk
from geo4d_bench.rollout.ledger import Status
from geo4d_bench.rollout.recording import Film, horizon_of
from geo4d_bench.rollout.simulator import Simulator
from geo4d_bench.seeding import derive_seed


@dataclass
class Episode:
    """One episode while it runs and when it has ended.

    Attributes:
        seed: its seed.  simulator, policy: its own while it runs.
        plans: calls of the policy.  wall_s: its share of the time.  timings: sums over the plans, milliseconds.
        crash: the traceback of the exception that ended it.
        film: its pictures, where they are wanted.
    """

    seed: int
    simulator: Simulator
    policy: Policy
    plans: int = 0
    wall_s: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    crash: str | None = None
    film: Film | None = None

    @property
    def status(self) -> Status | None:
        """How it ended; None while it goes on."""
        return "crash" if self.crash is not None else self.simulator.status

    def mean_ms(self, name: str) -> float:
        """Mean of a plan's ``generate_ms`` or ``track_ms``; 0 where the policy does not tell."""
        return self.timings.get(name, 0.0) / max(self.plans, 1)


def play(
    seeds: Iterator[int],
    simulators: Sequence[Simulator],
    make_policy: Callable[[], Policy],
    finish: Callable[[Episode], None],
    make_film: Callable[[Simulator], Film] | None = None,
) -> None:
    """Play the episodes of ``seeds``, as many at once as there are simulators; ``finish`` gets each as it ends.

    An exception ends its own episode as a crash. Where a call shared by several episodes fails, each of them is begun
    again and played alone: only the one at fault crashes, and the others' results are as if it had never been there.
    """
    runner = _EpisodeRunner(make_policy, finish, make_film)
    runner.play(seeds, simulators)
    suspects, runner.suspects = runner.suspects, []
    runner.play(iter(suspects), simulators[:1])


@dataclass
class _EpisodeRunner:
    make_policy: Callable[[], Policy]
    finish: Callable[[Episode], None]
    make_film: Callable[[Simulator], Film] | None
    suspects: list[int] = field(default_factory=list)
    """Seeds of episodes that shared a call that failed."""

    def play(self, seeds: Iterator[int], simulators: Sequence[Simulator]) -> None:
        free, live = list(simulators), list[Episode]()
        while True:
            while free and (seed := next(seeds, None)) is not None:
                live.append(self._begin(seed, free.pop()))
            if not live:
                return
            live = self._round(live)
            for episode in [e for e in live if e.status is not None]:
                self.finish(episode)
                live.remove(episode)
            busy = [e.simulator for e in live]
            free = [simulator for simulator in simulators if simulator not in busy]

    def _begin(self, seed: int, simulator: Simulator) -> Episode:
        episode = Episode(seed, simulator, self.make_policy())
        key = derive_seed(simulator.task.spec.key, simulator.split, seed, "policy")
        with _watch(episode):
            simulator.begin(seed)
            if episode.policy.privileged:
                episode.policy.simulator = simulator
            episode.policy.reset(simulator.info, key)
            episode.film = self.make_film(simulator) if self.make_film else None
        return episode

    def _round(self, live: list[Episode]) -> list[Episode]:
        """One plan of every live episode, carried out; returns those that go on."""
        observed: list[tuple[Episode, Observation]] = []
        for episode in live:
            if episode.status is None:
                with _watch(episode):
                    observed.append((episode, episode.simulator.observe(episode.policy.needs_both_poses)))
        if not observed:
            return live
        policies, observations = [e.policy for e, _ in observed], [obs for _, obs in observed]
        began = time.perf_counter()
        try:
            chunks = type(policies[0]).act_many(policies, observations)
        except Exception:
            if len(observed) == 1:
                observed[0][0].crash = traceback.format_exc()
                return live
            self.suspects += [e.seed for e, _ in observed]
            return [e for e in live if e.status is not None]
        share_s = (time.perf_counter() - began) / len(observed)
        for (episode, obs), chunk in zip(observed, chunks, strict=True):
            episode.wall_s += share_s
            with _watch(episode):
                _carry_out(episode, obs, chunk)
        return live


def _carry_out(episode: Episode, obs: Observation, chunk: ActionChunk) -> None:
    policy, simulator, film = episode.policy, episode.simulator, episode.film
    episode.plans += 1
    for name, ms in getattr(policy, "timings", {}).items():
        episode.timings[name] = episode.timings.get(name, 0.0) + ms
    if film is not None:
        film.plan(getattr(policy, "last_video", None))
    horizon = horizon_of(getattr(policy, "last_tracks", None), obs.T_world_cam_n, chunk.T_world_ee)
    simulator.execute(chunk, horizon, film.step if film is not None else None)


@contextlib.contextmanager
def _watch(episode: Episode) -> Iterator[None]:
    """Count the time as the episode's own, and an exception as its crash."""
    began = time.perf_counter()
    try:
        yield
    except Exception:
        episode.crash = traceback.format_exc()
    finally:
        episode.wall_s += time.perf_counter() - began
