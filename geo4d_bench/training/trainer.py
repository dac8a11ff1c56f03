"""The training loop: warm-up and cosine by budget, averaged weights, a log, pictures, and exact resumption.

On a CPU, a GPU, or several, each with a process of its own (``accelerate launch``, ``torchrun``): every process makes
its part of a batch, gradients are averaged, and all of them hold the same weights. The first writes, logs and draws.
"""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, parse_flag_from_env
from torch import Tensor, nn

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.interrupt import StopRequest
from geo4d_bench.io import write_atomic
from geo4d_bench.model.base import Generator
from geo4d_bench.model.batch import batch_from_windows
from geo4d_bench.model.checkpoint import WEIGHTS_NAME, save_checkpoint
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.distributed import mean_over_processes
from geo4d_bench.runs import claim
from geo4d_bench.seeding import derive_seed, generator
from geo4d_bench.training.data import AUXILIARY_WINDOWS, WindowSource, batches
from geo4d_bench.training.device import computes_in_bf16, peak_mib
from geo4d_bench.training.optimizer import Optimizers
from geo4d_bench.training.pace import Pace
from geo4d_bench.training.state import STATE_NAME, Average, Progress, load_state, read_progress, save_state
from geo4d_bench.training.validation import hand_error_cm

LOG_NAME, AUTOENCODER_LOG_NAME = "training_log.csv", "autoencoder_log.csv"


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: exactly one of ``minutes`` and ``steps`` is set."""

    minutes: float | None
    steps: int | None
    batch_size: int
    learning_rate: float
    warmup_steps: int = 50
    average_decay: float = 0.99
    weight_decay: float = 0.01
    n_validations: int = 10
    """How often held-out error, pictures and a checkpoint are made within the budget."""

    def done(self, progress: Progress) -> float:
        """Share of the budget that is used up, 0 to 1."""
        if self.steps is not None:
            return min(1.0, progress.step / self.steps)
        return min(1.0, progress.trained_s / (60.0 * (self.minutes or 0.0)))

    def rate(self, progress: Progress) -> float:
        """Learning rate of the next step."""
        warm = min(1.0, (progress.step + 1) / self.warmup_steps)
        return self.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * self.done(progress)))


class Trainer:
    """One training in one folder. ``settings`` identify it: a folder is resumed only with equal ones.

    The generator's priors are of ``prior_windows``; ``pretrained`` are weights to start from, see
    ``GeneratorConfig.build``; ``autoencoder_steps`` fit the pointmap autoencoder before the budget begins.
    """

    def __init__(
        self,
        folder: Path,
        config: GeneratorConfig,
        schedule: Schedule,
        seed: int,
        settings: dict[str, Any],
        source: WindowSource,
        val_windows: Sequence[Window],
        precision: str,
        workers: int,
        prior_windows: Sequence[Window],
        pretrained: str | None = None,
        autoencoder_steps: int = 0,
    ) -> None:
        self.folder, self.schedule, self.seed = folder, schedule, seed
        self.source, self.val_windows, self.workers = source, val_windows, workers
        self.autoencoder_steps = autoencoder_steps
        self.accelerator = _accelerator()
        device, processes = self.accelerator.device, self.accelerator.num_processes
        self.bf16 = computes_in_bf16(device, precision)
        if schedule.batch_size % processes:
            raise ConfigError(
                f"train: --batch-size {schedule.batch_size} cannot be shared out evenly among {processes} processes; "
                f"give a multiple of {processes}"
            )
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed("training", "train", seed, "weights"))
            self.generator = config.build(pretrained).to(device)
        self.generator.set_priors(prior_windows)
        self.average = Average(self.generator, schedule.average_decay)
        self.optimizers = Optimizers(self.generator.optimizer_groups(), schedule.learning_rate, schedule.weight_decay)
        self.progress = Progress()
        self.rows: list[dict[str, str]] = []
        self.fit_rows: list[dict[str, str]] = []
        self.fit_state: dict[str, Tensor] = {}
        self.saved = False
        if self.first:
            claim(self.folder, "training", STATE_NAME, settings)
        self._resume()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, or the only one."""
        return bool(self.accelerator.is_main_process)

    def run(self, on_watch: Callable[[Trainer], None] | None = None) -> None:
        """Fit the autoencoder, then train to the end of the budget. On SIGINT or SIGTERM in any process the step in
        hand ends, everything is saved, and KeyboardInterrupt is raised in all; the same call on the same folder goes
        on from there.

        ``on_watch`` is called in the first process alone.
        """
        with StopRequest() as stop:
            if self.progress.step == 0 and self.progress.fitted < self.autoencoder_steps:
                self._fit_autoencoder(stop)
            # Wrapped now, because that gives all processes the first one's weights, fitted ones too.
            self.model = self.accelerator.prepare_model(_LossOf(self.generator))
            self._train(stop, on_watch)

    def save(self) -> None:
        """Checkpoint (averaged weights), log, and the state to resume from."""
        save_checkpoint(self.folder, self.generator.config, self.average.weights)
        write_atomic(self.folder / LOG_NAME, _csv(self.rows))
        self._save_state()

    def averaged_generator(self) -> Generator[Any]:
        """The generator with the averaged weights, what a checkpoint holds, see :meth:`Average.module`."""
        return self.average.module(self.generator)

    # ---- parts ------------------------------------------------------------------------------------------------

    def _fit_autoencoder(self, stop: StopRequest) -> None:
        """Take the steps that are left; KeyboardInterrupt after saving where stopped before the last."""
        rows = self.generator.fit_autoencoder(self._fit_batches(stop), self.fit_state)
        self.fit_rows += [{k: f"{v:.6g}" for k, v in row.items()} for row in rows]
        self.progress.fitted += len(rows)
        stopped = self.progress.fitted < self.autoencoder_steps
        if not stopped:
            self.fit_state.clear()
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
            rng = generator("training", "train", self.seed, f"autoencoder {step}")
            batch = batch_from_windows([self.source.sample(rng) for _ in range(self.schedule.batch_size)])
            yield {k: v.to(self.accelerator.device) for k, v in batch.items()}

    def _train(self, stop: StopRequest, on_watch: Callable[[Trainer], None] | None) -> None:
        from tqdm import tqdm

        started, before = time.perf_counter(), self.progress.trained_s
        n_validations = int(self.schedule.done(self.progress) * self.schedule.n_validations)
        initial = int(100 * self.schedule.done(self.progress))
        bar = tqdm(total=100, initial=initial, unit="%", desc="train", disable=not self.first)
        part = (self.accelerator.process_index, self.accelerator.num_processes)
        stream = batches(
            self.source, self.schedule.batch_size, self.seed, self.progress.step, self.workers, part=part,
            further=AUXILIARY_WINDOWS if self.generator.config.predicts_trajectory else 0,
        )  # fmt: skip
        stopped, pace = False, Pace()
        with bar, closing(stream):
            while self.schedule.done(self.progress) < 1.0 and not stopped:
                row = self._step(stream)
                self.rows.append(row)
                # One clock decides, and one stop request is all processes': otherwise some would wait for others.
                self.progress.trained_s, stopped = self._agree(before + time.perf_counter() - started, stop.received)
                share = self.schedule.done(self.progress)
                if int(share * self.schedule.n_validations) > n_validations:
                    n_validations = int(share * self.schedule.n_validations)
                    if self.first:
                        row["held_out_cm"] = f"{self._held_out():.3f}"
                        if share < 1.0:
                            self.save()
                        if on_watch is not None:
                            on_watch(self)
                said = pace.step(float(row["windows_per_s"])) if self.accelerator.num_processes == 1 else None
                if said is not None:
                    bar.write(f"train: {said}", file=sys.stderr)
                self._show(bar, share)
            self.progress.finished = self.schedule.done(self.progress) >= 1.0
            if self.first:
                self.save()
            self.accelerator.wait_for_everyone()  # a launcher ends all processes when one of them has ended
        if not self.progress.finished:
            raise KeyboardInterrupt

    def _save_state(self) -> None:
        save_state(self.folder, self.progress, self.generator, self.average, self.optimizers, self.fit_state)
        self.saved = True

    def _resume(self) -> None:
        progress = read_progress(self.folder)
        if progress is None:
            if (self.folder / WEIGHTS_NAME).exists():
                raise CheckpointError(f"{self.folder}: holds a checkpoint that cannot be resumed; choose another --out")
            return
        load_state(self.folder, self.generator, self.average, self.optimizers, self.fit_state)
        self.progress = progress
        self.fit_rows = _rows(self.folder / AUTOENCODER_LOG_NAME)[: progress.fitted]
        self.rows = [r for r in _rows(self.folder / LOG_NAME) if int(r["step"]) <= progress.step]

    def _step(self, stream: Iterator[dict[str, Tensor]]) -> dict[str, str]:
        started = time.perf_counter()
        batch = next(stream)
        rng = torch.Generator().manual_seed(derive_seed("training", "train", self.seed, f"noise {self.progress.step}"))
        rate = self.schedule.rate(self.progress)
        self.optimizers.set_rate(rate)
        device = self.accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            total, parts = self.model({k: v.to(device, non_blocking=True) for k, v in batch.items()}, rng)
        self.optimizers.zero_grad()
        self.accelerator.backward(total)
        norm = torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.generator.config.gradient_clip)
        self.optimizers.step()
        self.progress.step += 1
        self.average.update(self.generator, self.progress.step)
        names = ["loss", *parts]
        means = mean_over_processes(torch.tensor([float(total.detach()), *parts.values()], device=device)).tolist()
        values = dict(zip(names, means, strict=True)) | {"gradient": float(norm), "rate": rate}
        took = time.perf_counter() - started  # a GPU has finished the step: the numbers above waited for it
        row = {"step": str(self.progress.step), "seconds": f"{self.progress.trained_s + took:.2f}"}
        row |= {k: f"{v:.6g}" for k, v in values.items()}
        row |= {"windows_per_s": f"{self.schedule.batch_size / took:.2f}", "peak_mib": f"{peak_mib(device):.0f}"}
        return row | {"held_out_cm": ""}

    def _agree(self, trained_s: float, stop: bool) -> tuple[float, bool]:
        """The first process's time, and whether any was told to stop."""
        own = torch.tensor([trained_s if self.first else 0.0, float(stop)], dtype=torch.float64)
        total = self.accelerator.reduce(own.to(self.accelerator.device), "sum").tolist()
        return total[0], total[1] > 0

    def _held_out(self) -> float:
        return hand_error_cm(self.averaged_generator(), self.val_windows) if self.val_windows else math.nan

    def _show(self, bar: Any, share: float) -> None:
        recent = self.rows[-20:]
        val_windows = [r["held_out_cm"] for r in self.rows if r["held_out_cm"]]
        bar.set_postfix_str(
            f"step {self.progress.step}, loss {sum(float(r['loss']) for r in recent) / len(recent):.3f}, "
            f"{sum(float(r['windows_per_s']) for r in recent) / len(recent):.1f} windows/s, "
            f"hand {val_windows[-1] if val_windows else '?'} cm",
            refresh=False,
        )
        bar.update(int(100 * share) - bar.n)


class _LossOf(nn.Module):
    """A generator's loss as a module's forward pass, which is what ``DistributedDataParallel`` wraps."""

    def __init__(self, generator: Generator[Any]) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, batch: dict[str, Tensor], rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss = self.generator.loss(batch, rng)
        return loss.total, loss.parts


def _accelerator() -> Accelerator:
    """One process a GPU, as the launcher says, or a CPU where there is none (or ACCELERATE_USE_CPU forbids it).

    ``--precision`` decides on bfloat16, not the launcher.
    """
    cpu = not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=2))  # the first process draws and saves for long
    in_place = DistributedDataParallelKwargs(gradient_as_bucket_view=True)  # gradients are not held twice
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[patient, in_place])


def _rows(path: Path) -> list[dict[str, str]]:
    """What :func:`_csv` wrote; none where there is no such file."""
    return list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []


def _csv(rows: Sequence[dict[str, str]]) -> str:
    if not rows:
        return "step\n"
    out = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)  # a resumed log may be of another version
    writer = csv.DictWriter(out, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
