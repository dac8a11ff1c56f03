"""The training loop: warm-up and cosine by budget, averaged weights, a log, pictures, and exact resumption.

On a CPU, a GPU, or several, each with a process of its own (``accelerate launch``, ``torchrun``): every process makes
its part of a batch, gradients are averaged, and all of them hold the same weights. The first writes, logs and draws.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from geo4d_bench.csv_files import read_csv
from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import CheckpointError, ConfigError, TrainingError
from geo4d_bench.interrupt import StopRequest
from geo4d_bench.io import write_atomic
from geo4d_bench.model.adapters import merged
from geo4d_bench.model.base import Generator
from geo4d_bench.model.batch import batch_from_windows, fake_batch, frames_of_window, true_video
from geo4d_bench.model.checkpoint import WEIGHTS_NAME, not_finite, save_checkpoint, whole
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.distributed import mean_over_processes
from geo4d_bench.runs import claim
from geo4d_bench.seeding import derive_seed, generator
from geo4d_bench.training.compiled import compile_layers
from geo4d_bench.training.data import AUXILIARY_WINDOWS, WindowSource
from geo4d_bench.training.device import computes_in_bf16, peak_mib
from geo4d_bench.training.optimizer import Optimizers
from geo4d_bench.training.pace import Pace
from geo4d_bench.training.pictures import draw_samples, training_chart
from geo4d_bench.training.resident import ResidentWindows, device_batches, hold_frames
from geo4d_bench.training.sharding import shard, without_weights
from geo4d_bench.training.state import (
    AVERAGE_EVERY,
    STATE_NAME,
    Average,
    Progress,
    load_state,
    local,
    save_beginning,
    save_state,
    state_tensors,
)
from geo4d_bench.training.validation import copy_error_cm, hand_error_cm

if TYPE_CHECKING:
    from geo4d_bench.training.train import TrainConfig

LOG_NAME, AUTOENCODER_LOG_NAME = "training_log.csv", "autoencoder_log.csv"
_WARMUP_STEPS = 50
_AVERAGE_DECAY = 0.99
_WEIGHT_DECAY = 0.01
READ_EVERY_S, READ_EVERY = 1.0, 10
"""Seconds, and steps of several processes, between two looks at the losses: a GPU must not wait for each of them."""


class _Unread(NamedTuple):
    """A step whose ``numbers`` (losses and gradient by ``names``) are still on the device."""

    number: int
    rate: float
    names: tuple[str, ...]
    numbers: Tensor


class Trainer:
    """One training in one folder, which is resumed only with equal ``settings``; the generator's priors are of
    ``prior_windows``. Exactly one of the config's ``minutes`` and ``steps`` is set."""

    def __init__(
        self,
        config: TrainConfig,
        generator_config: GeneratorConfig,
        settings: dict[str, Any],
        source: WindowSource,
        prior_windows: Sequence[Window],
        val_windows: Sequence[Window],
    ) -> None:
        self.config, self.folder, self.source, self.val_windows = config, config.folder, source, val_windows
        self.autoencoder_steps = config.autoencoder_steps or 0
        self.copy_cm = copy_error_cm(val_windows) if val_windows else math.nan
        self.accelerator = _accelerator()
        self.first = bool(self.accelerator.is_main_process)
        device, processes = self.accelerator.device, self.accelerator.num_processes
        self.bf16 = computes_in_bf16(device, config.precision)
        if config.batch_size % processes:
            raise ConfigError(
                f"train: --batch-size {config.batch_size} cannot be shared out evenly among {processes} processes; "
                f"give a multiple of {processes}"
            )
        if config.shard and processes == 1:
            raise ConfigError("train: --shard is for several processes, got 1; start them as docs/training.md says")
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed("training", "train", config.seed, "weights"))
            self.generator = generator_config.build(config.pretrained).to(device)
            if config.tune == "lora":
                self.generator.add_adapters()
        self.generator.set_priors(prior_windows)
        self.skeleton = self.generator
        self.model: nn.Module = _LossOf(self.generator)
        if config.shard:
            self.skeleton = without_weights(self.generator)
            shard(self.model, self.generator, self.bf16)
        # Of pretrained weights, what a GPU's memory is saved by (docs/training.md).
        self.lean = generator_config.needs_pretrained and self.bf16
        alone = self.lean and not config.shard
        self.average = Average(self.generator, _AVERAGE_DECAY, AVERAGE_EVERY if alone else 1, off_card=alone)
        eight_bit = alone and config.tune == "full"
        self.optimizers = Optimizers(self.generator.optimizer_groups(), config.highest_rate, _WEIGHT_DECAY, eight_bit)
        self.held: ResidentWindows | None = None
        self.fit_state: dict[str, Tensor] = {}
        self.saved = False
        self.unread: list[_Unread] = []
        self.read_at = 0.0
        if self.first:
            claim(self.folder, "training", STATE_NAME, settings)
        progress = load_state(self.folder, self.generator, self.average, self.optimizers, self.fit_state)
        if progress is None and (self.folder / WEIGHTS_NAME).exists():
            raise CheckpointError(f"{self.folder}: holds a checkpoint that cannot be resumed; choose another --out")
        self.progress = progress or Progress()
        self.fit_rows = _rows(self.folder / AUTOENCODER_LOG_NAME)[: self.progress.fitted]
        self.rows = _rows(self.folder / LOG_NAME, self.progress.step)

    @property
    def share(self) -> float:
        """Share of the budget that is used up, 0 to 1."""
        if self.config.steps is not None:
            return min(1.0, self.progress.step / self.config.steps)
        return min(1.0, self.progress.trained_s / (60.0 * (self.config.minutes or 0.0)))

    def run(self) -> None:
        """Fit the autoencoder, then train to the end of the budget. On SIGINT or SIGTERM in any process the step in
        hand ends, everything is saved, and KeyboardInterrupt is raised in all; the same call on the same folder goes
        on from there."""
        with StopRequest() as stop:
            if self.progress.step == 0 and self.progress.fitted < self.autoencoder_steps:
                self._fit_autoencoder(stop)
            self.held = hold_frames(self.source, self.accelerator.device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
            compiles = self.accelerator.device.type == "cuda" and not self.config.shard
            if compiles and (why := self._compile()) and self.first:
                print(f"train: {why}", file=sys.stderr)
            # Now, because that gives all processes the first one's weights, fitted ones too.
            if self.config.shard:
                for tensor in self.generator.state_dict().values():
                    if not isinstance(tensor, DTensor):
                        torch.distributed.broadcast(tensor, 0)
            else:
                self.model = self.accelerator.prepare_model(self.model)
            if self.lean:
                self.average.keep_frozen(self.generator)
                self.generator.halve_frozen()
            self._train(stop)

    def _compile(self) -> str | None:
        """Compile the generator's layers, and take a gradient of noise; why it was not done."""
        config, device = self.config, self.accelerator.device
        size = config.batch_size // self.accelerator.num_processes
        further = AUXILIARY_WINDOWS * size if self.generator.config.predicts_trajectory else 0

        def take_gradient() -> None:
            batch = {k: v.to(device) for k, v in fake_batch(self.generator.config, size, further).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                total = self.generator.loss(batch, torch.Generator(device).manual_seed(0)).total
            torch.autograd.backward(total)

        why = compile_layers(self.generator, take_gradient)
        self.optimizers.zero_grad()
        return why

    def _fit_autoencoder(self, stop: StopRequest) -> None:
        """Take the steps that are left; KeyboardInterrupt after saving where stopped before the last."""
        rows = self.generator.fit_autoencoder(self._fit_batches(stop), self.fit_state)
        self.fit_rows += [{k: f"{v:.6g}" for k, v in row.items()} for row in rows]
        self.progress.fitted += len(rows)
        stopped = self.progress.fitted < self.autoencoder_steps
        if not stopped:
            self.fit_state.clear()
        self._require_finite()
        if self.first:
            write_atomic(self.folder / AUTOENCODER_LOG_NAME, _csv(self.fit_rows))
        self._save_state()
        self.accelerator.wait_for_everyone()
        if stopped:
            raise KeyboardInterrupt

    def _fit_batches(self, stop: StopRequest) -> Iterator[dict[str, Tensor]]:
        for step in range(self.progress.fitted, self.autoencoder_steps):
            if self._agree(0.0, stop.received)[1]:
                return
            rng = generator("training", "train", self.config.seed, f"autoencoder {step}")
            batch = batch_from_windows([self.source.sample(rng) for _ in range(self.config.batch_size)])
            yield {k: v.to(self.accelerator.device) for k, v in batch.items()}

    def _train(self, stop: StopRequest) -> None:
        config, started, before = self.config, time.perf_counter(), self.progress.trained_s
        validated = int(self.share * config.n_validations)
        bar = tqdm(total=100, initial=int(100 * self.share), unit="%", desc="train", disable=not self.first)
        stream = device_batches(
            self.source, self.held, self.accelerator.device, self.progress.step, config.batch_size, config.seed,
            workers=config.workers,
            part=(self.accelerator.process_index, self.accelerator.num_processes),
            further=AUXILIARY_WINDOWS if self.generator.config.predicts_trajectory else 0,
        )  # fmt: skip
        stopped, pace, self.read_at = False, Pace(), time.perf_counter()
        with bar, closing(stream):
            while self.share < 1.0 and not stopped:
                self._step(stream)
                # One clock decides, and one stop request is all processes': otherwise some would wait for others.
                self.progress.trained_s, stopped = self._agree(before + time.perf_counter() - started, stop.received)
                due = int(self.share * config.n_validations) > validated
                saves = due or stopped or self.share >= 1.0
                if not (saves or self._reads_now()):
                    continue
                for row in self._read():
                    warning = pace.step(float(row["windows_per_s"])) if self.accelerator.num_processes == 1 else None
                    if warning is not None:
                        bar.write(f"train: {warning}", file=sys.stderr)
                if saves:
                    self._require_finite()
                if due:
                    validated = int(self.share * config.n_validations)
                    self._validate(self.rows[-1])
                    self.read_at = time.perf_counter()  # validation is no part of the speed
                self._show(bar)
            self.progress.finished = self.share >= 1.0
            self._save()
            self.accelerator.wait_for_everyone()  # a launcher ends all processes when one of them has ended
        if not self.progress.finished:
            raise KeyboardInterrupt

    def _validate(self, row: dict[str, str]) -> None:
        """Measure the held-out error, save unless this is the last step, and draw, all of the averaged weights. All
        processes call this and :meth:`_save`; the first does it."""
        weights, windows = whole(self.average.weights, self.first), self.val_windows
        if self.first:
            row["held_out_cm"] = "nan"
        if self.first and windows:
            device = self.accelerator.device
            averaged = self.average.module(self.skeleton, {k: v.to(device) for k, v in weights.items()})
            row["held_out_cm"] = f"{hand_error_cm(averaged, windows):.3f}"
        if self.share < 1.0:
            self._save()
        if not self.first:
            return
        log = pd.DataFrame(self.rows).replace("", math.nan).astype(float)
        training_chart(log, self.copy_cm if math.isfinite(self.copy_cm) else None, self.folder / "loss.png")
        if windows and self.generator.config.generates_video:
            shown = windows[:2]
            videos = averaged.generate([frames_of_window(w) for w in shown], range(len(shown)))
            draw_samples(self.folder / "samples.png", [true_video(w) for w in shown], videos)

    def _save(self) -> None:
        """Checkpoint (averaged weights), log, and the state to resume from."""
        weights = whole(self.average.weights, self.first)
        if self.first:
            save_beginning(self.folder)
            save_checkpoint(self.folder, self.generator.config, merged(weights))
            write_atomic(self.folder / LOG_NAME, _csv(self.rows))
        self._save_state()

    def _save_state(self) -> None:
        state = whole(self._state(), self.first)
        if self.first:
            save_state(self.folder, self.progress, state)
            self.saved = True

    def _state(self) -> dict[str, Tensor]:
        return state_tensors(self.generator, self.average, self.optimizers, self.fit_state)

    def _require_finite(self) -> None:
        """TrainingError, in all processes, before anything is saved that no training could go on from."""
        name = not_finite({k: local(v) for k, v in self._state().items()})
        if self._agree(0.0, name is not None)[1]:
            self._end(f"'{name or 'a weight elsewhere'}' is not finite any more after step {self.progress.step}")

    def _end(self, why: str) -> NoReturn:
        c, state = self.config, self.folder / STATE_NAME
        kept = f"{self.folder} keeps the last good checkpoint" if state.exists() else "no checkpoint was kept"
        raise TrainingError(
            f"train: {why} (learning rate {c.highest_rate:g}, {c.batch_size} windows a batch); {kept}; train in "
            "another --out with a smaller --learning-rate, and if that ends likewise look for the cause in the data: "
            f"geo4d-bench verify {c.data}"
        )

    def _step(self, stream: Iterator[dict[str, Tensor]]) -> None:
        """One training step, whose numbers stay on the device until :meth:`_read`."""
        batch = next(stream)
        noise_seed = derive_seed("training", "train", self.config.seed, f"noise {self.progress.step}")
        warm = min(1.0, (self.progress.step + 1) / _WARMUP_STEPS)
        rate = self.config.highest_rate * warm * 0.5 * (1.0 + math.cos(math.pi * self.share))
        self.optimizers.set_rate(rate)
        device = self.accelerator.device
        rng = torch.Generator(device).manual_seed(noise_seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            total, parts = self.model(batch, rng)
        self.accelerator.backward(total)
        norm = torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.generator.config.gradient_clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.optimizers.step()
        self.optimizers.zero_grad()  # now, so that gradients take no memory beside the next step's activations
        self.progress.step += 1
        self.average.update(self.generator, self.progress.step)
        losses = mean_over_processes(torch.stack([total.detach(), *parts.values()]).float())
        names = ("loss", *parts, "gradient")
        self.unread.append(_Unread(self.progress.step, rate, names, torch.cat([losses, norm.detach()[None]])))

    def _reads_now(self) -> bool:
        """Whether it is time to look at the losses; several processes must do so in the same step."""
        if self.accelerator.num_processes > 1:
            return self.progress.step % READ_EVERY == 0
        return time.perf_counter() >= self.read_at + READ_EVERY_S

    def _read(self) -> list[dict[str, str]]:
        """Log the steps since the last call; TrainingError where one of them was not finite."""
        numbers = torch.stack([step.numbers for step in self.unread]).tolist()  # waits for the device
        now, memory = time.perf_counter(), peak_mib(self.accelerator.device)
        took = (now - self.read_at) / len(numbers)
        rows = []
        for index, (step, values) in enumerate(zip(self.unread, numbers, strict=True)):
            named = dict(zip(step.names, values, strict=True))
            if not math.isfinite(named["loss"] + named["gradient"]):
                self._end(
                    f"step {step.number} gives a loss of {named['loss']:g} and a gradient of {named['gradient']:g}"
                )
            seconds = self.progress.trained_s - took * (len(numbers) - 1 - index)
            row = {"step": str(step.number), "seconds": f"{seconds:.2f}"}
            row |= {k: f"{v:.6g}" for k, v in (named | {"rate": step.rate}).items()}
            row |= {"windows_per_s": f"{self.config.batch_size / took:.2f}", "peak_mib": f"{memory:.0f}"}
            rows.append(row | {"held_out_cm": ""})
        self.unread, self.read_at = [], now
        self.rows += rows
        return rows

    def _agree(self, trained_s: float, stop: bool) -> tuple[float, bool]:
        """The first process's time, and whether any received a stop request."""
        if self.accelerator.num_processes == 1:
            return trained_s, stop
        own = torch.tensor([trained_s if self.first else 0.0, float(stop)], dtype=torch.float64)
        total = self.accelerator.reduce(own.to(self.accelerator.device), "sum").tolist()
        return total[0], total[1] > 0

    def _show(self, bar: Any) -> None:
        loss, speed = (fmean(float(r[k]) for r in self.rows[-20:]) for k in ("loss", "windows_per_s"))
        hand_cm = next((r["held_out_cm"] for r in reversed(self.rows) if r["held_out_cm"]), "?")
        text = f"step {self.progress.step}, loss {loss:.3f}, {speed:.1f} windows/s, hand {hand_cm} cm"
        bar.set_postfix_str(text, refresh=False)
        bar.update(int(100 * self.share) - bar.n)


class _LossOf(nn.Module):
    """A generator's loss as a module's forward pass, which is what ``DistributedDataParallel`` wraps."""

    def __init__(self, generator: Generator[Any]) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, batch: dict[str, Tensor], rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.generator.loss(batch, rng)
        return loss.total, loss.parts


def _accelerator() -> Accelerator:
    """One process a GPU, or a CPU where there is none (or ACCELERATE_USE_CPU forbids it), as the launcher says; but
    ``--precision`` decides on bfloat16."""
    cpu = not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=2))  # the first process draws and saves for long
    in_place = DistributedDataParallelKwargs(gradient_as_bucket_view=True)  # gradients are not held twice
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[patient, in_place])


def _rows(path: Path, until: int | None = None) -> list[dict[str, str]]:
    """What :func:`_csv` wrote, up to a step; none where there is no such file. CheckpointError where it is damaged."""
    try:
        table = read_csv(path, lambda column, cell: True, CheckpointError).complete(CheckpointError)
        if not {"step", "loss"} & set(table.columns):
            raise ValueError("it has no column 'step' or 'loss'")
        rows = [dict(zip(table.columns, cells, strict=True)) for _, cells in table.lines]
        for row in rows:
            for cell in row.values():
                float(cell or "nan")
        return [row for row in rows if until is None or int(row["step"]) <= until]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a log of this program ({error}); remove it to go on without") from None


def _csv(rows: Sequence[dict[str, str]]) -> str:
    # A resumed log may be of another version and lack columns.
    return pd.DataFrame(rows, columns=None if rows else ["step"]).to_csv(index=False)
