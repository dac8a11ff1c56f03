"""``geo4d-bench evaluate``: scores generated video on held-out demonstrations, seen and novel views apart.

Every window is scored three times with the same code: as generated, with the first frame copied (the floor that a
generator has to beat), and with the true frames (the tracker's own error, which no generator can beat). The windows
are a pure function of the dataset, ``seed`` and ``windows``, so that generators are compared on the same ones: our
checkpoints, and with ``--predictions`` anybody's (docs/predictions.md). What is given, the first frames, is measured by
a sensor; the truth is perfect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.held_out import HeldOut, Views, open_held_out, view_splits
from geo4d_bench.evaluation.predictions import StoredPredictions, faults
from geo4d_bench.evaluation.predictors import CheckpointPredictor, Prediction, VideoPredictor
from geo4d_bench.evaluation.summary import (
    add_set_metrics,
    arm_columns,
    by_frame,
    by_source,
    frame_columns,
    median_window,
)
from geo4d_bench.evaluation.window_store import SOURCES, Features, Source, WindowStore, records, write_csv
from geo4d_bench.fingerprint import commit, fingerprint
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.io import held
from geo4d_bench.model.generators import Device
from geo4d_bench.options import listing, with_help
from geo4d_bench.pool import one_thread, run_jobs
from geo4d_bench.runs import claim, run_id

if TYPE_CHECKING:
    import pandas as pd

    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.evaluation.extractors import Extractor
    from geo4d_bench.model.types import Video4D
    from geo4d_bench.trackers.protocol import HandTrack


@dataclass(frozen=True)
class EvaluateConfig:
    """Score generated video, a checkpoint's or anybody's predictions, on held-out demonstrations."""

    checkpoint: Path | None = None
    """The checkpoint folder; runs/<task of the data>/layered_nano where not given."""
    data: Path = Path("data/store_cereal_eval")
    """A dataset of the eval split, rendered from seen and novel cameras."""
    views: Views = "both"
    """Which cameras the windows are seen from."""
    windows: int = 64
    """Windows of each choice of views."""
    seed: int = 0
    """Chooses the windows and the generator's noise."""
    steps: int | None = None
    """Sampling steps; the checkpoint's own number where not given."""
    sensor: SensorName | None = None
    """How the depth of the first frames is measured; as in the checkpoint's training where not given."""
    tracker: str = "point_cloud"
    """What follows the gripper through the videos."""
    second_views: int = 1
    """Views that are generated beside the reference in one pass; scores are means over the pairs with it."""
    workers: int = 2
    """Processes; the rows do not depend on it."""
    cluster: str | None = None
    """Score on a Ray cluster instead of local processes: its address, or auto; see datagen."""
    device: Device = "cpu"
    """Where the checkpoint generates. On a GPU (cuda) two runs may differ by rounding."""
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
        metrics: one row for each (views, source): every metric's mean with ``_low`` and ``_high``, its 95 % interval
            from a bootstrap over episodes; the set metrics likewise.
        by_frame: gripper error of each frame, as ``gripper_error_by_frame.csv``.
        out: the folder with ``metrics.csv``, ``gripper_error_by_frame.csv``, ``windows.csv`` and the film strips.
        next: the command that comes next.
    """

    metrics: pd.DataFrame
    by_frame: pd.DataFrame
    out: Path
    next: str

    def __str__(self) -> str:
        lines = [*_table(self.metrics), ""]
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


@dataclass(frozen=True)
class Refused:
    """Predictions that cannot be scored as they are: ``faults``, a line each."""

    predictions: Path
    faults: list[str]
    exit_code: int = 1

    def __str__(self) -> str:
        return "\n".join([*self.faults, f"{self.predictions}: {len(self.faults)} faults, nothing was scored"])


def config_type(args: Sequence[str]) -> type[EvaluateConfig]:
    """:class:`EvaluateConfig` with the trackers that there are in its help."""
    from geo4d_bench.trackers import TRACKERS

    return with_help(EvaluateConfig, tracker=listing("What follows the gripper through the videos", TRACKERS))


def run(config: EvaluateConfig) -> Evaluation | Refused:
    """Score a generator; a second call with the same settings goes on where the first was interrupted.

    Predictions are checked as a whole before any of them is scored.

    Raises:
        CheckpointError, DatasetError: a folder is missing, damaged, or the dataset is of the train split.
        ConfigError: ``windows`` below 1, images of another size than the checkpoint's, fewer cameras than asked for,
            or a checkpoint's options with predictions.
    """
    for name in ("windows", "second_views", "workers"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(config, name)}, expected 1 or more")
    asked = any(x is not None for x in (config.checkpoint, config.steps, config.sensor))
    if config.predictions is not None and (asked or config.second_views != 1 or config.device != "cpu"):
        raise ConfigError(
            "evaluate: --predictions with --checkpoint, --steps, --sensor, --second-views or --device, which are a "
            "checkpoint's; give one of the two generators"
        )
    dataset = open_held_out(config.data, config.allow_train_data)
    task = dataset.manifest.settings.task
    follow_up = f"geo4d-bench report --task {task}"
    if config.predictions is not None:
        found = faults(config.predictions, dataset, view_splits(config.views), config.windows, config.seed)
        if found:
            return Refused(config.predictions, found)
        scorer = _Scorer(config, dataset)
        out = config.out or Path("runs") / task / scorer.contender.name / "evaluation"
    else:
        config = replace(config, checkpoint=config.checkpoint or Path("runs") / task / "layered_nano")
        assert config.checkpoint is not None
        scorer = _Scorer(config, dataset)
        out = config.out or config.checkpoint / "evaluation"
        if scorer.contender.policy is not None:
            follow_up = (
                f"geo4d-bench rollout --task {task} --policy {scorer.contender.policy} --checkpoint "
                f"{config.checkpoint} --out {Path('runs') / task / f'rollout_{scorer.contender.name}_novel'}"
            )
    with held(out):
        return _evaluate(config, scorer, out, follow_up)


def _evaluate(config: EvaluateConfig, scorer: _Scorer, out: Path, follow_up: str) -> Evaluation:
    from tqdm import tqdm

    contender, held_out = scorer.contender, scorer.held_out
    store = WindowStore(out, claim(out, "evaluation", "windows.csv", scorer.settings))
    todo = [(v, i) for v in view_splits(config.views) for i in range(config.windows)]
    jobs = [_Job(config, scorer.run_id, v, i) for v, i in todo if (v, i) not in store]
    _SCORERS[scorer.run_id] = scorer
    try:
        with tqdm(total=len(jobs), desc="evaluate", unit="window") as bar:
            for rows, features in run_jobs(_score, jobs, config.workers, config.cluster):
                store.add(rows, features)
                bar.update()
    finally:
        _SCORERS.clear()
        store.save()
    windows = store.frame(todo)
    metrics, frames = by_source(windows), by_frame(windows, contender.dt_s)
    add_set_metrics(metrics, windows, store, [(e.metric, e.sha256) for e in scorer.extracting])
    columns = {
        "name": contender.name, "generator": contender.generator, "checkpoint": contender.sha256,
        "calibrated": contender.calibrated, "ablation": contender.ablation, "sensor": contender.sensor,
        "steps": contender.steps, "second_views": config.second_views, "tracker": config.tracker,
        "split": held_out.split, "rig": scorer.dataset.rig.name, "commit": commit(),
    }  # fmt: skip
    for table in (metrics, frames):
        for place, (name, value) in enumerate(columns.items()):
            table.insert(place, name, value)
    write_csv(metrics, out / "metrics.csv")
    write_csv(frames, out / "gripper_error_by_frame.csv")
    for v in view_splits(config.views) if contender.generates_video else ():
        _draw_example(scorer, held_out, windows, v, out)
    return Evaluation(metrics, frames, out, follow_up)


@dataclass(frozen=True)
class _Job:
    """One window to score; ``run_id`` names what scores it."""

    config: EvaluateConfig
    run_id: str
    views: ViewSplit
    index: int


_SCORERS: dict[str, _Scorer] = {}
"""Of the evaluation that this process takes part in, by its id."""


def _score(job: _Job) -> tuple[list[dict[str, Any]], Features]:
    """Score a window in this process; the result depends on the job alone."""
    if job.run_id not in _SCORERS:
        _SCORERS.clear()
        _SCORERS[job.run_id] = _Scorer(job.config, open_held_out(job.config.data, job.config.allow_train_data))
    with one_thread():
        return _SCORERS[job.run_id].score(job.views, job.index)


class _Scorer:
    """Turns a window into three rows, one a source, and the features of their videos."""

    def __init__(self, config: EvaluateConfig, dataset: Dataset) -> None:
        from geo4d_bench.evaluation.extractors import extractors
        from geo4d_bench.trackers import make_tracker

        self.dataset = dataset
        self.contender: StoredPredictions | CheckpointPredictor
        if config.predictions is not None:
            self.contender = StoredPredictions(config.predictions)
        else:
            assert config.checkpoint is not None
            self.contender = CheckpointPredictor(
                config.checkpoint, config.seed, config.steps, config.sensor, config.device
            )
        c = self.contender
        self.held_out = HeldOut(
            dataset, view_splits(config.views), config.seed, c.frames, c.dt_s, c.sensor, config.second_views,
            calibrated=c.calibrated,
        )  # fmt: skip
        self.extracting = extractors(config.i3d)
        self.trackers = {arm: make_tracker(config.tracker, dataset.hand(arm)) for arm in dataset.arms}
        self.settings = _settings(config, c, self.held_out.identity, self.extracting)
        self.run_id = run_id(self.settings)

    def score(self, views: ViewSplit, index: int) -> tuple[list[dict[str, Any]], Features]:
        """The rows of one pass: of its view n with each of its other views."""
        pairs, given = self.held_out.pairs(views, index), self.held_out.given(views, index)
        began = time.perf_counter()
        predicted = self.contender.predict(given, views, index)
        generate_ms = 1e3 * (time.perf_counter() - began) if self.contender.generates else np.nan
        first = pairs[0]
        rows, features = [], {}
        for source in SOURCES:
            scored = [self._pair(source, pair, given[i], predicted, i + 1) for i, pair in enumerate(pairs)]
            row: dict[str, Any] = {"views": views, "source": source, "window": index, "episode": first.episode}
            row |= {"start": first.start, "disturbed": first.disturbed, "camera_n": first.cameras[0]}
            row |= {"camera_m": " ".join(pair.cameras[1] for pair in pairs)}
            row |= {k: _mean([s[k] for s, _ in scored]) for k in scored[0][0]}
            row |= {"generate_ms": generate_ms if source == "generated" else np.nan}
            rows.append(row)
            video = scored[0][1]
            for extractor in self.extracting:
                found = np.stack(
                    [extractor.features(rgb) for rgb in (first.rgb[:, 1:] if video is None else video.rgb)]
                )
                features[f"{source}/{extractor.metric}"] = np.full_like(found, np.nan) if video is None else found
        return rows, features

    def _pair(
        self, source: Source, window: Window, given: Window, predicted: Prediction, view: int
    ) -> tuple[dict[str, float], Video4D | None]:
        """One pair's numbers, and its video."""
        from geo4d_bench.evaluation import scoring
        from geo4d_bench.model.batch import true_video

        video: Video4D | None
        track_ms = np.nan
        if source == "copy_first_frame":
            video, tracks = scoring.copied_first_frame(given), scoring.zero_motion(window)
        elif source == "generated" and predicted.tracks is not None:
            video, tracks = None, predicted.tracks
        else:
            video = (
                true_video(window) if predicted.video is None or source == "true_frames" else predicted.video.pair(view)
            )
            began = time.perf_counter()
            tracks = self.track(window, video)
            track_ms = 1e3 * (time.perf_counter() - began)
        numbers = asdict(scoring.score(window, video, tracks)) | {"track_ms": track_ms}
        errors = scoring.position_errors_cm(window, tracks)  # (arms, T)
        numbers |= dict(zip(arm_columns(list(self.trackers)), errors.mean(1).tolist(), strict=False))
        return numbers | dict(zip(frame_columns(errors.shape[1]), errors.mean(0).tolist(), strict=True)), video

    def track(self, window: Window, video: Video4D) -> list[HandTrack]:
        """Each arm's track from its true first pose, which a robot knows from its joints."""
        return [
            tracker.track(video, window.T_n_ee[arm, 0], float(window.opening_m[arm, 0]), arm)
            for arm, tracker in enumerate(self.trackers.values())
        ]


