"""``geo4d-bench evaluate``: scores generated video on held-out demonstrations, seen and novel views apart.

Every window is scored three times with the same code: as generated, with the first frame copied (the floor that a
generator has to beat), and with the true frames (the tracker's own error, which no generator can beat). The windows
are a pure function of the dataset, ``seed`` and ``windows``, so that checkpoints are compared on the same ones.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.fingerprint import fingerprint
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.harness.summary import arm_columns, by_frame, by_source, frame_columns, median_window
from geo4d_bench.seeding import derive_seed, generator

if TYPE_CHECKING:
    import pandas as pd

    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.geometry.hand import HandModel
    from geo4d_bench.model.backbones import AnyGenerator
    from geo4d_bench.model.video import Video4D
    from geo4d_bench.policies.trackers import HandTrack

Source = Literal["generated", "copy_first_frame", "true_frames"]
SOURCES: tuple[Source, ...] = ("copy_first_frame", "generated", "true_frames")
SAVE_EVERY = 16


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a checkpoint's generated video on held-out demonstrations."""

    checkpoint: Path | None = None
    """The checkpoint folder; runs/<task of the data>/nano where not given."""
    data: Path = Path("data/store_cereal_eval")
    """A dataset of the eval split, rendered from seen and novel cameras."""
    views: Literal["seen", "novel", "both"] = "both"
    """Which cameras the windows are seen from."""
    windows: int = 64
    """Windows of each choice of views."""
    seed: int = 0
    """Chooses the windows and the generator's noise."""
    steps: int | None = None
    """Sampling steps; the checkpoint's own number where not given."""
    out: Path | None = None
    """Where to write; <checkpoint>/evaluation where not given."""
    allow_train_data: bool = False
    """Score on demonstrations of the train split, which is no test of anything but memory."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: one row for each (views, source): every metric's mean with ``_low`` and ``_high``, its 95 % interval
            from a bootstrap over episodes.
        by_frame: gripper error of each frame, as ``gripper_error_by_frame.csv``.
        out: the folder with ``metrics.csv``, ``gripper_error_by_frame.csv``, ``windows.csv`` and the film strips.
        checkpoint: the folder that was scored.  task: that the data shows.  setting: of the checkpoint.
    """

    metrics: pd.DataFrame
    by_frame: pd.DataFrame
    out: Path
    checkpoint: Path
    task: str
    setting: str

    def __str__(self) -> str:
        lines = [*_table(self.metrics), ""]
        for views in self.metrics["views"].unique():
            rows = self.metrics[self.metrics["views"] == views].set_index("source")
            ratio = rows.loc["generated", "gripper_cm"] / max(rows.loc["copy_first_frame", "gripper_cm"], 1e-9)
            lines.append(f"{views} views: the generated gripper's error is {ratio:.0%} of copy_first_frame's")
        lines += [
            f"results: {self.out / 'metrics.csv'}, each frame: gripper_error_by_frame.csv, each window: windows.csv",
            f"pictures: {', '.join(str(p) for p in sorted(self.out.glob('*.png'))) or 'none'}",
            f"next: geo4d-bench rollout --task {self.task} --policy {self.setting} --checkpoint {self.checkpoint}",
        ]
        return "\n".join(lines)


def run(config: EvaluateConfig) -> Evaluation:
    """Score the checkpoint; a second call with the same settings goes on where the first was interrupted.

    Raises:
        CheckpointError, DatasetError: a folder is missing, damaged, or the dataset is of the train split.
        ConfigError: ``windows`` below 1, or images of another size than the checkpoint's.
    """
    if config.windows < 1:
        raise ConfigError(f"evaluate: windows is {config.windows}, expected 1 or more")
    from tqdm import tqdm

    from geo4d_bench.model.backbones import load_generator
    from geo4d_bench.model.checkpoint import checkpoint_sha256

    dataset = _open(config)
    task = dataset.manifest.settings.task
    checkpoint = config.checkpoint or Path("runs") / task / "nano"
    sha256 = checkpoint_sha256(checkpoint)
    model = load_generator(checkpoint)
    held_out = _HeldOut(config, dataset, model.config.frames, model.config.dt_s)
    out = config.out or checkpoint / "evaluation"
    store = _Store(out / "windows.csv", _run_id(config, sha256, held_out.identity))
    scorer = _Scorer(model, {arm: dataset.hand(arm) for arm in dataset.arms}, config)
    views = _views(config)
    todo = [(v, i) for v in views for i in range(config.windows)]
    try:
        for v, i in tqdm([x for x in todo if x not in store], desc="evaluate", unit="window"):
            store.add(scorer.rows(held_out.window(v, i), v, i))
    finally:
        store.save()
    windows = store.frame(todo)
    metrics, frames = by_source(windows), by_frame(windows, model.config.dt_s)
    for table in (metrics, frames):
        table.insert(0, "checkpoint", sha256)
        table.insert(1, "setting", model.config.setting)
        table.insert(2, "split", held_out.split)
    _write_csv(metrics, out / "metrics.csv")
    _write_csv(frames, out / "gripper_error_by_frame.csv")
    for v in views:
        _draw_example(scorer, held_out, windows, v, out)
    return Evaluation(metrics, frames, out, checkpoint, task, model.config.setting)


