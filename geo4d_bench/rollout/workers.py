"""The processes of a rollout: each plays the episodes that it is given; this one alone writes what they did."""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geo4d_bench.io import write_atomic
from geo4d_bench.pool import one_thread, run_jobs
from geo4d_bench.rollout.config import SPLIT, RolloutConfig, Run, describe, load_policy
from geo4d_bench.rollout.episodes import Episode, play
from geo4d_bench.rollout.ledger import EpisodeRow, Ledger
from geo4d_bench.rollout.recording import FILM_SIZE, Film, trajectory_file
from geo4d_bench.rollout.simulator import Simulator
from geo4d_bench.rollout.views import Views, resolve

if TYPE_CHECKING:
    from geo4d_bench.policies import PolicyFactory
    from geo4d_bench.rendering.renderer import Renderer


@dataclass(frozen=True)
class RolloutContext:
    """What a process plays with, except for what must be its own: simulations and the OpenGL context.

    Attributes:
        run: what decides the rows.  factory: makes policies.  views: what camera pairs are drawn from.
    """

    run: Run
    factory: PolicyFactory
    views: Views


def prepare(config: RolloutConfig) -> RolloutContext:
    """Load what decides the rows; what is cheap to check comes first, so that mistakes are told at once."""
    from geo4d_bench import tasks
    from geo4d_bench.tasks.rigs import make_rig

    spec = tasks.spec(config.task)
    tasks.require_robosuite()
    views = resolve(config.views, make_rig(config.rig, spec.workspace))
    factory = load_policy(config)
    return RolloutContext(describe(config, factory, spec.version), factory, views)


@dataclass(frozen=True)
class _Job:
    """Episodes that are played side by side."""

    config: RolloutConfig
    run: Run
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class _Played:
    """One episode's row, and what is written beside the ledger: files by their path in the folder, and lines of
    ``crashes.log``."""

    row: EpisodeRow
    files: dict[str, bytes] = field(repr=False)
    crash: str


def play_all(config: RolloutConfig, context: RolloutContext, seeds: Sequence[int]) -> None:
    """Play the episodes of ``seeds``, and write each as it ends; WorkerError where a process died."""
    from tqdm import tqdm

    # Each process loads the policy for itself; here the loaded one is used.
    _TOOLS.clear()
    if config.workers == 1 and config.cluster is None:
        _TOOLS[context.run.run_id] = _make_tools(config, context)
    together = config.side_by_side if context.factory.policy.needs_checkpoint else 1
    jobs = [_Job(config, context.run, tuple(seeds[i : i + together])) for i in range(0, len(seeds), together)]
    ledger = Ledger(config.folder / "episodes.csv")
    try:
        with tqdm(total=len(seeds), unit="episode", desc=f"{config.policy} {context.views.name}") as bar:
            for played in run_jobs(_play, jobs, config.workers, config.cluster):
                for episode in played:
                    _write(config, ledger, episode)
                    bar.update()
    finally:
        _release_tools()


def _write(config: RolloutConfig, ledger: Ledger, played: _Played) -> None:
    """The files first: an episode that stands in the ledger has them."""
    for name, content in played.files.items():
        write_atomic(config.folder / name, content)
    if played.crash:
        with (config.folder / "crashes.log").open("a", encoding="utf-8") as log:
            log.write(played.crash)
    ledger.append(played.row)


@dataclass(frozen=True)
class _Tools:
    """What a process builds once: simulations, the OpenGL contexts, and the policy."""

    context: RolloutContext
    simulators: list[Simulator]
    renderers: list[Renderer]
    film_renderer: Renderer | None


_TOOLS: dict[str, _Tools] = {}
"""Of the run that this process plays, by its id."""


def _release_tools() -> None:
    for tools in _TOOLS.values():
        for renderer in tools.renderers:
            renderer.close()
    _TOOLS.clear()
    gc.collect()  # simulations refer to themselves, and hold 100 MB each


def _make_tools(config: RolloutConfig, context: RolloutContext) -> _Tools:
    from geo4d_bench import tasks
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rollout.assets import make_assets

    factory = context.factory
    task = tasks.make(config.task)
    assets = make_assets(task)
    renderers: list[Renderer] = []
    if factory.policy.needs_images:
        height, width = factory.image_size or (config.height, config.width)
        renderers.append(Renderer(assets.scene, height, width))
        assets = dataclasses.replace(assets, renderer=renderers[0])
    film_renderer = None
    if config.video:
        film_renderer = Renderer(assets.scene, *FILM_SIZE, quality=True)
        renderers.append(film_renderer)
    simulator = Simulator(task, SPLIT, context.views, assets, context.run.settings["sensor"])
    return _Tools(context, [simulator], renderers, film_renderer)


def _play(job: _Job) -> list[_Played]:
    """Play a job's episodes in this process; their rows depend on nothing else."""
    from geo4d_bench import tasks

    config = job.config
    if job.run.run_id not in _TOOLS:
        _release_tools()
        context = dataclasses.replace(prepare(config), run=job.run)
        _TOOLS[job.run.run_id] = _make_tools(config, context)
    tools = _TOOLS[job.run.run_id]
    first = tools.simulators[0]
    while len(tools.simulators) < len(job.seeds):  # no more than are ever stepped side by side
        tools.simulators.append(
            Simulator(tasks.make(config.task), SPLIT, first.views, first.assets, job.run.settings["sensor"])
        )
    played: list[_Played] = []

    def finish(episode: Episode) -> None:
        files = {}
        if episode.crash is None:
            files[f"trajectories/{episode.seed}.npz"] = trajectory_file(episode.simulator)
            if episode.film is not None:
                files[f"videos/{episode.seed}.mp4"] = episode.film.file()
        played.append(_Played(_row(config, tools.context, episode), files, _crash_text(episode)))

    film = tools.film_renderer
    torch_is_used = "torch" in sys.modules or tools.context.factory.policy.needs_checkpoint
    with one_thread() if torch_is_used else nullcontext():
        play(
            iter(job.seeds), tools.simulators[: len(job.seeds)], tools.context.factory, finish,
            (lambda simulator: Film(simulator, film)) if film is not None else None,
        )  # fmt: skip
    return played


def _row(config: RolloutConfig, context: RolloutContext, episode: Episode) -> EpisodeRow:
    from geo4d_bench.fingerprint import commit

    simulator, settings, status = episode.simulator, context.run.settings, episode.status
    assert status is not None
    try:
        phase = simulator.task.phase()
    except Exception:  # a task that crashed in its reset has none
        phase = "start"
    return EpisodeRow(
        run_id=context.run.run_id,
        settings=context.run.settings_id,
        task=settings["task"],
        task_version=settings["task_version"],
        policy=settings["policy"],
        generator=settings["generator"],
        ablation=settings["ablation"],
        checkpoint=settings["checkpoint"],
        views=context.views.name,
        rig=context.views.training.name,
        camera_n=simulator.cameras[0].name,
        camera_m=simulator.cameras[1].name,
        view_angle_deg=simulator.view_angle_deg,
        sensor=settings["sensor"],
        steps=settings["options"].get("steps") or 0,
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
        privileged=context.factory.policy.privileged,
        fingerprint=settings["fingerprint"],
        commit=commit(),
    )


def _crash_text(episode: Episode) -> str:
    if episode.crash is None:
        return ""
    return f"seed {episode.seed}, control step {episode.simulator.control_steps}\n{episode.crash}\n"
