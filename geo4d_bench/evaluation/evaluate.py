"""``geo4d-bench evaluate``: scores generated video on held-out demonstrations, seen and novel views apart.

Every window is scored three times with the same code: as generated, with the first frame copied (the floor that a
generator has to beat), and with the true frames (the tracker's own error, which no generator can beat). Our checkpoints
and anybody's predictions (docs/predictions.md) are scored on the same windows. What is given, the first frames, is
measured by a sensor; the truth is perfect.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from geo4d_bench.dataset.sensors import SENSORS, SensorName
from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.held_out import HeldOut
from geo4d_bench.evaluation.predictions import StoredPredictions, check
from geo4d_bench.evaluation.predictors import CheckpointOptions, CheckpointPredictor
from geo4d_bench.evaluation.summary import (
    arm_columns,
    by_frame,
    by_source,
    frame_columns,
    median_window,
    shown,
)
from geo4d_bench.evaluation.window_store import SOURCES, Features, WindowStore, write_csv
from geo4d_bench.fingerprint import commit, fingerprint
from geo4d_bench.geometry.camera import Camera, ViewSplit
from geo4d_bench.geometry.rig import pair_geometry
from geo4d_bench.geometry.se3 import inverse
from geo4d_bench.io import held
from geo4d_bench.model.types import Video4D
from geo4d_bench.options import Count, Processes, listing, with_help
from geo4d_bench.pool import one_thread, run_jobs
from geo4d_bench.runs import claim, run_id

if TYPE_CHECKING:
    import pandas as pd

    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.geometry.rig import AnyRig
    from geo4d_bench.trackers.protocol import HandTrack


@dataclass(frozen=True)
class EvaluateConfig(CheckpointOptions):
    """Score generated video, a checkpoint's or anybody's predictions, on held-out demonstrations."""

    sensor: SensorName | None = None
    """How the depth of the first frames is measured; as in the checkpoint's training where not given."""
    calibration_deg: Annotated[float, Field(ge=0, le=90)] = 0.0
    """Turns the cameras' poses that are told by this much, about axes drawn for each window and camera."""
    calibration_cm: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Shifts them by this much."""
    tracker: str = "point_cloud"
    """What follows the gripper through the videos."""
    segmenter: str | None = None
    """What labels the gripper's parts in generated and true videos; their own labels where not given."""
    second_views: Count = 1
    """Views that are generated beside the reference in one pass; scores are means over the pairs with it."""
    workers: Processes = 2
    """Processes; the rows do not depend on it."""
    cluster: str | None = None
    """Score on a Ray cluster instead of local processes: its address, or auto; see datagen."""
    i3d: Path | None = None
    """I3D's weights as safetensors (docs/metrics.md): adds FVD."""
    predictions: Path | None = None
    """In place of a checkpoint: a folder of predicted arrays for the windows that 'geo4d-bench conditions' wrote."""
    out: Path | None = None
    """Where to write; <checkpoint>/evaluation, or runs/<task>/<generator>/evaluation for predictions."""
    allow_train_data: bool = False
    """Score on demonstrations of the train split, which is no test of anything but memory."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: ``metrics.csv``, see ``summary.by_source``.
        out: the folder with it, ``gripper_error_by_frame.csv``, ``windows.csv`` and the film strips.
        next: the command that comes next.
    """

    metrics: pd.DataFrame
    out: Path
    next: str

    def __str__(self) -> str:
        lines = [_table(self.metrics), ""]
        for views in self.metrics["views"].unique():
            rows = self.metrics[self.metrics["views"] == views].set_index("source")
            ratio = rows.loc["generated", "gripper_cm"] / max(rows.loc["copy_first_frame", "gripper_cm"], 1e-9)
            lines.append(f"{views} views: the generated gripper's error is {ratio:.0%} of copy_first_frame's")
        lines += [
            f"results: {self.out / 'metrics.csv'}, each frame: gripper_error_by_frame.csv, each window: windows.csv",
            f"pictures: {', '.join(str(p) for p in sorted(self.out.glob('*.png'))) or 'none'}",
            f"next: {self.next}",
        ]
        return "\n".join(lines)


def config_type(args: Sequence[str]) -> type[EvaluateConfig]:
    """:class:`EvaluateConfig` with the trackers and segmenters that there are in its help."""
    from geo4d_bench.trackers import SEGMENTERS, TRACKERS

    return with_help(
        EvaluateConfig,
        tracker=listing("What follows the gripper through the videos", TRACKERS),
        segmenter=listing("What labels the gripper in the videos, whose own labels it replaces", SEGMENTERS),
    )


