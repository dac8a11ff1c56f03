"""The processes of a rollout: each plays the episodes that it is given; this one alone writes what they did."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from geo4d_bench.fingerprint import commit
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.rig import Rig, pair_geometry
from geo4d_bench.geometry.room import draw_room
from geo4d_bench.io import naming, write_atomic
from geo4d_bench.pool import one_thread, run_jobs
from geo4d_bench.rollout import episodes
from geo4d_bench.rollout.config import SPLIT, RolloutConfig, RolloutContext, prepare
from geo4d_bench.rollout.episodes import Episode, play
from geo4d_bench.rollout.ledger import EpisodeRow, Ledger, RunColumns
from geo4d_bench.rollout.recording import FILM_SIZE, trajectory_file
from geo4d_bench.rollout.simulator import Simulator
from geo4d_bench.tasks import Task

MEASURED_PLANS = 10


@dataclass(frozen=True)
class _Played:
    """One episode's row, files by their path in the folder, and lines of ``crashes.log``."""

    row: EpisodeRow
    files: dict[str, bytes]
    crash: str


def play_all(context: RolloutContext, seeds: Sequence[int]) -> None:
    """Play the episodes of ``seeds``, and write each as it ends; WorkerError where a process died."""
    from tqdm import tqdm

    config, together = context.config, context.settings["side_by_side"]
    # Each process loads the policy for itself; here the loaded one is used.
    _PLAYERS.clear()
    if config.workers == 1 and config.cluster is None:
        _PLAYERS[context.run_id] = _Player(context)
    jobs = [tuple(seeds[i : i + together]) for i in range(0, len(seeds), together)]
    ledger = Ledger(config.ledger)
    try:
        with tqdm(total=len(seeds), unit="episode", desc=f"{context.columns.policy} {context.views.name}") as bar:
            work = functools.partial(_play, config, context.run_id, context.columns)
            for played in run_jobs(work, jobs, config.workers, config.cluster):
                for episode in played:
                    _write(config, ledger, episode)
                    bar.update()
    finally:
        _release_players()


def measure_latency_s(context: RolloutContext) -> float:
    """How long a plan takes on this machine, with nothing else running: the median of ``MEASURED_PLANS``."""
    player = _Player(context)
    try:
        return episodes.measure_latency_s(context.config.seed, player.simulators[0], context.factory, MEASURED_PLANS)
    finally:
        player.close()


def _write(config: RolloutConfig, ledger: Ledger, played: _Played) -> None:
    """The files first: an episode that stands in the ledger has them."""
    for name, content in played.files.items():
        write_atomic(config.folder / name, content)
    if played.crash:
        path = config.folder / "crashes.log"
        with naming(path), path.open("a", encoding="utf-8") as log:
            log.write(played.crash)
    ledger.append(played.row)


