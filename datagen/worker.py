"""What one worker process does: make the episode with a given number. Its result depends on nothing else."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geo4d_bench.dataset.hands import save_hand
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings
from geo4d_bench.dataset.schema import EPISODES, HANDS, SCENES, episode_name
from geo4d_bench.errors import DatasetError
from geo4d_bench.seeding import Split

ATTEMPTS = 20
"""Seeds tried for one episode before giving up."""
SEEDS_AN_EPISODE = 100
SEEDS_A_RUN = 1_000_000


@dataclass(frozen=True)
class Job:
    """Episode ``index`` of the dataset in ``folder``."""

    folder: Path
    index: int
    settings: Settings


def episode_seeds(seed: int, index: int) -> range:
    """The seeds that episode ``index`` may try: a block of its own, whoever makes the episode and when."""
    first = seed * SEEDS_A_RUN + index * SEEDS_AN_EPISODE
    return range(first, first + ATTEMPTS)


def is_disturbed(index: int, share: float) -> bool:
    """Whether episode ``index`` is a disturbed one: of the first n, the share of n rounded down are."""
    return int((index + 1) * share + 1e-9) > int(index * share + 1e-9)


def make_episode(job: Job) -> str:
    """Collect, render and write one episode; returns the file's name.

    Raises:
        DatasetError: the expert failed with every seed of the block, or the disk is full.
    """
    from geo4d_bench.datagen.collect import collect
    from geo4d_bench.datagen.render import render_episode

    settings = job.settings
    tools = _tools(settings)
    path = job.folder / EPISODES / episode_name(job.index)
    split: Split = "eval" if settings.split == "eval" else "train"
    failed: list[tuple[int, str]] = []
    for seed in episode_seeds(settings.seed, job.index):
        disturbed = is_disturbed(job.index, settings.disturbed_share)
        attempt = collect(tools.task, seed, split, disturbed=disturbed, scene=tools.bundle.sha256)
        if attempt.trajectory is None:
            failed.append((seed, attempt.failure))
            continue
        _save_shared(job.folder, tools)
        render_episode(
            path,
            attempt.trajectory,
            tools.renderer,
            settings.cameras(seed),
            video_hz=settings.video_hz,
            notes={"failed_attempts": failed},
        )
        return path.name
    reasons = "; ".join(sorted({why for _, why in failed}))
    raise DatasetError(
        f"{path.name}: the expert failed with {len(failed)} seeds from {failed[0][0]} ({reasons}); "
        "give another --seed, or a smaller --disturbed-share"
    )


def restore_scene(folder: Path, manifest: Manifest) -> None:
    """Pack the scene, and measure the hands, of a dataset that lost them.

    Raises:
        DatasetError: the scene that this machine packs is not the one that the episodes name.
    """
    settings = manifest.settings
    tools = _tools(settings)
    lost = {e.scene for e in manifest.episodes if not (folder / SCENES / f"{e.scene}.zip").is_file()}
    if lost - {tools.bundle.sha256}:
        raise DatasetError(
            f"{folder / SCENES / min(lost)}.zip is missing or damaged, and these versions of the packages make another "
            "scene: copy it back, or make the dataset anew in another --out"
        )
    _save_shared(folder, tools)


def require_own_seeds(folder: Path, entries: Sequence[EpisodeEntry], settings: Settings) -> None:
    """DatasetError where an episode's seed is not of the block that belongs to its number."""
    for entry in entries:
        index = int(entry.file.removeprefix("ep_").removesuffix(".hdf5"))
        if entry.seed not in episode_seeds(settings.seed, index):
            raise DatasetError(
                f"{folder / EPISODES / entry.file} belongs to another dataset (seed {entry.seed}): move it away and "
                "run the same command again"
            )


def _save_shared(folder: Path, tools: _Tools) -> None:
    tools.bundle.save(folder / SCENES)
    for arm, hand in tools.hands.items():
        target = folder / HANDS / f"{arm}.npz"
        if not target.exists():
            save_hand(target, hand)


@dataclass(frozen=True)
class _Tools:
    """What a process builds once: the simulation, its packed scene, the renderer and the hands."""

    task: Any
    bundle: Any
    renderer: Any
    hands: dict[str, Any]


_TOOLS: dict[tuple[str, str, int, int, float], _Tools] = {}


def release_tools() -> None:
    """Free what this process built for its last episode: a simulation and an OpenGL context."""
    for tools in _TOOLS.values():
        tools.renderer.close()
    _TOOLS.clear()
    gc.collect()  # simulations refer to themselves, and hold 100 MB each


def _tools(settings: Settings) -> _Tools:
    """Built on the first episode of a process; one task's simulation and OpenGL context serve all that follow."""
    from geo4d_bench import tasks
    from geo4d_bench.rendering.hand import hand_model
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rendering.scene import load_scene, pack_scene

    key = (settings.task, settings.version, settings.height, settings.width, settings.max_depth_m)
    if key not in _TOOLS:
        release_tools()
        task = tasks.make(settings.task)
        task.reset(0, "train")
        bundle = pack_scene(task.scene_xml(), arms=settings.arms)
        scene = load_scene(bundle)
        hands = {arm: hand_model(scene, arm) for arm in settings.arms}
        renderer = Renderer(scene, settings.height, settings.width, max_depth_m=settings.max_depth_m)
        _TOOLS[key] = _Tools(task, bundle, renderer, hands)
    return _TOOLS[key]
