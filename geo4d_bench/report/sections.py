"""The sections of the report: each looks for its part, draws its pictures, and else says how to make the part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.csv_files import read_frame
from geo4d_bench.dataset.reader import Dataset, EpisodeFile
from geo4d_bench.errors import DatasetError, SceneError
from geo4d_bench.evaluation.summary import shown
from geo4d_bench.geometry.hand import part_image
from geo4d_bench.io import write_atomic
from geo4d_bench.report import figures
from geo4d_bench.report.pictures import contact_sheet
from geo4d_bench.training.pictures import training_chart

if TYPE_CHECKING:
    import pandas as pd

_OF_WHAT = {
    "camera poses given": "calibrated", "ablation": "ablation", "sensor": "sensor", "tracker": "tracker",
    "segmenter": "segmenter", "sampling steps": "steps",
    "calibration error, degrees": "calibration_deg", "calibration error, cm": "calibration_cm",
    "second views": "second_views", "rig": "rig", "trained on": "trained_rig",
    "rooms": "rooms", "weights": "checkpoint",
}  # fmt: skip
_USUAL = ("none", "perfect", "fixed", "point_cloud", "nan", "0.0", "")


@dataclass(frozen=True)
class Gap:
    """A part of the report that could not be made, and the command that makes what it needs."""

    what: str
    command: str


@dataclass
class Page:
    """What the template is filled with: ``values`` by name, ``absent`` by section; ``files`` are its pictures."""

    task: str
    out: Path
    values: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, Gap] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def picture(self, name: str) -> Path:
        """The path of a new picture, noted as one that the page shows."""
        self.files.append(self.out / name)
        return self.files[-1]


def add_evaluations(page: Page, runs: Path) -> None:
    """For every ``metrics.csv``: the error over time, the table, and an example of each choice of views."""
    page.values["evaluations"] = evaluations = []
    for path in sorted(runs.rglob("metrics.csv")):
        with _named(path):
            evaluations.append(_evaluation(page, path, runs))
    if not evaluations:
        page.absent["evaluation"] = Gap(
            "an evaluation of generated video", f"geo4d-bench evaluate --data data/{page.task}_eval"
        )


def _evaluation(page: Page, path: Path, runs: Path) -> dict[str, Any]:
    """What the template shows of one ``metrics.csv``."""
    folder = path.parent
    name = _name(folder.parent if folder.name == "evaluation" else folder, runs)
    tag = name.replace("/", "_")
    metrics = _table(path, ("views", "source"), "gripper_cm")
    cells = [shown(row) for _, row in metrics.iterrows()]
    rows = [
        {"views": row["views"], "source": str(row["source"]).replace("_", " "), "cells": list(each.values())}
        for (_, row), each in zip(metrics.iterrows(), cells, strict=True)
    ]
    note = _of_what(metrics) + (
        f"{int(metrics['windows'].max())} windows from {int(metrics['episodes'].max())} demonstrations of the "
        f"{metrics['split'].iloc[0]} split a row; in small print 95 % intervals from a bootstrap over "
        "demonstrations. A pixel that the generator leaves invalid counts as AbsRel 1 and as wrong for d1; missing "
        "is the share of such pixels, extra that of the pixels without a true surface at which it shows one. "
        "AbsRel m by paper_compat scores invalid pixels as the paper's released code does. PSNR of equal frames "
        "is infinite. 'Moved' counts only pixels that show another surface than in the first frame, PSNR then over "
        "the whole video. Fréchet distances are of sets of that many videos: compare equal numbers only."
    )
    found: dict[str, Any] = {
        "name": name,
        "columns": list(cells[0]),
        "rows": rows,
        "note": note,
        "gripper_error": None,
        "strips": [],
    }
    by_frame = folder / "gripper_error_by_frame.csv"
    with suppress(FileNotFoundError), _named(by_frame):
        frames = _table(by_frame, ("views", "source", "frame"), "gripper_cm")
        picture = page.picture(f"gripper_error_{tag}.png")
        figures.gripper_error_chart(frames, picture)
        found["gripper_error"] = picture.name
    for views in ("seen", "novel"):
        if (folder / f"generated_{views}.png").is_file():
            picture = page.picture(f"generated_{views}_{tag}.png")
            write_atomic(picture, (folder / f"generated_{views}.png").read_bytes())
            found["strips"].append({"file": picture.name, "caption": f"{views} views, the median window."})
    return found


def _of_what(metrics: pd.DataFrame) -> str:
    """What was scored and how, as far as the table says."""
    first = metrics.iloc[0]
    words = [f"{title} {first[c]}" for title, c in _OF_WHAT.items() if c in metrics and str(first[c]) not in _USUAL]
    return f"Scored: {', '.join(words)}. " if words else ""


def add_trainings(page: Page, runs: Path) -> None:
    """The curves of every ``training_log.csv`` with at least two steps."""
    page.values["trainings"] = trainings = []
    for path in sorted(runs.rglob("training_log.csv")):
        log = _table(path, ("step",), "loss")
        if len(log) < 2:
            continue
        name = _name(path.parent, runs)
        picture = page.picture(f"training_{name.replace('/', '_')}.png")
        with _named(path):
            floor = float(log["copy_cm"].iloc[-1]) if "copy_cm" in log else None
            training_chart(log, floor, picture)
            minutes, steps = log["seconds"].iloc[-1] / 60, int(log["step"].iloc[-1])
        caption = f"{name}: {steps} steps in {minutes:.1f} minutes."
        trainings.append({"file": picture.name, "caption": caption})
    if not trainings:
        page.absent["training"] = Gap("a trained generator", f"geo4d-bench train --data data/{page.task}")


def add_cameras(page: Page, data: Path) -> None:
    """The contact sheet, rendered anew in good quality from a stored state of the first episode."""
    page.values |= {"data_note": None, "contact_sheet": None}
    if not data.is_dir():
        page.absent["data"] = Gap("demonstrations", f"geo4d-bench datagen --task {page.task}")
        return
    dataset = Dataset(data)
    episode, manifest = dataset.episodes[0], dataset.manifest
    frame = _moment_with_hand(episode)
    page.values["data_note"] = (
        f"{data}: {len(manifest.episodes)} demonstrations from {manifest.attempts} attempts, "
        f"{sum(bool(e.disturbances) for e in manifest.episodes)} of them disturbed; "
        f"{dataset.size[0]} x {dataset.size[1]} pixels from {len(dataset.rig.camera_names())} cameras. The "
        f"picture shows {episode.name} at {episode.steps[frame] / episode.trajectory.control_hz:.1f} s, the moment "
        "at which the camera that sees least of the hand sees most of it while an object is moved."
    )
    by_name = {camera.name: camera for camera in episode.cameras}
    cameras = [by_name[name] for name in dataset.rig.camera_names()]
    size = 300, round(300 * dataset.size[1] / dataset.size[0])
    try:
        from geo4d_bench.rendering.renderer import Renderer
        from geo4d_bench.rendering.rooms import load_scene_for

        scene = load_scene_for(dataset.scene_path(episode.trajectory.scene), manifest.settings.rooms)
        with Renderer(scene, *size, quality=True) as renderer:
            state = episode.trajectory.states[episode.steps[frame]]
            room = manifest.settings.room(episode.trajectory.seed)
            images = renderer.render(state, cameras, seg=False, check=True, room=room).rgb
    except SceneError as error:
        page.absent["data"] = Gap(f"the picture of the cameras ({error})", "geo4d-bench doctor")
        return
    path = page.picture("cameras.png")
    title = f"{page.task} from {len(cameras)} cameras ({dataset.rig.name})"
    contact_sheet(images, [(c.name, c.split) for c in cameras], title, path)
    page.values["contact_sheet"] = path.name


def _moment_with_hand(episode: EpisodeFile) -> int:
    """The frame in which the camera that sees least of the hands sees most of them, while an object is moved.

    All frames count where no object ever moves by more than 2 cm a second.
    """
    frames = np.arange(0, len(episode.steps) - 1, 2)
    trajectory, arms = episode.trajectory, tuple(episode.trajectory.T_world_ee)
    moved = np.zeros(len(frames), dtype=bool)
    for poses in trajectory.T_world_obj.values():
        now, then = episode.steps[frames], episode.steps[frames + 1]
        shift, seconds = poses[then, :3, 3] - poses[now, :3, 3], (then - now) / trajectory.control_hz
        moved |= np.linalg.norm(shift, axis=1) / seconds > 0.02
    frames = frames[moved] if moved.any() else frames
    pixels = [
        (part_image(episode.frames(camera.name, frames).seg, episode.seg_names, arms) > 0).sum((1, 2))
        for camera in episode.cameras
    ]
    return int(frames[np.argmax(np.min(pixels, axis=0))])


def _name(folder: Path, runs: Path) -> str:
    return folder.relative_to(runs).as_posix() if folder != runs else runs.name


def _table(path: Path, key: Sequence[str], column: str) -> pd.DataFrame:
    table = read_frame(path, key)
    if column not in table:
        raise DatasetError(f"{path}: has no column '{column}'; run the command that wrote it again")
    return table


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Makes a DatasetError of what a damaged table raises."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise DatasetError(f"{path}: not a readable table ({error}); run the command that wrote it again") from None