def _open(config: EvaluateConfig) -> Dataset:
    """The dataset; DatasetError where it is of the train split and that is not wanted."""
    from geo4d_bench.dataset.reader import Dataset

    dataset = Dataset(config.data)
    settings = dataset.manifest.settings
    if settings.split != "eval" and not config.allow_train_data:
        raise DatasetError(
            f"{config.data}: its episodes are of the '{settings.split}' split, expected 'eval'; give a dataset "
            f"that 'geo4d-bench datagen --task {settings.task} --split eval' made, or --allow-train-data"
        )
    return dataset


class _HeldOut:
    """The windows of a dataset, numbered: window i of a choice of views is a pure function of the seed and i."""

    def __init__(self, config: EvaluateConfig, dataset: Dataset, horizon: int, dt_s: float) -> None:
        from geo4d_bench.dataset.windows import Windows

        settings = dataset.manifest.settings
        self.split = settings.split
        self.seed, self.key = config.seed, f"{settings.task}-{settings.version}"
        episodes = "".join(entry.sha256 for entry in dataset.manifest.episodes)
        self.identity = hashlib.sha256(episodes.encode()).hexdigest()
        # Nothing is remembered: each window is looked at once.
        self.windows = {
            views: Windows(dataset, views, horizon=horizon, dt_s=dt_s, remember_bytes=0) for views in _views(config)
        }

    def window(self, views: ViewSplit, index: int) -> Window:
        rng = generator(self.key, "eval", self.seed, f"evaluate/window/{views}/{index}")
        return self.windows[views].sample(rng)


class _Scorer:
    """Turns a window into three rows, one a source."""

    def __init__(self, generator: AnyGenerator, hands: dict[str, HandModel], config: EvaluateConfig) -> None:
        from geo4d_bench.policies.trackers import PointTracker

        self.generator, self.config = generator, config
        self.trackers = {arm: PointTracker(hand) for arm, hand in hands.items()}

    def generate(self, window: Window, views: str, index: int) -> Video4D:
        from geo4d_bench.model.batch import first_frames

        seed = derive_seed("evaluation", "eval", self.config.seed, f"generate/{views}/{index}")
        return self.generator.generate([first_frames(window)], [seed], self.config.steps)[0]

    def rows(self, window: Window, views: str, index: int) -> list[dict[str, Any]]:
        from geo4d_bench.harness import scoring
        from geo4d_bench.training.heldout import true_video

        began = time.perf_counter()
        generated = self.generate(window, views, index)
        generate_ms = 1e3 * (time.perf_counter() - began)
        rows = []
        for source in SOURCES:
            track_ms = np.nan
            if source == "copy_first_frame":
                video, tracks = scoring.copied_first_frame(window), scoring.standing_still(window)
            else:
                video = generated if source == "generated" else true_video(window)
                began = time.perf_counter()
                tracks = self.track(window, video)
                track_ms = 1e3 * (time.perf_counter() - began)
            row: dict[str, Any] = {"views": views, "source": source, "window": index, "episode": window.episode}
            row |= {"start": window.start, "camera_n": window.cameras[0], "camera_m": window.cameras[1]}
            row |= asdict(scoring.score(window, video, tracks))
            row |= {"generate_ms": generate_ms if source == "generated" else np.nan, "track_ms": track_ms}
            errors = scoring.position_errors_cm(window, tracks)  # (arms, T)
            row |= dict(zip(arm_columns(list(self.trackers)), errors.mean(1).tolist(), strict=False))
            rows.append(row | dict(zip(frame_columns(errors.shape[1]), errors.mean(0).tolist(), strict=True)))
        return rows

    def track(self, window: Window, video: Video4D) -> list[HandTrack]:
        """Each arm's track from its true first pose, which a robot knows from its joints."""
        return [
            tracker.track(video, window.T_n_ee[arm, 0], float(window.opening_m[arm, 0]), arm)
            for arm, tracker in enumerate(self.trackers.values())
        ]


