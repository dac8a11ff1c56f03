"""The windows that generators are scored on: a pure function of the dataset, the seed and a number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.seeding import derive_seed, generator

if TYPE_CHECKING:
    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.dataset.windows import Windows

Views = Literal["seen", "novel", "both"]


def open_held_out(folder: Path, allow_train_data: bool = False) -> Dataset:
    """The dataset in a folder; DatasetError where it is of the train split and that is not wanted."""
    from geo4d_bench.dataset.reader import Dataset

    dataset = Dataset(folder)
    settings = dataset.manifest.settings
    if settings.split != "eval" and not allow_train_data:
        raise DatasetError(
            f"{folder}: its episodes are of the '{settings.split}' split, expected 'eval'; give a dataset "
            f"that 'geo4d-bench datagen --task {settings.task} --split eval' made "
            "(evaluate takes --allow-train-data, too)"
        )
    return dataset


def view_splits(views: Views) -> tuple[ViewSplit, ...]:
    """``both`` is seen first, then novel."""
    return ("seen", "novel") if views == "both" else (views,)


def noise_seed(seed: int, views: str, index: int) -> int:
    """The seed of a generator's noise for window ``index``."""
    return derive_seed("evaluation", "eval", seed, f"generate/{views}/{index}")


class HeldOut:
    """The windows of a dataset, numbered: window i of a choice of views is a pure function of the seed and i.

    Args:
        dataset: from :func:`open_held_out`.
        views: which cameras.
        seed: chooses the windows.
        frames, dt_s: predicted frames T, and the seconds between them.
        sensor: how first frames are measured.
        second_views: further cameras beside the reference.
        calibrated: whether the poses of both cameras are given.

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
    ) -> None:
        from geo4d_bench.dataset.windows import Windows

        settings = dataset.manifest.settings
        self.split, self.seed, self.identity = settings.split, seed, dataset.identity
        self._key, self._second_views = f"{settings.task}-{settings.version}", second_views
        # Nothing is remembered: each window is looked at once.
        self._true, self._measured = (
            {
                v: Windows(dataset, v, horizon=frames, dt_s=dt_s, remember_bytes=0, sensor=s, both_poses=calibrated)
                for v in views
            }
            for s in ("perfect", sensor)
        )
        for v in views:
            if len(self._true[v].cameras) <= second_views:
                raise ConfigError(
                    f"{second_views} second views, but {v} has {len(self._true[v].cameras)} cameras, one of which is "
                    "the reference; give fewer, or other views"
                )

    def window(self, views: ViewSplit, index: int) -> Window:
        """Window ``index``: a start and an ordered pair of cameras, drawn at random."""
        return self._true[views].sample(self._rng(views, index))

    def pairs(self, views: ViewSplit, index: int) -> list[Window]:
        """The window, and the same start and view n with further views m."""
        return self._with_company(self._true[views], views, index)

    def given(self, views: ViewSplit, index: int) -> list[Window]:
        """The same as a sensor measures it (docs/sensors.md): its first frames are what a generator is given."""
        return self._with_company(self._measured[views], views, index)

    def _with_company(self, windows: Windows, views: ViewSplit, index: int) -> list[Window]:
        first = windows.sample(self._rng(views, index))
        if self._second_views == 1:
            return [first]
        others = [name for name in windows.cameras if name not in first.cameras]
        rng = generator(self._key, "eval", self.seed, f"evaluate/company/{views}/{index}")
        episode = [file.name for _, file in windows.episodes].index(first.episode)
        names = rng.permutation(others)[: self._second_views - 1]
        return [first, *(windows.window(episode, first.start, first.cameras[0], str(m), rng) for m in names)]

    def _rng(self, views: ViewSplit, index: int) -> np.random.Generator:
        return generator(self._key, "eval", self.seed, f"evaluate/window/{views}/{index}")
