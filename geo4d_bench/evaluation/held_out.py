"""The windows that generators are scored on: a pure function of the dataset, the seed and a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.geometry.hand import hand_mask
from geo4d_bench.geometry.rig import off_pose
from geo4d_bench.geometry.se3 import inverse
from geo4d_bench.options import Count, check_ranges
from geo4d_bench.seeding import Seed, generator

if TYPE_CHECKING:
    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.dataset.windows import Windows

ViewChoice = Literal["seen", "novel", "both"]


@dataclass(frozen=True)
class HeldOutOptions:
    """Which windows: the options of every command that uses them."""

    data: Path = Path("data/store_cereal_eval")
    """A dataset of the eval split, rendered from seen and novel cameras."""
    views: ViewChoice = "both"
    """Which cameras the windows are seen from."""
    windows: Count = 64
    """Windows of each choice of views."""
    seed: Seed = 0
    """Chooses the windows, with one seed the same ones for every command, and the generator's noise."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def splits(self) -> tuple[ViewSplit, ...]:
        """``both`` is seen first, then novel."""
        return ("seen", "novel") if self.views == "both" else (self.views,)

    @property
    def keys(self) -> list[tuple[ViewSplit, int]]:
        """(views, index) of all windows."""
        return [(v, i) for v in self.splits for i in range(self.windows)]

    def open(self, allow_train_data: bool = False) -> Dataset:
        """The dataset.

        Raises:
            DatasetError: it is not there, damaged, or of the train split and that is not allowed.
        """
        from geo4d_bench.dataset.reader import Dataset

        dataset = Dataset(self.data)
        settings = dataset.manifest.settings
        if settings.split != "eval" and not allow_train_data:
            raise DatasetError(
                f"{self.data}: its episodes are of the '{settings.split}' split, expected 'eval'; give a dataset "
                f"that 'geo4d-bench datagen --task {settings.task_name} --split eval' made "
                "(evaluate takes --allow-train-data, too)"
            )
        return dataset


class HeldOut:
    """The windows of a dataset, numbered: window i of a choice of views is a pure function of the seed and i.

    Args:
        frames, dt_s: predicted frames T, and the seconds between them.
        sensor: how first frames are measured.  calibrated: whether the poses of both cameras are given.
        second_views: further cameras beside the reference.
        calibration: by how many degrees and centimetres the poses are off that are told.

    Raises:
        ConfigError: no window of that length fits, or the dataset lacks such cameras.
    """

    def __init__(
        self,
        dataset: Dataset,
        views: Sequence[ViewSplit],
        seed: int,
        frames: int,
        dt_s: float,
        sensor: SensorName = "perfect",
        second_views: int = 1,
        calibrated: bool = False,
        calibration: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        from geo4d_bench.dataset.windows import Windows

        settings = dataset.manifest.settings
        self._key, self._seed, self._second_views = f"{settings.task}-{settings.version}", seed, second_views
        # Nothing is remembered: each window is looked at once.
        self._off = calibration
        self._hands = [dataset.hand(arm) for arm in dataset.arms]
        self._true, self._measured = (
            {
                v: Windows(dataset, v, horizon=frames, dt_s=dt_s, remember_bytes=0, sensor=s, both_poses=calibrated)
                for v in views
            }
            for s in ("perfect", sensor)
        )
        for v, windows in self._true.items():
            if len(windows.cameras) <= second_views:
                raise ConfigError(
                    f"{second_views} second views, but {v} has {len(windows.cameras)} cameras, one of which is "
                    "the reference; give fewer, or other views"
                )

    def window(self, views: ViewSplit, index: int) -> Window:
        """Window ``index``: a start and an ordered pair of cameras, drawn at random."""
        return self._true[views].sample(self._rng("window", views, index))

    def pairs(self, views: ViewSplit, index: int) -> list[Window]:
        """The window, and the same start and view n with further views m."""
        return self._pairs(self._true[views], views, index)

    def given(self, views: ViewSplit, index: int) -> list[Window]:
        """The same as a sensor measures it (docs/sensors.md), with the poses that are told: its first frames, and the
        hands before them, are what a generator is given."""
        pairs = self._pairs(self._measured[views], views, index)
        return [self._told(pair, views, index) for pair in pairs] if any(self._off) else pairs

    def _told(self, window: Window, views: ViewSplit, index: int) -> Window:
        """The window as faulty poses of its cameras make it appear: hands, which are known in the world, elsewhere in
        camera n's frame, and view m elsewhere about view n."""
        turn_deg, shift_cm = self._off
        true = window.T_world_n, window.T_world_n @ window.T_n_m
        T_world_n, T_world_m = (
            off_pose(T, turn_deg, 0.01 * shift_cm, self._rng(f"calibration/{camera}", views, index))
            for T, camera in zip(true, window.cameras, strict=True)
        )
        T_n_ee = inverse(T_world_n) @ window.T_world_n @ window.T_n_ee
        mask = hand_mask(window.points[0, 0], list(zip(self._hands, T_n_ee[:, 0], window.opening_m[:, 0], strict=True)))
        return replace(window, T_world_n=T_world_n, T_n_m=inverse(T_world_n) @ T_world_m, T_n_ee=T_n_ee, hand_mask=mask)

    def _pairs(self, windows: Windows, views: ViewSplit, index: int) -> list[Window]:
        first = windows.sample(self._rng("window", views, index))
        rng = self._rng("company", views, index)
        others = rng.permutation([name for name in windows.cameras if name not in first.cameras])
        episode = [file.name for _, file in windows.episodes].index(first.episode)
        further = [str(m) for m in others[: self._second_views - 1]]
        return [first, *(windows.window(episode, first.start, first.cameras[0], m, rng) for m in further)]

    def _rng(self, stream: str, views: ViewSplit, index: int) -> np.random.Generator:
        return generator(self._key, "eval", self._seed, f"evaluate/{stream}/{views}/{index}")