class _Store:
    """``windows.csv``: what is scored so far. Rows of other settings are dropped, a finished window is kept."""

    def __init__(self, path: Path, run_id: str) -> None:
        self.path, self.run_id = path, run_id
        self.found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        if path.is_file():
            for row in _records(_read_csv(path, "run_id")):
                if row["run_id"] == run_id:
                    self.found.setdefault((str(row["views"]), int(row["window"])), []).append(row)
        self.found = {key: rows for key, rows in self.found.items() if len(rows) == len(SOURCES)}

    def __contains__(self, key: object) -> bool:
        return key in self.found

    def add(self, rows: list[dict[str, Any]]) -> None:
        self.found[rows[0]["views"], rows[0]["window"]] = [{"run_id": self.run_id, **row} for row in rows]
        if len(self.found) % SAVE_EVERY == 0:
            self.save()

    def save(self) -> None:
        if self.found:
            _write_csv(self.frame(list(self.found)), self.path)

    def frame(self, keys: Sequence[tuple[str, int]]) -> pd.DataFrame:
        """The rows of these windows, sources in a fixed order."""
        import pandas as pd

        rows = pd.DataFrame([row for key in keys for row in self.found[key]])
        rows["source"] = pd.Categorical(rows["source"], SOURCES)
        rows["views"] = pd.Categorical(rows["views"], [v for v in ("seen", "novel") if v in set(rows["views"])])
        rows = rows.sort_values(["views", "source", "window"], ignore_index=True)
        return rows.astype({"views": str, "source": str})


def _views(config: EvaluateConfig) -> tuple[ViewSplit, ...]:
    return ("seen", "novel") if config.views == "both" else (config.views,)


def _run_id(config: EvaluateConfig, sha256: str, data: str) -> str:
    """16 hex digits over everything that decides a window's row; the number of windows doesn't."""
    text = f"{sha256}/{data}/{config.seed}/{config.steps}/{fingerprint()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _draw_example(scorer: _Scorer, held_out: _HeldOut, windows: pd.DataFrame, views: ViewSplit, out: Path) -> None:
    """The film strip of the median window, and the arrays behind it."""
    from geo4d_bench.harness.example import Example
    from geo4d_bench.harness.pictures import film_strip
    from geo4d_bench.harness.scoring import copied_first_frame
    from geo4d_bench.training.heldout import true_video

    index, error_cm = median_window(windows, views)
    count = int((windows["views"] == views).sum() // len(SOURCES))
    window = held_out.window(views, index)
    videos = (true_video(window), scorer.generate(window, views, index))
    first = copied_first_frame(window)
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


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    """Written aside, then renamed: a file that exists is whole. Floats in full: a resumed run gives the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    table.to_csv(part, index=False, lineterminator="\n")
    part.replace(path)


def _read_csv(path: Path, column: str) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"run_id": str}, float_precision="round_trip")
    except ValueError as error:  # pandas' parser and empty-file errors are ValueErrors
        raise DatasetError(f"{path}: not a table of this program ({error}); delete it to score anew") from None
    if column not in table:
        raise DatasetError(f"{path}: has no column '{column}'; delete it to score anew")
    return table


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _table(metrics: pd.DataFrame) -> list[str]:
    """The closing table: the numbers that matter most, one line a row of ``metrics.csv``."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "gripper cm [95 %]": lambda r: "{gripper_cm:.1f} [{gripper_cm_low:.1f}, {gripper_cm_high:.1f}]".format(**r),
        "frames 1-4": lambda r: f"{r['gripper_cm_frames_1_4']:.1f}",
        "lost": lambda r: f"{r['lost_share']:.0%}",
        "AbsRel n": lambda r: f"{r['abs_rel_n']:.3f}",
        "m": lambda r: f"{r['abs_rel_m']:.3f}",
        "d1 n": lambda r: f"{r['d1_n']:.3f}",
        "m ": lambda r: f"{r['d1_m']:.3f}",
        "mIoU": lambda r: f"{r['miou']:.2f}",
        "PSNR n": lambda r: f"{r['psnr_n_db']:.1f}",
        "SSIM n": lambda r: f"{r['ssim_n']:.3f}",
        "ms": lambda r: "" if np.isnan(r["generate_ms"]) else f"{r['generate_ms']:.0f}",
    }
    cells = [["views", "source", *columns]]
    cells += [[r["views"], r["source"], *(f(r) for f in columns.values())] for r in _records(metrics)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