class _Player:
    """What a process builds once for a run: simulations, the OpenGL contexts, and the policy."""

    def __init__(self, context: RolloutContext) -> None:
        from geo4d_bench import tasks
        from geo4d_bench.rendering.renderer import Renderer
        from geo4d_bench.rollout.assets import make_assets

        self.context = context
        task = tasks.make(context.config.task)
        self.assets = make_assets(task, context.config.rooms)
        self.film_renderer = None
        if size := context.settings["image_size"]:
            self.assets = replace(self.assets, renderer=Renderer(self.assets.scene, *size))
        if context.config.video:
            self.film_renderer = Renderer(self.assets.scene, *FILM_SIZE, quality=True)
        self.simulators = [self._simulator(task)]
        views, key = context.views, task.spec.key
        if isinstance(views.rig, Rig):
            self._require_sight(context.config.seed, views.cameras(key, SPLIT, context.config.seed))

    def _require_sight(self, seed: int, cameras: Sequence[Camera]) -> None:
        """SceneError where one sees nothing at the start of the seed's episode; without images none is asked."""
        if renderer := self.assets.renderer or self.film_renderer:
            task = self.simulators[0].task
            task.reset(seed, SPLIT)
            room = draw_room(self.context.config.rooms, task.spec.key, SPLIT, seed)
            renderer.require_sight(task.physics_state(), cameras, room)

    def _simulator(self, task: Task) -> Simulator:
        columns, settings = self.context.columns, self.context.settings
        calibration = columns.calibration_deg, columns.calibration_cm
        sensor, rooms = settings["sensor"], settings["rooms"]
        views, latency_s = self.context.views, columns.latency_s
        return Simulator(task, SPLIT, views, self.assets, sensor, rooms, calibration, latency_s)

    def play(self, seeds: Sequence[int]) -> list[_Played]:
        """The episodes of ``seeds``, side by side."""
        from geo4d_bench import tasks

        views, key = self.context.views, self.simulators[0].task.spec.key
        changes = not isinstance(views.rig, Rig) or self.context.config.rooms != "fixed"
        for seed in seeds if changes else ():
            self._require_sight(seed, views.pair(key, SPLIT, seed))
        while len(self.simulators) < len(seeds):  # no more than are ever stepped side by side
            self.simulators.append(self._simulator(tasks.make(self.context.config.task)))
        factory = self.context.factory
        torch_is_used = "torch" in sys.modules or factory.policy.needs_checkpoint
        with one_thread() if torch_is_used else nullcontext():
            played = play(seeds, self.simulators[: len(seeds)], factory, self.film_renderer)
            return [self._played(episode) for episode in played]

    def close(self) -> None:
        for renderer in (self.assets.renderer, self.film_renderer):
            if renderer is not None:
                renderer.close()

    def _played(self, episode: Episode) -> _Played:
        row = self._row(episode)
        if episode.crash is not None:
            return _Played(row, {}, f"seed {row.seed}, control step {row.control_steps}\n{episode.crash}\n")
        files = {f"trajectories/{row.seed}.npz": trajectory_file(episode.simulator)}
        if episode.film is not None:
            files[f"videos/{row.seed}.mp4"] = episode.film.file()
        return _Played(row, files, "")

    def _row(self, episode: Episode) -> EpisodeRow:
        simulator, status = episode.simulator, episode.status
        assert status is not None
        try:
            phase = simulator.task.phase()
        except Exception:  # a task that crashed in its reset has none
            phase = "start"
        n_and_m, config = simulator.cameras, self.context.config
        height, width = self.context.settings["image_size"] or (config.height, config.width)
        geometry = pair_geometry(
            [camera.T_world_cam for camera in n_and_m],
            [camera.K(height, width) for camera in n_and_m],
            height,
            self.context.views.training.target,
        )
        steps, waited = max(simulator.control_steps, 1), simulator.late > 0
        return EpisodeRow(
            **vars(self.context.columns),
            **geometry._asdict(),
            run_id=self.context.run_id,
            camera_n=n_and_m[0].name,
            camera_m=n_and_m[1].name,
            view_angle_deg=simulator.view_angle_deg,
            split=SPLIT,
            seed=episode.seed,
            episode=episode.seed - self.context.config.seed,
            status=status,
            success=status == "success",
            phase=phase,
            plans=episode.plans,
            control_steps=simulator.control_steps,
            wall_s=episode.wall_s,
            generate_ms=episode.mean_ms("generate_ms"),
            track_ms=episode.mean_ms("track_ms"),
            commit=commit(),
            stale_share=simulator.stale_steps / steps if waited else None,
            idle_share=simulator.idle_steps / steps if waited else None,
            plan_hz=episode.plans / steps * simulator.task.spec.control_hz if waited else None,
        )


_PLAYERS: dict[str, _Player] = {}
"""Of the run that this process plays, by its id."""


def _release_players() -> None:
    for player in _PLAYERS.values():
        player.close()
    _PLAYERS.clear()
    gc.collect()  # simulations refer to themselves, and hold 100 MB each


def _play(config: RolloutConfig, run_id: str, columns: RunColumns, seeds: Sequence[int]) -> list[_Played]:
    """Play episodes in this process; their rows depend on nothing else."""
    if run_id not in _PLAYERS:
        _release_players()
        _PLAYERS[run_id] = _Player(replace(prepare(config), run_id=run_id, columns=columns))
    return _PLAYERS[run_id].play(seeds)