def run(config: EvaluateConfig) -> Evaluation:
    """Score a generator; a second call with the same settings goes on where the first was interrupted.

    Predictions are checked as a whole before any of them is scored; what is likely wrong is a warning on stderr.

    Raises:
        CheckpointError, DatasetError: a folder is missing, damaged, or the dataset is of the train split, or
            predictions have faults, a line each.
        ConfigError: ``windows`` below 1, images of another size than the checkpoint's, fewer cameras than asked for,
            or a checkpoint's options with predictions.
        PluginError: another package's metric cannot be imported.
    """
    for name in ("second_views", "workers"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(config, name)}, expected 1 or more")
    asked = any(x is not None for x in (config.checkpoint, config.steps, config.sensor))
    asked |= bool(config.calibration_deg or config.calibration_cm)
    if config.predictions is not None and (asked or config.second_views != 1 or config.device != "cpu"):
        raise ConfigError(
            "evaluate: --predictions with --checkpoint, --steps, --sensor, --calibration-deg, --calibration-cm, "
            "--second-views or --device, which are a checkpoint's; give one of the two generators"
        )
    if config.predictions is not None:
        dataset = config.open(config.allow_train_data)
        for warning in check(config.predictions, dataset, config, config.segmenter is None):
            print(f"warning: {warning}; scored as it is, see docs/predictions.md", file=sys.stderr)
    scorer = _Scorer(config)
    contender, runs = scorer.contender, Path("runs") / scorer.task
    folder = runs / contender.name if config.predictions is not None else config.folder(scorer.task)
    follow_up = f"geo4d-bench report --task {scorer.task}"
    if contender.policy is not None:
        follow_up = (
            f"geo4d-bench rollout --task {scorer.task} --policy {contender.policy} --checkpoint {folder} "
            f"--out {runs / f'rollout_{contender.name}_novel'}"
        )
    out = config.out or folder / "evaluation"
    with held(out):
        return Evaluation(_evaluate(scorer, out), out, follow_up)


def _evaluate(scorer: _Scorer, out: Path) -> pd.DataFrame:
    """Score the windows that are missing, and write the tables and pictures; returns ``metrics.csv``."""
    from tqdm import tqdm

    config, contender, dataset = scorer.config, scorer.contender, scorer.dataset
    store = WindowStore(out, claim(out, "evaluation", "windows.csv", scorer.settings))
    jobs = [(config, scorer.run_id, v, i) for v, i in config.keys if (v, i) not in store]
    _SCORERS[scorer.run_id] = scorer
    try:
        with tqdm(total=len(jobs), desc="evaluate", unit="window") as bar:
            for rows, features in run_jobs(_score, jobs, config.workers, config.cluster):
                store.add(rows, features)
                bar.update()
    finally:
        _SCORERS.clear()
        store.save()
    windows = store.frame(config.keys)
    metrics, frames = by_source(windows, store, scorer.extracting), by_frame(windows, contender.dt_s)
    columns = {
        "name": contender.name, "task": f"{dataset.manifest.settings.task}-{dataset.manifest.settings.version}",
        "generator": contender.generator, "checkpoint": contender.sha256,
        "calibrated": contender.calibrated, "ablation": contender.ablation, "sensor": contender.sensor,
        "calibration_deg": config.calibration_deg, "calibration_cm": config.calibration_cm,
        "trained_rig": contender.rig, "steps": contender.steps, "second_views": config.second_views,
        "tracker": config.tracker, "segmenter": config.segmenter or "",
        "split": dataset.manifest.settings.split, "rig": dataset.rig.name,
        "rooms": dataset.manifest.settings.rooms, "commit": commit(),
    }  # fmt: skip
    for table, name in ((metrics, "metrics.csv"), (frames, "gripper_error_by_frame.csv")):
        for place, (column, value) in enumerate(columns.items()):
            table.insert(place, column, value)
        write_csv(table, out / name)
    for v in config.splits:
        _draw_example(scorer, windows, v, out)
    return metrics


_SCORERS: dict[str, _Scorer] = {}
"""Of the evaluation that this process takes part in, by its id."""


def _score(job: tuple[EvaluateConfig, str, ViewSplit, int]) -> tuple[list[dict[str, Any]], Features]:
    """Score a window in this process; the result depends on the job alone."""
    config, run, views, index = job
    if run not in _SCORERS:
        _SCORERS.clear()
        _SCORERS[run] = _Scorer(config)
    with one_thread():
        return _SCORERS[run].score(views, index)


