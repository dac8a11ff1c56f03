"""What one worker process does: make the episode with a given number. Its result depends on nothing else."""

from __future__ import annotations

import functools
import gc
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from geo4d_bench.dataset.hands import save_hand
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings
from geo4d_bench.dataset.schema import EPISODES, HANDS, SCENES, episode_name
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.room import RoomsName
from geo4d_bench.io import write_atomic
from geo4d_bench.seeding import Split

if TYPE_CHECKING:
    from geo4d_bench.rendering.renderer import Renderer

ATTEMPTS = 20
"""Seeds tried for one episode before giving up."""
SEEDS_AN_EPISODE = 100
SEEDS_A_RUN = 1_000_000


def episode_seeds(seed: int, index: int) -> range:
    """The seeds that episode ``index`` may try: a block of its own."""
    first = seed * SEEDS_A_RUN + index * SEEDS_AN_EPISODE
    return range(first, first + ATTEMPTS)


def is_disturbed(index: int, share: float) -> bool:
    """Whether episode ``index`` is a disturbed one: of the first n, the share of n rounded down are."""
    return int((index + 1) * share + 1e-9) > int(index * share + 1e-9)


def make_episode(folder: Path, settings: Settings, index: int) -> str:
    """Collect, render and write episode ``index`` of the dataset in ``folder``; returns the file's name.

    Raises:
        DatasetError: the expert failed with every seed of the block, or the disk is full.
        SceneError: a camera sees nothing; found before anything is simulated.
    """
    from geo4d_bench.datagen.collect import collect
    from geo4d_bench.datagen.render import render_episode

    tools = _tools(settings.task_name, settings.height, settings.width, settings.max_depth_m, settings.rooms)
    path = folder / EPISODES / episode_name(index)
    split: Split = "eval" if settings.split == "eval" else "train"
    disturbed = is_disturbed(index, settings.disturbed_share)
    renderer = tools.renderer if settings.views == "all" else None
    if renderer is not None:
        first = episode_seeds(settings.seed, index)[0]
        renderer.require_sight(tools.start, settings.cameras(first), settings.room(first))
    failed: list[tuple[int, str]] = []
    for seed in episode_seeds(settings.seed, index):
        found = collect(tools.task, seed, split, disturbed=disturbed, scene=tools.scene_sha256)
        if isinstance(found, str):
            failed.append((seed, found))
            continue
        tools.save_shared(folder)
        render_episode(path, found, renderer, settings, {"failed_attempts": failed})
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
    tools = _tools(settings.task_name, settings.height, settings.width, settings.max_depth_m, settings.rooms)
    lost = {e.scene for e in manifest.episodes if not (folder / SCENES / f"{e.scene}.zip").is_file()}
    if lost - {tools.scene_sha256}:
        raise DatasetError(
            f"{folder / SCENES / min(lost)}.zip is missing or damaged, and these versions of the packages make another "
            "scene: copy it back, or make the dataset anew in another --out"
        )
    tools.save_shared(folder)


def require_own_seed(folder: Path, entry: EpisodeEntry, settings: Settings) -> None:
    """DatasetError where an episode's seed is not of the block that belongs to its number."""
    index = int(entry.file.removeprefix("ep_").removesuffix(".hdf5"))
    if entry.seed not in episode_seeds(settings.seed, index):
        raise DatasetError(
            f"{folder / EPISODES / entry.file} belongs to another dataset (seed {entry.seed}): move it away and run "
            "the same command again"
        )


class _Tools:
    """What serves all episodes of a process: a task's simulation, its packed scene, the hands, and what draws them."""

    def __init__(self, task_id: str, height: int, width: int, max_depth_m: float, rooms: RoomsName) -> None:
        from geo4d_bench import tasks
        from geo4d_bench.tasks.assets import packed_assets

        self.task = tasks.make(task_id)
        self.task.reset(0, "train")
        self.start = self.task.physics_state()
        self.packed_scene, self.hands = packed_assets(self.task, self.task.spec.arms)
        self.scene_sha256 = hashlib.sha256(self.packed_scene).hexdigest()
        self._image, self._rooms = (height, width, max_depth_m), rooms

    @functools.cached_property
    def renderer(self) -> Renderer:
        """Made where images are, for it needs OpenGL."""
        from geo4d_bench.rendering.renderer import Renderer
        from geo4d_bench.rendering.rooms import load_scene_for

        height, width, max_depth_m = self._image
        return Renderer(load_scene_for(self.packed_scene, self._rooms), height, width, max_depth_m=max_depth_m)

    def save_shared(self, folder: Path) -> None:
        """Write the scene and hands that are not in the dataset yet."""
        scene = folder / SCENES / f"{self.scene_sha256}.zip"
        if not scene.exists():
            write_atomic(scene, self.packed_scene)
        for arm, hand in self.hands.items():
            target = folder / HANDS / f"{arm}.npz"
            if not target.exists():
                save_hand(target, hand)


_tools = functools.lru_cache(maxsize=1)(_Tools)


def release_tools() -> None:
    """Free what this process built for its last episode: a simulation and an OpenGL context."""
    _tools.cache_clear()
    gc.collect()  # simulations refer to themselves, and hold 100 MB each
