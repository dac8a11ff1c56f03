"""The processes of a rollout: each takes the next seed, plays it, and appends its row at once."""

from __future__ import annotations

import dataclasses
import fcntl
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geo4d_bench.errors import Geo4DError, PolicyError
from geo4d_bench.harness.episodes import Episode, play
from geo4d_bench.harness.ledger import EpisodeRow, Ledger
from geo4d_bench.harness.recording import FILM_SIZE, Film, save_trajectory
from geo4d_bench.harness.rollout import SPLIT, RolloutConfig, Run, describe, load_policy
from geo4d_bench.harness.simulator import Simulator
from geo4d_bench.harness.views import Views, resolve
from geo4d_bench.training.interrupt import deaf_to_ctrl_c

if TYPE_CHECKING:
    from geo4d_bench.policies import PolicyFactory


_IMPORTED = ["geo4d_bench.harness.workers", "geo4d_bench.tasks.simulation"]
"""Modules that take seconds, imported once for all processes."""


@dataclass(frozen=True)
class Company:
    """What a process plays with, except for what must be its own: simulations and the OpenGL context.

    Attributes:
        run: what decides the rows.  factory: makes policies.  views: what camera pairs are drawn from.
    """

    run: Run
    factory: PolicyFactory
    views: Views


def prepare(config: RolloutConfig) -> Company:
    """Load what decides the rows; what is cheap to check comes first, so that mistakes are told at once."""
    from geo4d_bench import tasks
    from geo4d_bench.tasks.rigs import make_rig

    spec = tasks.spec(config.task)
    tasks.require_robosuite()
    views = resolve(config.views, make_rig(config.rig, spec.workspace))
    _one_thread(config.policy)
    factory = load_policy(config)
    return Company(describe(config, factory, spec.version), factory, views)


def play_all(config: RolloutConfig, company: Company, seeds: Sequence[int]) -> None:
    """Play the episodes of ``seeds`` and append their rows; PolicyError where a process died."""
    from tqdm import tqdm

    with tqdm(total=len(seeds), unit="episode", desc=f"{config.policy} {company.views.name}") as bar:
        if config.workers == 1 or len(seeds) == 1:
            _work(config, company, iter(seeds), bar.update)
            gc.collect()  # simulations refer to themselves, and hold 100 MB each
            return
        # Copies of a process that has only imported things, never of this one, which may hold threads, a GPU or more
        # memory than can be promised twice.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED + ["torch"] * company.factory.needs_checkpoint)
        given = context.Value("i", 0)
        done = context.Value("i", 0)
        processes = [
            context.Process(
                target=_worker, args=(config, company.run, dict(os.environ), list(seeds), given, done), daemon=True
            )
            for _ in range(min(config.workers, len(seeds)))
        ]
        try:
            with deaf_to_ctrl_c():
                for process in processes:
                    process.start()
            while any(process.is_alive() for process in processes):
                time.sleep(0.1)
                if done.value > bar.n:
                    bar.update(done.value - bar.n)
            bar.update(done.value - bar.n)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.terminate()
                    process.join()
    dead = [process.exitcode for process in processes if process.exitcode]
    if dead:
        raise PolicyError(
            f"{len(dead)} of {len(processes)} worker processes ended with code {dead[0]}; finished episodes are kept: "
            "type the same command again, with --workers 1 to see the error itself"
        )


def _worker(
    config: RolloutConfig, run: Run, environment: dict[str, str], seeds: list[int], given: Any, done: Any
) -> None:
    os.environ.update(environment)  # the process that this one was copied from began with an earlier one
    command = multiprocessing.parent_process()

    def taken() -> Iterator[int]:
        while command is not None and command.is_alive():  # nobody is left to play for once it was killed
            with given.get_lock():
                index, given.value = given.value, given.value + 1
            if index >= len(seeds):
                return
            yield seeds[index]

    def finished(number: int) -> None:
        with done.get_lock():
            done.value += number

    try:
        _work(config, dataclasses.replace(prepare(config), run=run), taken(), finished)
    except (Geo4DError, OSError) as error:
        print(f"worker: {error}", file=sys.stderr)
        sys.exit(2)


