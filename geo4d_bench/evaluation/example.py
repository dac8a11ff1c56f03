"""One window, true and generated, as a file: what the report's film strips are drawn from."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import DatasetError
from geo4d_bench.io import atomic

_ARRAYS = ("first_rgb", "first_depth", "first_hand", "rgb", "depth", "hand", "cameras", "numbers", "texts")


@dataclass(frozen=True)
class Example:
    """A window's frames; axis 0 of ``rgb``, ``depth``, ``hand`` is (true, generated), axis 1 the views (n, m).

    Attributes:
        first_rgb: (2, H, W, 3) uint8.  first_depth: (2, H, W) float32 metres.  first_hand: (2, H, W) bool.
        rgb: (2, 2, T, H, W, 3) uint8.
        depth: (2, 2, T, H, W) float32 metres along camera n's axis in both views, NaN where invalid.
        hand: (2, 2, T, H, W) bool.
        dt_s: seconds between frames.
        gripper_cm: this window's gripper error.
        episode, start, cameras, views: where it is from.
        chosen: how this window was chosen, for the caption.
    """

    first_rgb: npt.NDArray[np.uint8]
    first_depth: npt.NDArray[np.float32]
    first_hand: npt.NDArray[np.bool_]
    rgb: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    hand: npt.NDArray[np.bool_]
    dt_s: float
    gripper_cm: float
    episode: str
    start: int
    cameras: tuple[str, str]
    views: str
    chosen: str

    def save(self, path: Path) -> None:
        """Write a compressed npz, to a temporary name first."""
        with atomic(path) as part:
            np.savez_compressed(
                part,
                first_rgb=self.first_rgb,
                first_depth=self.first_depth,
                first_hand=self.first_hand,
                rgb=self.rgb,
                depth=self.depth,
                hand=self.hand,
                cameras=np.array(self.cameras),
                numbers=np.array([self.dt_s, self.gripper_cm, self.start]),
                texts=np.array([self.episode, self.views, self.chosen]),
            )

    @classmethod
    def load(cls, path: Path) -> Example:
        """Read what :meth:`save` wrote; DatasetError where the file is another kind or cut off."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                a = {name: arrays[name] for name in _ARRAYS}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path} is not an example written by 'geo4d-bench evaluate' ({error})") from None
        dt_s, gripper_cm, start = (float(x) for x in a["numbers"])
        episode, views, chosen = (str(x) for x in a["texts"])
        return cls(
            a["first_rgb"],
            a["first_depth"],
            a["first_hand"],
            a["rgb"],
            a["depth"],
            a["hand"],
            dt_s,
            gripper_cm,
            episode,
            int(start),
            (str(a["cameras"][0]), str(a["cameras"][1])),
            views,
            chosen,
        )