def _mean(values: Sequence[float]) -> float:
    """Over the pairs in which a metric applies; NaN where it applies in none."""
    there = [v for v in values if not np.isnan(v)]
    return float(np.mean(there)) if there else float("nan")


def _settings(
    config: EvaluateConfig, contender: VideoPredictor, data: str, extracting: tuple[Extractor, ...]
) -> dict[str, Any]:
    """Everything that decides a window's row; the number of windows doesn't."""
    return {
        "checkpoint": contender.sha256, "data": data, "seed": config.seed, "steps": config.steps,
        "sensor": contender.sensor, "second_views": config.second_views, "tracker": config.tracker,
        "device": config.device, "features": [e.sha256 for e in extracting], "fingerprint": fingerprint(),
    }  # fmt: skip


def _draw_example(scorer: _Scorer, held_out: HeldOut, windows: pd.DataFrame, views: ViewSplit, out: Path) -> None:
    """The film strip of the median window, and the arrays behind it."""
    from geo4d_bench.evaluation.example import Example
    from geo4d_bench.evaluation.film_strip import film_strip
    from geo4d_bench.evaluation.scoring import copied_first_frame
    from geo4d_bench.model.batch import true_video

    index, error_cm = median_window(windows, views)
    count = int((windows["views"] == views).sum() // len(SOURCES))
    window, given = held_out.pairs(views, index)[0], held_out.given(views, index)
    generated = scorer.contender.predict(given, views, index).video
    assert generated is not None
    videos = (true_video(window), generated.pair(1))
    first = copied_first_frame(given[0])
    example = Example(
        first_rgb=window.rgb[:, 0],
        first_depth=first.points[:, 0, ..., 2],
        first_hand=first.parts[:, 0] > 0,
        rgb=np.stack([v.rgb for v in videos]),
        depth=np.stack([v.points[..., 2] for v in videos]),
        hand=np.stack([v.parts > 0 for v in videos]),
        dt_s=window.dt_s,
        gripper_cm=error_cm,
        episode=window.episode,
        start=window.start,
        cameras=window.cameras,
        views=views,
        chosen=(
            f"The window whose gripper error is the median of {count}: {error_cm:.1f} cm "
            f"({window.episode} of the {held_out.split} split, from frame {window.start}). "
            "Chosen by this rule, not by eye."
        ),
    )
    example.save(out / f"example_{views}.npz")
    film_strip(example, out / f"generated_{views}.png")


def _table(metrics: pd.DataFrame) -> list[str]:
    """The closing table: the numbers that matter most, one line a row of ``metrics.csv``."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "gripper cm [95 %]": lambda r: "{gripper_cm:.1f} [{gripper_cm_low:.1f}, {gripper_cm_high:.1f}]".format(**r),
        "frames 1-4": lambda r: f"{r['gripper_cm_frames_1_4']:.1f}",
        "undisturbed": lambda r: f"{r['gripper_cm_undisturbed']:.1f}",
        "lost": lambda r: f"{r['lost_share']:.0%}",
        "AbsRel n": lambda r: f"{r['abs_rel_n']:.3f}",
        "m": lambda r: f"{r['abs_rel_m']:.3f}",
        "moved n": lambda r: f"{r['abs_rel_n_moved']:.3f}",
        "d1 n": lambda r: f"{r['d1_n']:.3f}",
        "m ": lambda r: f"{r['d1_m']:.3f}",
        "mIoU": lambda r: f"{r['miou']:.2f}",
        "PSNR n": lambda r: f"{r['psnr_n_db']:.1f}",
        "moved": lambda r: f"{r['psnr_n_moved_db']:.1f}",
        "SSIM n": lambda r: f"{r['ssim_n']:.3f}",
        "Fréchet n": lambda r: f"{r['frechet_derivatives_n']:.1f}",
        "ms": lambda r: "" if np.isnan(r["generate_ms"]) else f"{r['generate_ms']:.0f}",
    }
    cells = [["views", "source", *columns]]
    cells += [[r["views"], r["source"], *(f(r) for f in columns.values())] for r in records(metrics)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
