"""The sections of the report: each looks for its part, draws its pictures, and else says how to make the part."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.errors import DatasetError, SceneError

if TYPE_CHECKING:
    import pandas as pd

    from geo4d_bench.dataset.reader import EpisodeFile

COLUMNS = {
    "gripper, cm": ("gripper_cm", 1),
    "frames 1 to 4, cm": ("gripper_cm_frames_1_4", 1),
    "rotation, °": ("rotation_deg", 1),
    "opening, cm": ("opening_cm", 2),
    "lost": ("lost_share", 2),
    "AbsRel n": ("abs_rel_n", 3),
    "AbsRel m": ("abs_rel_m", 3),
    "missing n": ("missing_n", 3),
    "missing m": ("missing_m", 3),
    "extra n": ("extra_n", 3),
    "extra m": ("extra_m", 3),
    "AbsRel n, moved": ("abs_rel_n_moved", 3),
    "AbsRel m, moved": ("abs_rel_m_moved", 3),
    "d1 n": ("d1_n", 3),
    "d1 m": ("d1_m", 3),
    "mIoU": ("miou", 2),
    "view gap, cm": ("view_gap_cm", 1),
    "on the hand, cm": ("hand_view_gap_cm", 1),
    "PSNR n, dB": ("psnr_n_db", 1),
    "PSNR m, dB": ("psnr_m_db", 1),
    "PSNR n, moved, dB": ("psnr_n_moved_db", 1),
    "PSNR m, moved, dB": ("psnr_m_moved_db", 1),
    "SSIM n": ("ssim_n", 3),
    "SSIM m": ("ssim_m", 3),
    "AbsRel m, paper_compat": ("abs_rel_m_paper_compat", 3),
    "Fréchet n, derivatives": ("frechet_derivatives_n", 1),
    "Fréchet m, derivatives": ("frechet_derivatives_m", 1),
    "FVD n": ("fvd_n", 0),
    "FVD m": ("fvd_m", 0),
    "generate, ms": ("generate_ms", 0),
}


_OF_WHAT = {
    "camera poses given": "calibrated", "ablation": "ablation", "sensor": "sensor", "sampling steps": "steps",
    "second views": "second_views", "rig": "rig", "weights": "checkpoint",
}  # fmt: skip
_USUAL = ("none", "perfect", "nan", "")


@dataclass(frozen=True)
class Gap:
    """A part of the report that could not be made, and the command that makes what it needs."""

    what: str
    command: str


@dataclass
class Page:
    """What the template is filled with."""

    task: str
    out: Path
    values: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=lambda: {"trajectories": []})
    absent: dict[str, Gap] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def picture(self, name: str) -> Path:
        """The path of a new picture, noted as one that the page shows."""
        path = self.out / name
        self.files.append(path)
        return path


def add_evaluations(page: Page, runs: Path) -> None:
    from geo4d_bench.evaluation.example import Example
    from geo4d_bench.evaluation.film_strip import film_strip
    from geo4d_bench.report import figures

    page.values["evaluations"] = []
    for path in sorted(runs.rglob("metrics.csv")):
        folder = path.parent
        name = _name(folder.parent if folder.name == "evaluation" else folder, runs)
        tag = name.replace("/", "_")
        metrics = _table(path, "gripper_cm")
        columns = {title: column for title, column in COLUMNS.items() if column[0] in metrics}
        found: dict[str, Any] = {"name": name, "columns": list(columns), "strips": []}
        found["rows"] = _metric_rows(metrics, columns)
        found["note"] = _of_what(metrics) + (
            f"{int(metrics['windows'].max())} windows from {int(metrics['episodes'].max())} demonstrations of the "
            f"{metrics['split'].iloc[0]} split a row; in small print 95 % intervals from a bootstrap over "
            "demonstrations. A pixel that the generator leaves invalid counts as AbsRel 1 and as wrong for d1; missing "
            "is the share of such pixels, extra that of the pixels without a true surface at which it shows one. "
            "AbsRel m by paper_compat scores invalid pixels as the paper's released code does. PSNR of equal frames "
            "is infinite. 'Moved' counts only pixels that show another surface than in the first frame, PSNR then over "
            "the whole video. Fréchet distances are of sets of that many videos: compare equal numbers only."
        )
        by_frame = folder / "gripper_error_by_frame.csv"
        if by_frame.is_file():
            picture = page.picture(f"gripper_error_{tag}.png")
            figures.gripper_error_chart(_table(by_frame, "gripper_cm"), picture)
            found["gripper_error"] = picture.name
        for views in ("seen", "novel"):
            example_path = folder / f"example_{views}.npz"
            if example_path.is_file():
                example = Example.load(example_path)
                picture = page.picture(f"generated_{views}_{tag}.png")
                film_strip(example, picture)
                found["strips"].append({"file": picture.name, "caption": f"{views} views. {example.chosen}"})
        page.values["evaluations"].append(found)
    if not page.values["evaluations"]:
        page.absent["evaluation"] = Gap(
            "an evaluation of generated video",
            f"geo4d-bench evaluate --checkpoint {runs / 'nano'} --data data/{page.task}_eval",
        )


def _of_what(metrics: pd.DataFrame) -> str:
    """What was scored and how, as far as the table says."""
    first = metrics.iloc[0]
    words = [f"{title} {first[c]}" for title, c in _OF_WHAT.items() if c in metrics and str(first[c]) not in _USUAL]
    return f"Scored: {', '.join(words)}. " if words else ""


def _metric_rows(metrics: pd.DataFrame, columns: dict[str, tuple[str, int]]) -> list[dict[str, Any]]:
    rows = []
    for _, row in metrics.iterrows():
        cells = []
        for column, digits in columns.values():
            value, low, high = (float(row.get(column + suffix, np.nan)) for suffix in ("", "_low", "_high"))
            text = "" if np.isnan(value) else f"{value:.{digits}f}"
            interval = "" if np.isnan(low) or np.isinf(value) else f"{low:.{digits}f} to {high:.{digits}f}"
            cells.append((text, interval))
        rows.append({"views": row["views"], "source": str(row["source"]).replace("_", " "), "cells": cells})
    return rows


def add_trainings(page: Page, runs: Path) -> None:
    from geo4d_bench.report import figures

    page.values["trainings"] = []
    for path in sorted(runs.rglob("training_log.csv")):
        log = _table(path, "loss")
        if len(log) < 2:
            continue
        name = _name(path.parent, runs)
        picture = page.picture(f"training_{name.replace('/', '_')}.png")
        floor = float(log["copy_cm"].iloc[-1]) if "copy_cm" in log else None
        figures.training_chart(log, floor, picture)
        minutes, steps = log["seconds"].iloc[-1] / 60, int(log["step"].iloc[-1])
        caption = f"{name}: {steps} steps in {minutes:.1f} minutes."
        page.values["trainings"].append({"file": picture.name, "caption": caption})
    if not page.values["trainings"]:
        page.absent["training"] = Gap("a trained generator", f"geo4d-bench train --data data/{page.task} --preset nano")


def add_cameras(page: Page, data: Path) -> None:
    """The contact sheet, rendered anew in good quality from a stored state of the first episode."""
    page.values["data_note"] = None
    if not data.is_dir():
        page.absent["data"] = Gap("demonstrations", f"geo4d-bench datagen --task {page.task}")
        return
    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rendering.scene import load_scene
    from geo4d_bench.report.pictures import contact_sheet

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
    height = 300
    width = round(height * dataset.size[1] / dataset.size[0])
    try:
        scene = load_scene(dataset.scene_path(episode.trajectory.scene))
        with Renderer(scene, height, width, quality=True) as renderer:
            state = episode.trajectory.states[episode.steps[frame]]
            images = renderer.render(state, cameras, seg=False, check=True).rgb
    except SceneError as error:
        page.absent["data"] = Gap(f"the picture of the cameras ({error})", "geo4d-bench doctor")
        return
    names, splits = [c.name for c in cameras], [c.split for c in cameras]
    path = page.picture("cameras.png")
    contact_sheet(images, names, splits, f"{page.task} from {len(names)} cameras ({dataset.rig.name})", path)
    page.pictures["contact_sheet"] = path.name


def _moment_with_hand(episode: EpisodeFile, every: int = 2) -> int:
    """The frame in which the camera that sees least of the hands sees most of them, while an object is moved.

    All frames count where no object ever moves by more than 2 cm a second.
    """
    from geo4d_bench.geometry.hand import part_image

    frames = np.arange(0, len(episode.steps) - 1, every)
    trajectory, arms = episode.trajectory, tuple(episode.trajectory.T_world_ee)
    moved = np.zeros(len(frames), dtype=bool)
    for poses in trajectory.T_world_obj.values():
        shift = poses[episode.steps[frames + 1], :3, 3] - poses[episode.steps[frames], :3, 3]
        seconds = (episode.steps[frames + 1] - episode.steps[frames]) / trajectory.control_hz
        moved |= np.linalg.norm(shift, axis=1) / seconds > 0.02
    frames = frames[moved] if moved.any() else frames
    pixels = [
        (part_image(episode.frames(camera.name, frames).seg, episode.seg_names, arms) > 0).sum((1, 2))
        for camera in episode.cameras
    ]
    return int(frames[np.argmax(np.min(pixels, axis=0))])


def _name(folder: Path, runs: Path) -> str:
    return folder.relative_to(runs).as_posix() if folder != runs else runs.name


def _table(path: Path, column: str) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except ValueError as error:
        raise DatasetError(f"{path}: not a readable table ({error}); run the command that wrote it again") from None
    if column not in table:
        raise DatasetError(f"{path}: has no column '{column}'; run the command that wrote it again")
    return table
