"""The processes of a rollout: each takes the next seed, plays it, and appends its row at once."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkContext, SpawnContext
from typing import TYPE_CHECKING, Any

from geo4d_bench.errors import Geo4DError, PolicyError
from geo4d_bench.harness.episodes import Episode, play
from geo4d_bench.harness.ledger import EpisodeRow, Ledger
from geo4d_bench.harness.recording import FILM_SIZE, Film, save_trajectory
from geo4d_bench.harness.rollout import SPLIT, RolloutConfig, Run, describe, load_policy
from geo4d_bench.harness.simulator import Simulator, Stage
from geo4d_bench.harness.views import Views, resolve

if TYPE_CHECKING:
    from geo4d_bench.policies import PolicyFactory
    from geo4d_bench.tasks.base import Task


@dataclass
class Company:
    """All that a process needs in order to play, except what must be its own (the OpenGL context).

    Attributes:
        run: what decides the rows.  factory: makes policies.  views: what camera pairs are drawn from.
        tasks: simulations; more are made where more are to step side by side.
        stage: without a renderer yet.
    """

    run: Run
    factory: PolicyFactory
    views: Views
    tasks: list[Task]
    stage: Stage


def prepare(config: RolloutConfig) -> Company:
    """Load all that a process needs; what is cheap to check comes first, so that mistakes are told at once."""
    from geo4d_bench import tasks
    from geo4d_bench.harness.stage import make_stage
    from geo4d_bench.tasks.rigs import make_rig

    spec = tasks.spec(config.task)
    rig = make_rig(config.rig, spec.workspace)
    views = resolve(config.views, rig)
    _one_thread(config.policy)
    factory = load_policy(config)
    run = describe(config, factory, spec.version)
    task = tasks.make(config.task)
    return Company(run, factory, views, [task], make_stage(task))


def play_all(config: RolloutConfig, company: Company, seeds: Sequence[int]) -> None:
    """Play the episodes of ``seeds`` and append their rows; PolicyError where a process died."""
    from tqdm import tqdm

    with tqdm(total=len(seeds), unit="episode", desc=f"{config.policy} {company.views.name}") as bar:
        if config.workers == 1 or len(seeds) == 1:
            _work(config, company, iter(seeds), bar.update)
            return
        context = _context()
        given = context.Value("i", 0)
        done = context.Value("i", 0)
        # A spawned process makes everything anew; a forked one finds it made.
        inherited = company if context.get_start_method() == "fork" else None
        processes = [
            context.Process(target=_worker, args=(config, inherited, list(seeds), given, done), daemon=True)
            for _ in range(min(config.workers, len(seeds)))
        ]
        for process in processes:
            process.start()
        try:
            while any(process.is_alive() for process in processes):
                time.sleep(0.1)
                if done.value > bar.n:
                    bar.update(done.value - bar.n)
            bar.update(done.value - bar.n)
        finally:
            for process in processes:
                process.terminate()
                process.join()
    dead = [process.exitcode for process in processes if process.exitcode]
    if dead:
        raise PolicyError(
            f"{len(dead)} of {len(processes)} worker processes ended with code {dead[0]}; finished episodes are kept: "
            "type the same command again, with --workers 1 to see the error itself"
        )


def _worker(config: RolloutConfig, company: Company | None, seeds: list[int], given: Any, done: Any) -> None:
    parent = os.getppid()

    def taken() -> Iterator[int]:
        while os.getppid() == parent:  # nobody is left to play for once the command itself was killed
            with given.get_lock():
                index, given.value = given.value, given.value + 1
            if index >= len(seeds):
                return
            yield seeds[index]

    def finished(number: int) -> None:
        with done.get_lock():
            done.value += number

    try:
        _work(config, company or prepare(config), taken(), finished)
    except KeyboardInterrupt:
        sys.exit(130)
    except (Geo4DError, OSError) as error:
        print(f"worker: {error}", file=sys.stderr)
        sys.exit(2)


def _work(config: RolloutConfig, company: Company, seeds: Iterator[int], finished: Any) -> None:
    """Play ``seeds`` in this process."""
    import dataclasses

    from geo4d_bench import tasks
    from geo4d_bench.rendering.renderer import Renderer

    _one_thread(config.policy)
    stage, factory, number = company.stage, company.factory, side_by_side(config, company.factory)
    renderers: list[Renderer] = []
    if factory.needs_images:
        height, width = factory.image_size or (config.height, config.width)
        renderers.append(Renderer(stage.scene, height, width))
        stage = dataclasses.replace(stage, renderer=renderers[0])
    film_renderer = None
    if config.video:
        film_renderer = Renderer(stage.scene, *FILM_SIZE, quality=True)
        renderers.append(film_renderer)
    while len(company.tasks) < number:
        company.tasks.append(tasks.make(config.task))
    simulators = [
        Simulator(task, SPLIT, company.views, stage, company.run.settings["sensor"]) for task in company.tasks[:number]
    ]
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


def _context() -> ForkContext | SpawnContext:
    """Fork where it is safe, for it saves each process all of the loading; a process that has drawn with OpenGL or
    computed on a GPU cannot be continued in a child."""
    egl = sys.modules.get("mujoco.egl")
    torch = sys.modules.get("torch")
    drawn = egl is not None and getattr(egl, "EGL_DISPLAY", None) is not None
    on_gpu = torch is not None and torch.cuda.is_initialized()
    can_fork = sys.platform.startswith("linux") and not drawn and not on_gpu
    return multiprocessing.get_context("fork") if can_fork else multiprocessing.get_context("spawn")
