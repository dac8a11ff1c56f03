"""``geo4d-bench train``: a generator from rendered demonstrations."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.io import held
from geo4d_bench.model.config import AblationName, GeneratorConfig
from geo4d_bench.model.generators import find_config, presets
from geo4d_bench.options import Count, Positive, Processes, Steps, check_ranges, listing, with_help
from geo4d_bench.seeding import Seed

if TYPE_CHECKING:
    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.training.data import WindowSource

_PAD_SHARE = 0.9
"""Of a window's future. Hands let go and withdraw in the last two seconds of a demonstration: were half of the future
to exist, no window would start there, and a policy that has let go would not know what to do."""
_NOT_IDENTIFYING = {"held_out", "out", "threads", "workers", "val_windows", "n_validations"}
"""Options that may differ when a training is resumed."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a generator on a dataset; the same command on the same folder goes on where it was stopped."""

    data: Path = Path("data/store_cereal")
    """Dataset to train on; only its seen cameras are used."""
    held_out: Path | None = None
    """Dataset to watch the hand error on; DATA_eval where it exists, by default."""
    preset: str = "layered_nano"
    """Size of the generator: a name or a file, see :func:`config_type`."""
    calibrated: bool = False
    """Give the generator the poses of both cameras. Without, it gets no camera pose, as in the paper."""
    ablation: AblationName = "none"
    """What to leave out of the method; trajectory_regression is the baseline that makes no video."""
    sensor: SensorName = "perfect"
    """How the cameras measure depth, of first frames and of targets: perfect, stereo or estimated (docs/sensors.md)."""
    pretrained: str | None = None
    """Stable Video Diffusion to start from, for the preset svd: a folder in diffusers' layout or a hub id."""
    autoencoder_steps: Steps | None = None
    """Steps that fit the preset svd's autoencoder of pointmaps, none by default. They come before --minutes or --steps
    and count towards neither; stopped, they go on from where they were."""
    tune: Literal["full", "lora"] = "full"
    """What is trained of pretrained weights: all, or lora, low-rank additions to the attention, for one small GPU."""
    shard: bool = False
    """Share out the weights, gradients and moments of a pretrained generator among the processes that a launcher
    starts (FSDP), for GPUs that cannot hold them each."""
    steps: Steps | None = None
    """Budget (1000 where neither this nor --minutes is given). Learning rate and end follow it."""
    minutes: Positive | None = None
    """Budget in time instead of steps: what is trained then depends on the machine and on what else runs there."""
    batch_size: Count = 8
    """Windows a step, of all processes together."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Highest learning rate, after the warm-up; 1.5e-3 where not given, 1e-5 from pretrained weights, 1e-4 with
    --tune lora."""
    seed: Seed = 0
    """Decides weights, windows and noise."""
    out: Path | None = None
    """Checkpoint folder; runs/TASK/PRESET by default (PRESET_calibrated, PRESET_stereo, PRESET-ABLATION), TASK being
    the dataset's folder name, PRESET that of a file without its ending."""
    threads: Processes | None = None
    """CPU threads; all by default."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that read windows ahead of the step, for a GPU; 0 is a thread of this process, enough on a CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto = bf16 where the GPU or processor computes in it, else fp32."""
    val_windows: Annotated[int, Field(ge=0, le=10**6)] = 12
    """Held-out windows that the hand error is measured on."""
    n_validations: Count = 10
    """How often within the budget the hand error is measured, pictures are drawn and a checkpoint is written."""

    def __post_init__(self) -> None:
        if self.minutes is not None and self.steps is not None:
            raise ConfigError("train: --minutes and --steps are both given; give one of them")
        for option, given in (("--tune lora", self.tune == "lora"), ("--shard", self.shard)):
            if given and self.pretrained is None:
                raise ConfigError(f"train: {option} is for pretrained weights; name them with --pretrained")
        if self.shard and self.tune == "lora":
            raise ConfigError("train: --tune lora leaves next to nothing to share out; leave --shard out")
        check_ranges(self)

    @property
    def highest_rate(self) -> float:
        """``learning_rate``, or its default."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.pretrained is None:
            return 1.5e-3
        return 1e-5 if self.tune == "full" else 1e-4

    @property
    def folder(self) -> Path:
        """Where the checkpoint goes."""
        sensor = "" if self.sensor == "perfect" else f"_{self.sensor}"
        left_out = "" if self.ablation == "none" else f"-{self.ablation}"
        name = Path(self.preset).stem + ("_calibrated" if self.calibrated else "") + sensor + left_out
        return self.out or Path("runs") / self.data.absolute().name / name


@dataclass(frozen=True)
class TrainResult:
    """``nothing_to_do`` where it was trained already. Of several processes only the ``first`` knows the held-out error
    and has a summary."""

    folder: Path
    steps: int
    minutes: float
    held_out_cm: float
    copy_cm: float
    nothing_to_do: bool
    data: Path
    first: bool

    def __str__(self) -> str:
        if not self.first:
            return ""
        head = "was trained already" if self.nothing_to_do else "trained"
        error = ""
        if math.isfinite(self.held_out_cm):
            error = f", held-out hand error {self.held_out_cm:.1f} cm (copying the first frame: {self.copy_cm:.1f} cm)"
        evaluation = _eval_of(self.data)
        first = "" if evaluation.exists() else f"geo4d-bench datagen --split eval --out {evaluation}, then "
        return (
            f"{head}: {self.steps} steps, {self.minutes:.1f} minutes{error}\n"
            f"checkpoint, log and pictures: {self.folder}\n"
            f"next: {first}geo4d-bench evaluate --checkpoint {self.folder} --data {evaluation}"
        )


def config_type(args: Sequence[str]) -> type[TrainConfig]:
    """:class:`TrainConfig` with the presets that there are in its help."""
    what = (
        "What to train: a preset, or a file like a checkpoint's config.json, of which calibrated, ablation and sensor "
        "are taken from this command, normalisation and arms from the data"
    )
    return with_help(TrainConfig, preset=listing(what, presets()))


def run(config: TrainConfig) -> TrainResult:
    """Train as configured.

    Raises:
        ConfigError: the preset's file is missing or says something impossible.  UnknownNameError: no such preset.
        DatasetError: no dataset, one of the eval split, or its images have another size than the preset's.
        CheckpointError: the folder holds another training, or cannot be written.
        TrainingError: the loss, or a weight, is not finite any more; the folder keeps the last good checkpoint.
        BusyError: another command is writing the folder.
        KeyboardInterrupt: stopped by Ctrl-C, after saving.
    """
    import torch.distributed

    from geo4d_bench.dataset.reader import Dataset

    preset = find_config(config.preset)
    if preset.needs_pretrained and config.pretrained is None:
        raise ConfigError(
            f"train: --preset {config.preset} works on the latents of a pretrained autoencoder, which would be random "
            "and stay so; name Stable Video Diffusion's folder or hub id with --pretrained"
        )
    data = Dataset(config.data)
    made = data.manifest.settings
    if made.split != "train":
        raise DatasetError(
            f"{config.data}: its episodes are of the '{made.split}' split, which generators and policies are judged "
            f"on; train on what 'geo4d-bench datagen --task {made.task_name}' makes"
        )
    source = _open(config, data, preset, config.workers)
    held_out = config.held_out or _eval_of(config.data)
    watching = config.held_out is not None or held_out.exists()
    val_windows = _open(config, Dataset(held_out), preset) if watching else None
    result = train(config, preset, source, val_windows, data.identity, data.rig.name)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return result


def train(
    config: TrainConfig,
    preset: GeneratorConfig,
    source: WindowSource,
    held_out: WindowSource | None,
    data_sha256: str = "",
    rig: str = "hemisphere16",
) -> TrainResult:
    """Train on any source of windows; :func:`run` is this on a dataset of a ``rig``, whose ``identity`` is
    ``data_sha256``: a training is not resumed on other data."""
    import torch

    from geo4d_bench.training.data import fixed_windows
    from geo4d_bench.training.trainer import Trainer

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.minutes is None and config.steps is None:
        config = dataclasses.replace(config, steps=1000)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_IDENTIFYING}
    settings |= {"data": str(config.data), "data_sha256": data_sha256}
    if config.preset.endswith(".json"):
        settings["preset_sha256"] = hashlib.sha256(preset.to_json().encode()).hexdigest()
    preset = dataclasses.replace(preset, calibrated=config.calibrated, sensor=config.sensor, rig=rig)
    seen = fixed_windows(source, 32, "normalisation")
    generator_config = preset.with_ablation(config.ablation).fitted(seen)
    val_windows = fixed_windows(held_out, config.val_windows, "held out") if held_out is not None else []
    # Of several processes that a launcher starts, the first holds the folder.
    with held(config.folder) if os.environ.get("RANK", "0") == "0" else nullcontext():
        trainer = Trainer(config, generator_config, settings, source, seen, val_windows)
        nothing_to_do = trainer.progress.finished
        if not nothing_to_do:
            try:
                trainer.run()
            except KeyboardInterrupt:
                if trainer.first and trainer.saved:
                    print(f"\nstopped and saved in {config.folder}; the same command goes on from there")
                raise
    held_out_cm = [float(r["held_out_cm"]) for r in trainer.rows if r["held_out_cm"]]
    return TrainResult(
        folder=config.folder,
        steps=trainer.progress.step,
        minutes=trainer.progress.trained_s / 60.0,
        held_out_cm=held_out_cm[-1] if held_out_cm else math.nan,
        copy_cm=trainer.copy_cm,
        nothing_to_do=nothing_to_do,
        data=config.data,
        first=trainer.first,
    )


def _eval_of(data: Path) -> Path:
    """Where datagen puts the demonstrations of the eval split that belong to ``data``."""
    data = data.absolute() if not data.name else data
    return data.with_name(data.name + "_eval")


def _open(config: TrainConfig, data: Dataset, preset: GeneratorConfig, workers: int = 0) -> WindowSource:
    """Windows of a dataset's seen cameras: novel ones are for evaluation alone. Unpacked images take half of the free
    memory at most, shared by the processes."""
    import psutil

    from geo4d_bench.dataset.windows import REMEMBER_BYTES, Windows

    processes = max(1, workers) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    room = min(REMEMBER_BYTES, psutil.virtual_memory().available // 2) // processes
    return Windows(
        data, "seen", horizon=preset.frames, dt_s=preset.dt_s, pad_share=_PAD_SHARE, remember_bytes=room,
        sensor=config.sensor, both_poses=config.calibrated,
    )  # fmt: skip