def _work(config: RolloutConfig, company: Company, seeds: Iterator[int], finished: Any) -> None:
    """Play ``seeds`` in this process."""
    from geo4d_bench import tasks
    from geo4d_bench.harness.stage import make_stage
    from geo4d_bench.rendering.renderer import Renderer

    _one_thread(config.policy)
    factory = company.factory
    played = [tasks.make(config.task) for _ in range(side_by_side(config, factory))]
    stage = make_stage(played[0])
    renderers: list[Renderer] = []
    if factory.needs_images:
        height, width = factory.image_size or (config.height, config.width)
        renderers.append(Renderer(stage.scene, height, width))
        stage = dataclasses.replace(stage, renderer=renderers[0])
    film_renderer = None
    if config.video:
        film_renderer = Renderer(stage.scene, *FILM_SIZE, quality=True)
        renderers.append(film_renderer)
    simulators = [Simulator(task, SPLIT, company.views, stage, company.run.settings["sensor"]) for task in played]
    ledger = Ledger(config.folder / "episodes.csv")

    def finish(episode: Episode) -> None:
        if episode.crash is not None:
            _log_crash(config, episode)
        else:
            save_trajectory(config.folder / "trajectories" / f"{episode.seed}.npz", episode.simulator)
            if episode.film is not None:
                episode.film.save(config.folder / "videos" / f"{episode.seed}.mp4")
        ledger.append(_row(config, company, episode))
        finished(1)

    try:
        play(seeds, simulators, factory, finish, (lambda s: Film(s, film_renderer)) if film_renderer else None)
    finally:
        for renderer in renderers:
            renderer.close()


def side_by_side(config: RolloutConfig, factory: PolicyFactory) -> int:
    """Simulations of one process: sharing a call is of use only where there is a model to call."""
    return min(config.side_by_side, config.episodes) if factory.needs_checkpoint else 1


def _row(config: RolloutConfig, company: Company, episode: Episode) -> EpisodeRow:
    from geo4d_bench.fingerprint import commit

    simulator, settings, status = episode.simulator, company.run.settings, episode.status
    assert status is not None
    try:
        phase = simulator.task.phase()
    except Exception:  # a task that crashed in its reset has none
        phase = "start"
    return EpisodeRow(
        run_id=company.run.run_id,
        settings=company.run.settings_id,
        task=settings["task"],
        task_version=settings["task_version"],
        policy=settings["policy"],
        checkpoint=settings["checkpoint"],
        views=company.views.name,
        rig=company.views.training.name,
        camera_n=simulator.cameras[0].name,
        camera_m=simulator.cameras[1].name,
        view_angle_deg=simulator.view_angle_deg,
        sensor=settings["sensor"],
        steps=settings["steps"] or 0,
        split=settings["split"],
        seed=episode.seed,
        episode=episode.seed - config.seed,
        status=status,
        success=status == "success",
        phase=phase,
        plans=episode.plans,
        control_steps=simulator.control_steps,
        wall_s=episode.wall_s,
        generate_ms=episode.mean_ms("generate_ms"),
        track_ms=episode.mean_ms("track_ms"),
        privileged=company.factory.privileged,
        fingerprint=settings["fingerprint"],
        commit=commit(),
    )


def _log_crash(config: RolloutConfig, episode: Episode) -> None:
    path = config.folder / "crashes.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.write(f"seed {episode.seed}, control step {episode.simulator.control_steps}\n{episode.crash}\n")


def _one_thread(policy: str) -> None:
    """One thread in every process: the processes share the cores, and sums do not depend on how they were split."""
    if "torch" in sys.modules or policy.startswith(("geo4d", "pose_regression")):
        import torch

        torch.set_num_threads(1)
