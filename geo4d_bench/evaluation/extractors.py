"""What turns a video into features for the Fréchet distance: each with a name and a hash that stand in every row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geo4d_bench.evaluation import derivatives


@dataclass(frozen=True)
class Extractor:
    """Features of one video.

    Attributes:
        metric: the distance's column: ``fvd`` for I3D with a weights file given, ``frechet_<name>`` for any other.
        sha256: of the weights file; of the source file for features that have no weights.
        features: video (T, H, W, 3) uint8 to (D,) float32.
    """

    metric: str
    sha256: str
    features: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def extractors(i3d: Path | None) -> tuple[Extractor, ...]:
    """The derivative energies, and I3D where its weights are given.

    Raises:
        CheckpointError: the weights are missing or of another network.
    """
    own = Extractor("frechet_derivatives", _sha256(Path(derivatives.__file__)), derivatives.derivative_energies)
    if i3d is None:
        return (own,)
    from geo4d_bench.evaluation.i3d import I3DFeatures

    network = I3DFeatures(i3d)
    return own, Extractor("fvd", _sha256(i3d), network)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
