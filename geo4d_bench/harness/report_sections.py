"""The sections of the report: each looks for its part, draws its pictures, and else says how to make the part."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.errors import DatasetError, LedgerError, SceneError

if TYPE_CHECKING:
    import pandas as pd

    from geo4d_bench.dataset.reader import EpisodeFile
    from geo4d_bench.harness.figures import ArmPaths
    from geo4d_bench.harness.leaderboard import BoardRow, Leaderboard
    from geo4d_bench.harness.ledger import EpisodeRow

STAGES = (
    ("expert", "oracle_pose", "planning at 0.4 s, interpolation, replanning"),
    ("oracle_pose", "oracle_video", "tracking the hand in true frames"),
    ("oracle_video", "geo4d", "generating the frames"),
)
COLUMNS = {
    "gripper, cm": ("gripper_cm", 1),
    "frames 1 to 4, cm": ("gripper_cm_frames_1_4", 1),
    "rotation, °": ("rotation_deg", 1),
    "opening, cm": ("opening_cm", 2),
    "lost": ("lost_share", 2),
    "AbsRel n": ("abs_rel_n", 3),
    "AbsRel m": ("abs_rel_m", 3),
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


def episodes(runs: Path, task: str) -> dict[EpisodeRow, Path]:
    from geo4d_bench.harness import leaderboard

    ledgers = leaderboard.find_ledgers(runs) if runs.is_dir() else []
    return {row: path for row, path in leaderboard.read_all(ledgers).items() if row.task == task}


def add_rollouts(page: Page, rows: dict[EpisodeRow, Path]) -> Leaderboard | None:
    from geo4d_bench.harness import figures, leaderboard

    page.values |= {"cards": [], "board": [], "board_notes": [], "losses": [], "loss_views": [], "fingerprints": []}
    if not rows:
        page.absent["rollouts"] = Gap(
            "rollouts, so no success rates and no leaderboard",
            f"geo4d-bench rollout --task {page.task} --policy expert --views seen",
        )
        return None
    board = leaderboard.compute(rows, page.out / "leaderboard.csv")
    leaderboard.write(board)
    page.values["board"] = [replace(row, policy=_named(row, _steps(row))) for row in board.rows]
    page.values["board_notes"] = board.notes()
    page.values["fingerprints"] = sorted({row.fingerprint for row in board.rows})
    page.values["cards"] = [card for policy in ("geo4d", "expert") for card in _cards(board, policy)]
    page.values |= _losses(list(rows))
    if board.rows:
        import pandas as pd

        path = page.picture("success.png")
        shown = pd.DataFrame([vars(row) for row in board.rows])
        shown["policy"] = [
            _named(row, "" if row.sensor == "perfect" else row.sensor, _steps(row)) for row in board.rows
        ]
        figures.success_chart(shown, path)
        page.pictures["success"] = path.name
    there = {(row.policy, row.views) for row in board.rows}
    lacking = [(p, v) for p in figures.LADDER for v in ("seen", "novel") if (p, v) not in there]
    if lacking:
        names = ", ".join(f"{p} on {v} views" for p, v in lacking)
        page.absent["rollouts"] = Gap(
            f"rungs of the ladder ({names})",
            f"geo4d-bench rollout --task {page.task} --policy {lacking[0][0]} --views {lacking[0][1]}",
        )
    return board


def _named(row: BoardRow, *unusual: str) -> str:
    """``geo4d (stereo, 4 steps)``: a run's policy with what is unusual about the run; empty words are left out."""
    words = ", ".join(filter(None, unusual))
    return f"{row.policy} ({words})" if words else row.policy


def _steps(row: BoardRow) -> str:
    """``4 steps`` where a number of sampling steps was asked for, else nothing."""
    return f"{row.steps} step{'' if row.steps == 1 else 's'}" if row.steps else ""


def _cards(board: Leaderboard, policy: str) -> list[dict[str, str]]:
    return [
        {
            "label": f"{policy}, {row.views} views"
            + ("" if row.sensor == "perfect" else f", {row.sensor} depth")
            + (f", {_steps(row)}" if row.steps else ""),
            "kind": row.views,
            "value": f"{row.success_rate:.0%}",
            "note": f"{row.k} of {row.n} episodes, 95 % interval {row.ci_low:.0%} to {row.ci_high:.0%}",
        }
        for views in ("seen", "novel")
        for row in board.rows
        if (row.policy, row.views) == (policy, views)
    ]


