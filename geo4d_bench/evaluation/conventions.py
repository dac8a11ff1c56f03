"""Tells predictions of another convention (BGR, millimetres, another frame, other axes) from bad ones.

Most of a scene stands still, so that a prediction shows again what the given first frames show. A common mistake shows
it changed in a known way: where the two differ, a prediction that is much nearer to the changed one has made it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.types import Window
from geo4d_bench.geometry.se3 import inverse, transform
from geo4d_bench.model.types import Video4D

_CHANCE = 1e-3
"""A mistake is certain where fair coins would agree as often as windows do with less than this probability."""
_NEARER, _CLEAR, _EQUAL = {"rgb": 0.5, "points": 0.25, "frames": 0.5}, 1 / 3, 0.05
"""A window speaks for a mistake whose distance is below this share of the truth's; half of them must be so clear for
an error, and two so near are enough."""
_HANDICAP = 2
"""Of what there are hundreds of, one of which may be near by chance."""
_PIXELS, _FEWEST, _WINDOWS = 600, 30, 32
"""Pixels that are looked at, how many of a view's numbers a mistake must change to be told, and windows looked at."""
_TOLERANCE = {"rgb": 8.0, "points": 0.02}
"""Levels and metres: what a mistake must change a number by to be told there."""
_AXES = "VTHWC"
_EXPECTED = {
    "rgb": "expected RGB from 0 to 255 of (V, T, H, W, 3), rows from the top",
    "frames": "expected frame 0 dt_s after the given first frames, and each later one dt_s after the last",
    "points": "expected metres (x, y, z) in camera n's frame (OpenCV axes) of (V, T, H, W, 3) for both views",
}
_FRAMES: dict[tuple[int, ...], dict[tuple[int, ...], str]] = {
    (0, 1, 2): {(1, -1, -1): ", as in OpenGL", (1, -1, 1): ", with y up"},
    (2, 0, 1): {(1, -1, -1): ", forward, left and up as in ROS"},
}
BLACK = "floats of 0 to 1, or -1 to 1, cast to integers; multiply by 255 and round first"
OWN_FRAME = "in camera m's own frame"
REVERSED = "in reversed order of time"
REPEATED = "late by one: frame 0 repeats the given first frame, and should come dt_s after it"
_UNSURE = (BLACK, REPEATED)
"""What a model may do by itself."""
Index = Sequence[npt.NDArray[np.intp]]
Pixels = npt.NDArray[np.floating[Any]]