def _trained_rig(name: str | None, dataset: Dataset) -> AnyRig | None:
    """The rig that a generator was trained on: ``dataset``'s where none is named (predictions), None where its cameras
    are not known (a user's file) or none of them are trained on."""
    from geo4d_bench.tasks.rigs import RIGS, make_rig

    rig = dataset.rig
    if name not in (None, rig.name):
        if name not in RIGS:
            return None
        rig = make_rig(name, rig.target)
    return rig if rig.camera_names("seen") else None


class _Scorer:
    """Turns a window into three rows, one a source, and the features of their videos."""

    def __init__(self, config: EvaluateConfig) -> None:
        from geo4d_bench.evaluation.frechet import extractors
        from geo4d_bench.evaluation.scoring import METRICS, all_metrics
        from geo4d_bench.trackers import SEGMENTERS, TRACKERS

        self.config = config
        self.dataset = dataset = config.open(config.allow_train_data)
        self.task = dataset.manifest.settings.task_name
        self.contender = c = (
            StoredPredictions(config.predictions)
            if config.predictions is not None
            else CheckpointPredictor(config.folder(self.task), config.seed, config.steps, config.sensor, config.device)
        )
        if (config.calibration_deg or config.calibration_cm) and not SENSORS.get(c.sensor).metric:
            raise ConfigError(
                f"evaluate: {c.sensor} depth is scaled by the hands, where the true poses put them; --calibration-deg "
                "and --calibration-cm take a sensor that measures metres"
            )
        self.held_out = HeldOut(
            dataset, config.splits, config.seed, c.frames, c.dt_s, c.sensor, config.second_views,
            calibrated=c.calibrated, calibration=(config.calibration_deg, config.calibration_cm),
        )  # fmt: skip
        self.trained_rig = _trained_rig(c.rig, dataset)
        self.extracting = extractors(config.i3d)
        self.trackers = {arm: TRACKERS.get(config.tracker)(dataset.hand(arm)) for arm in dataset.arms}
        hand = dataset.hand(dataset.arms[0])
        self.segmenter = None if config.segmenter is None else SEGMENTERS.get(config.segmenter)(hand, self.task)
        # Everything that decides a window's row; the number of windows doesn't.
        self.settings = {
            "checkpoint": c.sha256, "data": dataset.identity, "seed": config.seed, "steps": config.steps,
            "sensor": c.sensor, "calibration": [config.calibration_deg, config.calibration_cm],
            "second_views": config.second_views, "tracker": config.tracker,
            "segmenter": self.segmenter and [self.segmenter.name, self.segmenter.version(self.task)],
            "device": config.device, "features": [e.sha256 for e in self.extracting],
            "metrics": [name for name in all_metrics() if name not in METRICS], "fingerprint": fingerprint(),
        }  # fmt: skip
        self.run_id = run_id(self.settings)

    def score(self, views: ViewSplit, index: int) -> tuple[list[dict[str, Any]], Features]:
        """The rows of one pass: of its view n with each of its other views."""
        pairs, given = self.held_out.pairs(views, index), self.held_out.given(views, index)
        began = time.perf_counter()
        predicted = self.contender.predict(given, views, index)
        generate_ms = 1e3 * (time.perf_counter() - began) if self.config.predictions is None else np.nan
        first, rows, features = pairs[0], [], {}
        stand = self._stand(pairs)
        for source in SOURCES:
            scored = [self._pair(source, pair, given[i], predicted, i + 1) for i, pair in enumerate(pairs)]
            rows.append(
                {
                    "views": views, "source": source, "window": index, "episode": first.episode, "start": first.start,
                    "disturbed": first.disturbed, "camera_n": first.cameras[0],
                    "camera_m": " ".join(pair.cameras[1] for pair in pairs), **stand,
                    **{k: _mean([numbers[k] for numbers, _ in scored]) for k in scored[0][0]},
                    "generate_ms": generate_ms if source == "generated" else np.nan,
                }
            )  # fmt: skip
            video = scored[0][1]
            for extractor in self.extracting:
                found = np.stack(
                    [extractor.features(rgb) for rgb in (first.rgb[:, 1:] if video is None else video.rgb)]
                )
                features[f"{source}/{extractor.metric}"] = np.full_like(found, np.nan) if video is None else found
        return rows, features

    def _stand(self, pairs: Sequence[Window]) -> dict[str, float]:
        """Where a pass's cameras stand, see ``geometry.rig.PairGeometry``, and the largest of their angles to the
        nearest camera that was trained on (NaN where the rig of that training is not known, or has none)."""
        rig, height = self.dataset.rig, self.dataset.size[0]
        T_world_cam = [pairs[0].T_world_n, *(pair.T_world_n @ pair.T_n_m for pair in pairs)]
        K = [pairs[0].K[0], *(pair.K[1] for pair in pairs)]
        trained = self.trained_rig
        angles = [trained.angle_to_training_deg(Camera("", T, 1.0)) for T in T_world_cam if trained is not None]
        return {"view_angle_deg": max(angles, default=np.nan)} | pair_geometry(
            T_world_cam, K, height, rig.target
        )._asdict()

    def _pair(
        self, source: str, window: Window, given: Window, predicted: Video4D | list[HandTrack], view: int
    ) -> tuple[dict[str, float], Video4D | None]:
        """One pair's numbers, and its video."""
        from geo4d_bench.evaluation.scoring import ScoredWindow, copied_first_frame, zero_motion
        from geo4d_bench.model.batch import true_video

        video: Video4D | None = None
        tracks: list[HandTrack] | None = None
        if source == "true_frames":
            video = true_video(window)
        elif source == "copy_first_frame":
            # The floor is told nothing wrong: view m's first points lie where they are in truth.
            video, tracks = copied_first_frame(replace(given, T_n_m=window.T_n_m)), zero_motion(window)
        elif isinstance(predicted, Video4D):
            video = predicted.pair(view)
        else:
            tracks = predicted
        began = time.perf_counter()
        track_ms = np.nan
        if tracks is None:
            assert video is not None
            told = window if source == "true_frames" else given
            if self.segmenter is not None:
                video = video.relabelled(self.segmenter.segment(video, told.T_n_ee[:, 0], told.opening_m[:, 0]))
            T_n_m = told.T_n_m if self.contender.calibrated else None
            video = replace(video, first_points=told.points[:, 0], T_n_m=T_n_m)
            # From the first pose, which a robot knows from its joints and the pose of camera n that it is told.
            tracks = [
                tracker.track(video, told.T_n_ee[arm, 0], float(told.opening_m[arm, 0]), arm)
                for arm, tracker in enumerate(self.trackers.values())
            ]
            track_ms = 1e3 * (time.perf_counter() - began)
        if source == "generated":  # what is planned in the frame of camera n is carried out where that is told to be
            T_true_told = inverse(window.T_world_n) @ given.T_world_n
            tracks = [replace(track, T_n_ee=T_true_told @ track.T_n_ee) for track in tracks]
        scored = ScoredWindow(window, video, tracks)
        errors = scored.position_error_cm  # (arms, T)
        numbers = scored.numbers() | {"track_ms": track_ms}
        numbers |= dict(zip(arm_columns(list(self.trackers)), errors.mean(1).tolist(), strict=False))
        return numbers | dict(zip(frame_columns(errors.shape[1]), errors.mean(0).tolist(), strict=True)), video


