"""Playing episodes: several simulations step side by side and share each call of the policy."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import TYPE_CHECKING

from geo4d_bench.errors import RunError
from geo4d_bench.policies import Observation, Policy
from geo4d_bench.policies.protocol import ActionChunk
from geo4d_bench.rollout.ledger import Status
from geo4d_bench.rollout.recording import Film
from geo4d_bench.rollout.simulator import Simulator
from geo4d_bench.seeding import derive_seed

if TYPE_CHECKING:
    from geo4d_bench.rendering.renderer import Renderer


@dataclass(eq=False)
class Episode:
    """One episode while it runs and when it has ended.

    Attributes:
        simulator, policy: its own while it runs.
        plans: calls of the policy.  plan_s: how long each took, its share.  wall_s: its share of the time.
        timings: sums over the plans, milliseconds.
        crash: the traceback of the exception that ended it.
        film: its pictures, where they are wanted.
    """

    seed: int
    simulator: Simulator
    policy: Policy
    plans: int = 0
    plan_s: list[float] = field(default_factory=list)
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
    seeds: Iterable[int],
    simulators: Sequence[Simulator],
    make_policy: Callable[[], Policy],
    film_renderer: Renderer | None = None,
) -> Iterator[Episode]:
    """Play the episodes of ``seeds``, as many at once as there are simulators; each is given as it ends, before its
    simulator begins another one.

    An exception ends its own episode as a crash. Where a call shared by several episodes fails, each of them is begun
    again and played alone: only the one at fault crashes, and the others' results are as if it had never been there.
    """
    suspects: list[int] = []
    for waiting, group in ((list(seeds), simulators), (suspects, simulators[:1])):
        live: list[Episode] = []
        while waiting or live:
            busy = [episode.simulator for episode in live]
            for simulator in [s for s in group if s not in busy][: len(waiting)]:
                live.append(_begin(waiting.pop(0), simulator, make_policy(), film_renderer))
            failed = _plan([episode for episode in live if episode.status is None])
            suspects += [episode.seed for episode in failed]
            yield from [episode for episode in live if episode.status is not None]
            live = [episode for episode in live if episode.status is None and episode not in failed]


def measure_latency_s(first_seed: int, simulator: Simulator, make_policy: Callable[[], Policy], plans: int) -> float:
    """Median of how long ``plans`` plans take here, after one that does not count, rounded up to milliseconds.

    The episodes of ``first_seed`` and the next ones are played for it. RunError where the policy fails in one.
    """
    took: list[float] = []
    for seed in count(first_seed):
        episode = _begin(seed, simulator, make_policy(), None)
        while episode.status is None and len(took) + episode.plans <= plans:
            _plan([episode])
        if episode.crash is not None:
            raise RunError(
                f"the policy failed while its latency was measured on seed {seed}: {episode.crash.splitlines()[-1]}; "
                "mend the cause, or give --realtime seconds"
            )
        took += episode.plan_s
        if len(took) > plans:
            break
    return math.ceil(1e3 * median(took[1:])) / 1e3


def _begin(seed: int, simulator: Simulator, policy: Policy, film_renderer: Renderer | None) -> Episode:
    episode = Episode(seed, simulator, policy)
    with _watch(episode):
        simulator.begin(seed)
        if policy.privileged:
            policy.simulator = simulator
        policy.reset(simulator.info, derive_seed(simulator.task.spec.key, simulator.split, seed, "policy"))
        episode.film = Film(simulator, film_renderer) if film_renderer is not None else None
    return episode


def _plan(live: Sequence[Episode]) -> list[Episode]:
    """One plan of every episode, carried out; returns the episodes whose shared call failed."""
    observed: list[tuple[Episode, Observation]] = []
    for episode in live:
        with _watch(episode):
            episode.policy.clock_s = episode.simulator.clock_s
            observed.append((episode, episode.simulator.observe(episode.policy.needs_both_poses)))
    if not observed:
        return []
    policies, observations = [e.policy for e, _ in observed], [obs for _, obs in observed]
    began = time.perf_counter()
    try:
        chunks = type(policies[0]).act_many(policies, observations)
    except Exception:
        if len(observed) > 1:
            return [episode for episode, _ in observed]
        observed[0][0].crash = traceback.format_exc()
        return []
    share_s = (time.perf_counter() - began) / len(observed)
    for (episode, obs), chunk in zip(observed, chunks, strict=True):
        episode.wall_s += share_s
        episode.plan_s.append(share_s)
        with _watch(episode):
            _carry_out(episode, obs, chunk)
    return []


def _carry_out(episode: Episode, obs: Observation, chunk: ActionChunk) -> None:
    policy, simulator, film = episode.policy, episode.simulator, episode.film
    episode.plans += 1
    for name, ms in getattr(policy, "timings", {}).items():
        episode.timings[name] = episode.timings.get(name, 0.0) + ms
    after_step = film.step if film is not None else None
    simulator.wait(after_step)
    if simulator.status is not None:
        return
    if film is not None:
        film.plan(getattr(policy, "last_video", None))
    # The whole plan in the world, where the policy tracked it through a video.
    tracks = getattr(policy, "last_tracks", None) or {}
    horizon = {arm: obs.T_world_cam_n @ track.T_n_ee for arm, track in tracks.items()}
    simulator.execute(chunk, horizon or None, after_step)


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