class Conventions:
    """What windows speak for.

    Args:
        shape: (2, T, H, W, 3) of what is predicted.  windows: how many there will be.
    """

    def __init__(self, shape: tuple[int, ...], windows: int) -> None:
        self._every = -(-windows // _WINDOWS)
        rng = np.random.default_rng(0)
        self._at = [rng.integers(size, size=_PIXELS) for size in shape[:4]]
        index = np.broadcast_arrays(*(axis[:, None] for axis in self._at), np.arange(3))
        self._flipped, self._scrambled = list(_flipped(shape, index)), list(_scrambled(shape, index))
        self._ratios: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        """By (array, view) and mistake, of each window: distance to it over that to the truth, where the two differ,
        and everywhere."""
        self._names: list[str] = []
        self._scenes: list[tuple[str, ...]] = []
        self._firsts: list[Pixels] = []
        self._predicted: list[Pixels] = []

    def add(self, name: str, window: Window, video: Video4D) -> None:
        """A window by its file's name, of which only the first frames are looked at, and what was predicted for it."""
        v, t, y, x = self._at
        first, moving = window.rgb[v, 0, y, x].astype(float), video.rgb[v, :, y, x].astype(float)
        self._names.append(name)
        self._scenes.append((window.episode, *window.cameras))
        self._firsts.append(first.ravel())
        self._predicted.append(moving[:, 0].ravel())
        if len(self._names) % self._every:
            return
        off = np.abs(moving - first[:, None]).mean((0, 2))
        start, end = off[:3].mean(), off[-3:].mean()
        if max(start, end) > 1.1 * min(start, end):
            self._ratios["frames", ""][REVERSED].append((0.0 if end < start else np.inf, 0.0))
        if off.max() > 0:
            self._ratios["frames", ""][REPEATED].append((0.0 if off[0] < 0.05 * off[1] else np.inf, 0.0))
        points = window.points[:, 0].astype(float)
        in_n = np.stack([points[0], transform(window.T_n_m, points[1])])
        self._compare("rgb", video.rgb[v, t, y, x].astype(float), window.rgb[:, 0].astype(float), _colours(first))
        geometry = _geometry(window, v, points[v, y, x], in_n[v, y, x], in_n[1 - v, y, x])
        self._compare("points", video.points[v, t, y, x].astype(float), in_n, geometry)

    def verdicts(self) -> tuple[list[str], list[str]]:
        """Mistakes that are certain, and those that a bad prediction or chance may look like; a sentence each."""
        spoken: dict[tuple[bool, str, str], list[tuple[str, int, int]]] = defaultdict(list)
        of_n: dict[str, str] = {}
        for (array, view), by_mistake in sorted(self._ratios.items(), key=lambda item: item[0][1] == "m"):
            most = max(map(len, by_mistake.values()))
            agree, _, best = max(
                (sum(ratio < _NEARER[array] for ratio, _ in found), -float(np.mean([fit for _, fit in found])), mistake)
                for mistake, found in by_mistake.items()
                if 2 * len(found) > most
            )
            ratios = [ratio for ratio, _ in by_mistake[best]]
            total = len(ratios)
            # What is wrong with view n hides what may be wrong with view m besides.
            if 2 * agree > total and of_n.get(array, best) == best:
                of_n[array] = best
                enough = 0.5**total < _CHANCE and float(np.median(ratios)) < _CLEAR
                enough |= total > 1 and max(ratios) < _EQUAL and array != "frames"
                sure = agree == total and enough and best not in _UNSURE
                spoken[sure, array, best].append((view, agree, total))
        found = []
        for (sure, array, mistake), views in sorted(spoken.items()):
            of = "".join(f" and of view {view}" for view, *_ in views if view).removeprefix(" and")
            counts = " and ".join(dict.fromkeys(f"{agree} of {total}" for _, agree, total in views))
            found.append((sure, f"{array}{of}: they seem to be {mistake}, in {counts} windows; {_EXPECTED[array]}"))
        if self._names and not any(array == "rgb" for _, array, _ in spoken):
            found += self._of_other_windows()
        return [text for sure, text in found if sure], [text for sure, text in found if not sure]

    def _compare(self, array: str, predicted: Pixels, first: Pixels, changes: Iterator[tuple[str, Pixels]]) -> None:
        """Of an array (N, 3) at the pixels, and the first frames (2, H, W, 3) of what it should show."""
        v, _, y, x = self._at
        truth = first[v, y, x]
        off = np.abs(predicted - truth)
        there = np.isfinite(off)
        # A generator that does not know view m's pose may begin with view n's: then points are nearly like that.
        changed = [(5 if mistake == OWN_FRAME else 1, mistake, numbers) for mistake, numbers in changes]
        changed += [(1, mistake, first[index]) for mistake, index in self._flipped]
        # What scrambles the whole picture need not be tried where most of it is right.
        if there.any() and np.quantile(off[there], 0.75) > _TOLERANCE[array]:
            changed += [(_HANDICAP, mistake, first[index]) for mistake, index in self._scrambled]
        for handicap, mistake, numbers in changed:
            near = np.abs(predicted - numbers)
            for view, name in enumerate("nm"):
                here = there & np.isfinite(near) & (v == view)[:, None]
                tells = here & (np.abs(numbers - truth) > _TOLERANCE[array])
                if tells.sum() >= _FEWEST:
                    ratio = handicap * float(np.median(near[tells]) / max(np.median(off[tells]), 1e-9))
                    fit = float(near[here].mean() / max(off[here].mean(), 1e-9))
                    self._ratios[array, name][mistake].append((ratio, fit))

    def _of_other_windows(self) -> list[tuple[bool, str]]:
        """Whether predictions begin like other windows than their own, and whether that is certain.

        Windows of one episode and two cameras count as one: each of them may pass through another's first frame.
        """
        from scipy.spatial.distance import cdist
        from scipy.stats import binom

        far = cdist(np.stack(self._predicted), np.stack(self._firsts), "cityblock")
        alike = np.array([[a == b for b in self._scenes] for a in self._scenes])
        own, other = np.where(alike, far, np.inf).min(1), np.where(alike, np.inf, far)
        nearest, speak = other.argmin(1), np.flatnonzero(other.min(1) < _CLEAR * own)
        agree, total = len(speak), len(far)
        # A generator that always shows the same is bad, but mixes nothing up.
        if 2 * agree <= total or 2 * len(set(nearest[speak])) < agree:
            return []
        return [
            (
                bool(binom.sf(agree - 1, total, 0.5) < _CHANCE),
                f"predictions seem to be of other windows, in {agree} of {total}, such as that of "
                f"{self._names[nearest[speak[0]]]} in the file {self._names[speak[0]]}; expected each in the file that "
                "has the name of its conditions",
            )
        ]


def other_bytes(points: npt.NDArray[np.float32]) -> str | None:
    """What points (..., 3) seem to be if their bytes were read as another type: such numbers are absurd as metres."""

    def plausible(values: npt.NDArray[np.generic]) -> float:
        size = np.abs(values.astype(np.float64))
        return float(np.mean((size == 0) | ((size > 1e-4) & (size < 1e5))))

    with np.errstate(invalid="ignore"):
        if plausible(points) > 0.5 or not points.size:
            return None
        if plausible(points.byteswap()) > 0.9:
            return "big-endian numbers; write points.astype('<f4')"
        if plausible(points.view(np.int32)) > 0.9:
            return "integers whose bytes were taken for float32; convert them with astype, not with view"
    return None


def _colours(first: Pixels) -> Iterator[tuple[str, Pixels]]:
    """Mistakes with colours (N, 3) of 0 to 255, and what they make of them."""
    yield "BGR", first[:, ::-1]
    yield "floats of -1 to 1 multiplied by 255; add 1 and multiply by 127.5", (2 * first + 1) % 256
    yield "signed; add 128", (first + 128) % 256
    yield BLACK, np.floor(first / 255)


def _geometry(
    window: Window, view: npt.NDArray[np.intp], own: Pixels, in_n: Pixels, other_in_n: Pixels
) -> Iterator[tuple[str, Pixels]]:
    """Mistakes with points (N, 3), and what they make of them.

    Args:
        view: (N,) of each.  own, in_n: in its own camera's frame and in n's.  other_in_n: the other view's there.
    """
    T_m_n = inverse(window.T_n_m)

    def from_own(points: Pixels) -> Pixels:
        return np.where((view == 1)[:, None], transform(window.T_n_m, points), points)

    yield "in millimetres", 1000 * in_n
    yield "in centimetres", 100 * in_n
    yield "in the world's frame", transform(window.T_world_n, in_n)
    yield OWN_FRAME, transform(T_m_n, in_n)
    yield "in a frame that the inverse of T_n_m leads to", np.where((view == 1)[:, None], transform(T_m_n, own), in_n)
    yield "those of the other view in camera m's frame", transform(T_m_n, other_in_n)
    distance, depth = np.linalg.norm(own, axis=-1, keepdims=True), own[:, 2:]
    yield "made with the distance along the ray in place of z", from_own(own * distance / depth)
    yield "made with z in place of the distance along the ray", from_own(own * depth / distance)
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            if (order, signs) != ((0, 1, 2), (1, 1, 1)):
                axes = ", ".join(f"{'-' * (sign < 0)}{'xyz'[i]}" for i, sign in zip(order, signs, strict=True))
                yield f"({axes}){_FRAMES.get(order, {}).get(signs, '')}", in_n[:, order] * signs


def _flipped(shape: tuple[int, ...], index: Index) -> Iterator[tuple[str, Index]]:
    """Mistakes with pixels, and from where in the first frames (2, H, W, 3) they take what should be at ``index``."""
    v, _, y, x, c = index
    height, width = shape[2:4]
    yield "mirrored, left for right", (v, y, width - 1 - x, c)
    yield "upside down", (v, height - 1 - y, x, c)
    yield "turned by 180 degrees", (v, height - 1 - y, width - 1 - x, c)
    yield "those of the other view", (1 - v, y, x, c)
    if height == width:
        yield "transposed, rows for columns", (v, x, y, c)


def _scrambled(shape: tuple[int, ...], index: Index) -> Iterator[tuple[str, Index]]:
    """The same of arrays whose memory was read with its axes in another order."""
    named = ", ".join(_AXES)
    for order in list(permutations(range(5)))[1:]:
        axes, sizes = ", ".join(_AXES[i] for i in order), [shape[i] for i in order]
        at = np.unravel_index(np.ravel_multi_index(index, shape), sizes)
        v, _, y, x, c = (at[order.index(i)] for i in range(5))
        yield f"an array of ({axes}) read as ({named}) without being transposed", (v, y, x, c)
        v, _, y, x, c = np.unravel_index(np.ravel_multi_index([index[i] for i in order], sizes), shape)
        yield f"an array of ({named}) read as ({axes}), then transposed", (v, y, x, c)