def _mean(values: Sequence[float]) -> float:
    """Over the pairs in which a metric applies; NaN where it applies in none."""
    there = [v for v in values if not np.isnan(v)]
    return float(np.mean(there)) if there else float("nan")


def _draw_example(scorer: _Scorer, windows: pd.DataFrame, views: ViewSplit, out: Path) -> None:
    """The film strip of the median window; nothing where tracks alone are predicted."""
    from geo4d_bench.evaluation.film_strip import film_strip
    from geo4d_bench.evaluation.scoring import copied_first_frame
    from geo4d_bench.model.batch import true_video

    index, error_cm = median_window(windows, views)
    window, given = scorer.held_out.window(views, index), scorer.held_out.given(views, index)
    generated = scorer.contender.predict(given, views, index)
    if not isinstance(generated, Video4D):
        return
    title = f"Generated against true frames, {views} views"
    note = (
        f"The window whose gripper error is the median of {scorer.config.windows}: {error_cm:.1f} cm "
        f"({window.episode} of the {scorer.dataset.manifest.settings.split} split, from frame {window.start}). "
        "Chosen by this rule, not by eye."
    )
    videos = copied_first_frame(given[0]), true_video(window), generated.pair(1)
    film_strip(*videos, window.cameras, title, note, out / f"generated_{views}.png")


def _table(metrics: pd.DataFrame) -> str:
    """The closing table: a line for each metric, a column for each row of ``metrics.csv``."""
    import pandas as pd

    columns = {
        (row["views"], row["source"]): {
            title: f"{number} ({interval})" if interval else number for title, (number, interval) in shown(row).items()
        }
        for _, row in metrics.iterrows()
    }
    return pd.DataFrame(columns).to_string()