def _losses(rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    """Change of success from each rung to the one below it, on the seeds that both have; with perfect depth and
    the checkpoint's own sampling steps alone."""
    outcomes: dict[tuple[str, str], dict[int, bool]] = {}
    for row in rows:
        if row.status != "crash" and (row.sensor, row.steps) == ("perfect", 0):
            outcomes.setdefault((row.policy, row.views), {})[row.seed] = row.success
    views = [v for v in ("seen", "novel") if any(key[1] == v for key in outcomes)]
    losses = []
    for upper, lower, stage in STAGES:
        change = {}
        for v in views:
            a, b = outcomes.get((upper, v), {}), outcomes.get((lower, v), {})
            seeds = sorted(a.keys() & b.keys())
            change[v] = "not run"
            if seeds:
                lost, gained = sum(a[s] and not b[s] for s in seeds), sum(b[s] and not a[s] for s in seeds)
                change[v] = f"{100 * (gained - lost) / len(seeds):+.0f} ({lost} lost, {gained} gained of {len(seeds)})"
        losses.append({"upper": upper, "lower": lower, "stage": stage, "change": change})
    return {"losses": losses, "loss_views": views}


def add_trajectories(page: Page, rows: dict[EpisodeRow, Path]) -> None:
    """Plans and executed paths of the first success and the first failure of a policy that plans by video."""
    from geo4d_bench.harness import figures

    for policy in ("geo4d", "oracle_video"):
        for views in ("seen", "novel"):
            key = (policy, views, "perfect", 0)
            mine = sorted((r for r in rows if (r.policy, r.views, r.sensor, r.steps) == key), key=lambda r: r.seed)
            for success in (True, False):
                found = [(r, rows[r].parent / "trajectories" / f"{r.seed}.npz") for r in mine if r.success == success]
                found = [(r, path) for r, path in found if path.is_file()]
                if not found:
                    continue
                row, source = found[0]
                arms = _read_trajectory(source)
                outcome = "success" if success else f"{row.status} after '{row.phase}'"
                title = f"{policy}, {views} views, seed {row.seed}: {outcome}"
                alike = sum(r.success == success for r in mine)
                note = (
                    f"Lowest seed of the {alike} of {len(mine)} episodes that {'succeeded' if success else 'failed'}; "
                    f"view n is {row.camera_n}, view m {row.camera_m}; {row.plans} plans. World frame."
                )
                picture = page.picture(f"trajectory_{policy}_{views}_{'success' if success else 'failure'}.png")
                figures.trajectory_chart(arms, title, note, picture)
                page.pictures["trajectories"].append({"file": picture.name, "caption": f"{title}. {note}"})
        if page.pictures["trajectories"]:
            return
    page.absent["trajectories"] = Gap(
        "trajectories of a policy that plans by video",
        f"geo4d-bench rollout --task {page.task} --policy geo4d --views novel",
    )


def _read_trajectory(path: Path) -> list[ArmPaths]:
    """The executed path of each arm, and each whole plan from where it began."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            arms = [name.split("/")[0] for name in arrays.files if name.endswith("/T_world_ee")]
            return [_arm_paths(arm, arrays) for arm in arms]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise LedgerError(f"{path}: not a trajectory of a rollout ({error}); run that rollout again") from None


def _arm_paths(arm: str, arrays: Mapping[str, Any]) -> ArmPaths:
    from geo4d_bench.harness.figures import ArmPaths, Path3D

    position, dt_s = arrays[f"{arm}/T_world_ee"][:, :3, 3], float(arrays["dt_s"])
    waypoints = arrays[f"{arm}/plan_T_world_ee"][:, :, :3, 3]
    plans = []
    for step, seconds, plan in zip(arrays["plan_step"], arrays["plan_time_s"], waypoints, strict=True):
        there = np.isfinite(plan).all(-1)
        time_s = np.concatenate([[step * dt_s], seconds[there]])
        plans.append(Path3D(time_s, np.concatenate([position[step : step + 1], plan[there]])))
    return ArmPaths(arm, Path3D(dt_s * np.arange(len(position)), position), plans)


def add_evaluations(page: Page, runs: Path) -> None:
    from geo4d_bench.harness import figures
    from geo4d_bench.harness.example import Example
    from geo4d_bench.harness.pictures import film_strip

    page.values["evaluations"] = []
    for path in sorted(runs.rglob("metrics.csv")):
        folder = path.parent
        name = _name(folder.parent if folder.name == "evaluation" else folder, runs)
        tag = name.replace("/", "_")
        metrics = _table(path, "gripper_cm")
        columns = {title: column for title, column in COLUMNS.items() if column[0] in metrics}
        found: dict[str, Any] = {"name": name, "columns": list(columns), "strips": []}
        found["rows"] = _metric_rows(metrics, columns)
        found["note"] = (
            f"{int(metrics['windows'].max())} windows from {int(metrics['episodes'].max())} demonstrations of the "
            f"{metrics['split'].iloc[0]} split a row; in small print 95 % intervals from a bootstrap over "
            "demonstrations. A pixel that the generator leaves invalid counts as AbsRel 1 and as wrong for d1. "
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
    from geo4d_bench.harness import figures

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
        page.absent["training"] = Gap(
            "a trained generator", f"geo4d-bench train --data data/{page.task} --preset nano --minutes 10"
        )


def add_cameras(page: Page, data: Path) -> None:
    """The contact sheet, rendered anew in good quality from a stored state of the first episode."""
    page.values["data_note"] = None
    if not data.is_dir():
        page.absent["data"] = Gap("demonstrations", f"geo4d-bench datagen --task {page.task}")
        return
    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.harness.pictures import contact_sheet
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rendering.scene import load_scene

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
