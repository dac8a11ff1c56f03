"""Rollouts: a policy plays seeded episodes from seen or novel views; every episode is a row the moment it ends."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import CheckpointError, ConfigError, LedgerError
from geo4d_bench.harness import leaderboard
from geo4d_bench.harness.leaderboard import Leaderboard
from geo4d_bench.harness.ledger import EpisodeRow, Ledger
from geo4d_bench.model.backbones import Device

if TYPE_CHECKING:
    from geo4d_bench.policies import PolicyFactory

SPLIT = "eval"
"""Policies are judged on seeds that no demonstration was made from."""


@dataclass(frozen=True)
class RolloutConfig:
    task: str = "store_cereal"
    """Task to play."""
    policy: str = "geo4d"
    """Policy that plays: expert, oracle_pose, oracle_video, geo4d, pose_regression (or either with _calibrated)
    or random."""
    checkpoint: Path | None = None
    """Checkpoint folder of a policy that needs one; runs/<task>/nano (with _calibrated and -pose_regression)
    where not given."""
    views: str = "novel"
    """Where the pair of cameras of each episode is taken from: seen, novel, random16, orbit or a rig's .yaml file."""
    rig: str = "hemisphere16"
    """Rig that seen and novel refer to: the one that the policy was trained on."""
    episodes: int = 20
    """Number of episodes; more than last time adds the missing ones."""
    seed: int = 1000
    """Seed of the first episode; the following ones count up."""
    sensor: SensorName | None = None
    """How the depth that the policy sees is measured; as in its checkpoint's training where not given."""
    steps: int | None = None
    """Sampling steps; the checkpoint's own number where not given."""
    execute: int = 4
    """Waypoints of each plan that are carried out before the next one."""
    height: int = 64
    """Images' height in pixels, where the checkpoint does not fix it."""
    width: int = 80
    """Images' width in pixels, where the checkpoint does not fix it."""
    workers: int = 2
    """Processes; the rows do not depend on it."""
    side_by_side: int = 4
    """Simulations in each process that share a call of the generator; the rows do not depend on it."""
    device: Device = "cpu"
    """Where the checkpoint generates. On a GPU (cuda) two runs may differ by rounding."""
    video: bool = False
    """Also write an MP4 of each episode."""
    out: Path | None = None
    """Folder of the results; runs/<task>/rollout_<policy>_<views> where not given."""

    def __post_init__(self) -> None:
        for name in ("episodes", "steps", "execute", "height", "width", "workers", "side_by_side"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {number}, expected at least 1")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}, expected 0 or more")

    @property
    def folder(self) -> Path:
        """Where results go."""
        name = Path(self.views).stem if self.views.endswith((".yaml", ".yml")) else self.views
        return self.out or Path("runs") / self.task / f"rollout_{self.policy}_{name}"

    @property
    def checkpoint_folder(self) -> Path:
        """Where a checkpoint is looked for."""
        name = "nano_calibrated" if self.policy.endswith("_calibrated") else "nano"
        name += "-pose_regression" if self.policy.startswith("pose_regression") else ""
        return self.checkpoint or Path("runs") / self.task / name


@dataclass(frozen=True)
class Run:
    """What decides the rows of a rollout, and what stands in each of them.

    Attributes:
        run_id: 16 hex digits over ``settings``.  settings_id: over those but ``seed``.
        settings: task, version, policy, checkpoint, sensor, steps (None: the checkpoint's own), views, seed, split,
            images' size, execute, fingerprint.
    """

    run_id: str
    settings_id: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Rollout:
    """A finished rollout.

    Attributes:
        rows: all rows of the ledger, this call's and earlier ones'.  made: how many this call made.
    """

    rows: tuple[EpisodeRow, ...]
    made: int
    board: Leaderboard
    out: Path

    @property
    def exit_code(self) -> int:
        """1 where an episode crashed, else 0: failing at the task is a result, not an error."""
        return self.board.exit_code

    def __str__(self) -> str:
        first = self.rows[0]
        count = Counter(row.status for row in self.rows)
        status = ", ".join(f"{count[s]} {s}" for s in ("success", "failure", "timeout", "crash") if count[s])
        lines = [f"{first.policy} on {first.views} views: {status} ({self.made} of {len(self.rows)} made now)"]
        failed = leaderboard.failed_after(self.rows)
        if failed:
            lines.append(f"without success, last phase reached: {leaderboard.phase_counts(failed)}")
        lines += [*self.board.table(), *self.board.notes()]
        lines += [
            f"rows, leaderboard and trajectories: {self.out}",
            f"compare: geo4d-bench leaderboard {self.out.parent}",
        ]
        return "\n".join(lines)


def run(config: RolloutConfig) -> Rollout:
    """Play the episodes that are not in the ledger yet.

    Raises:
        UnknownNameError: no such task or policy.
        ConfigError: views or numbers that make no sense, or ``steps`` for a policy that generates no video.
        CheckpointError: the policy needs a checkpoint and there is none.
        LedgerError: ``out`` holds the rows of another run.
    """
    from geo4d_bench.harness import workers

    company = workers.prepare(config)
    ledger = Ledger(config.folder / "episodes.csv")
    there = _present(ledger, company.run)
    seeds = range(config.seed, config.seed + config.episodes)
    finished = {row.seed for row in there if row.status != "crash"}
    missing = [seed for seed in seeds if seed not in finished]
    if missing:
        _save_config(config, company.run)
        try:
            workers.play_all(config, company, missing)
        finally:
            if ledger.path.exists():
                ledger.tidy()
    rows = ledger.read().rows
    board = leaderboard.run(leaderboard.LeaderboardConfig((config.folder,), config.folder / "leaderboard.csv"))
    return Rollout(rows, len(missing), board, config.folder)


def describe(config: RolloutConfig, factory: PolicyFactory, version: str) -> Run:
    """What decides the rows. The number of episodes, workers and films do not."""
    from geo4d_bench.fingerprint import fingerprint

    height, width = factory.image_size or (config.height, config.width)
    settings = {
        "task": config.task,
        "task_version": version,
        "policy": factory.name,
        "checkpoint": factory.checkpoint_sha256,
        "views": _rig_identity(config.views),
        "rig": _rig_identity(config.rig),
        "sensor": config.sensor or factory.sensor,
        "steps": config.steps,
        "split": SPLIT,
        "seed": config.seed,
        "execute": config.execute,
        "device": config.device if factory.needs_checkpoint else "cpu",
        "image_size": [height, width] if factory.needs_images else None,
        "fingerprint": fingerprint(),
    }
    return Run(_digest(settings), _digest({k: v for k, v in settings.items() if k != "seed"}), settings)


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _rig_identity(name: str) -> str:
    """A registered rig's name, or the sha256 of a rig's file: another rig is another run, whatever it is called."""
    from geo4d_bench.tasks.rigs import is_rig_file

    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if is_rig_file(name) else name


def load_policy(config: RolloutConfig) -> PolicyFactory:
    """The policy's factory; CheckpointError naming the command that makes a missing checkpoint, ConfigError where
    the checkpoint is for another number of arms than the task has, or steps are given to a policy that samples none."""
    from geo4d_bench import tasks
    from geo4d_bench.policies import make_policy, train_options

    arms = tasks.spec(config.task).arms
    try:
        factory = make_policy(
            config.policy, config.checkpoint_folder, execute=config.execute, device=config.device, steps=config.steps
        )
    except CheckpointError:
        if config.checkpoint_folder.is_dir():
            raise
        raise CheckpointError(
            f"policy '{config.policy}' needs a trained generator and there is none at {config.checkpoint_folder}; "
            f"make one with 'geo4d-bench datagen --task {config.task}' and then 'geo4d-bench train --data "
            f"data/{config.task} {train_options(config.policy)} --out {config.checkpoint_folder}', or name one with "
            "--checkpoint"
        ) from None
    if config.sensor is not None and not factory.needs_checkpoint:
        raise ConfigError(
            f"policy '{config.policy}' is given no measured depth, so that --sensor {config.sensor} would change "
            "nothing; leave it out"
        )
    if factory.arms not in (None, len(arms)):
        raise ConfigError(
            f"{config.checkpoint_folder} was trained for {factory.arms} arm(s), and {config.task} has {len(arms)} "
            f"({', '.join(arms)}); name a checkpoint that was trained on {config.task} with --checkpoint"
        )
    return factory


def _present(ledger: Ledger, mine: Run) -> tuple[EpisodeRow, ...]:
    """This run's rows; LedgerError where the ledger holds another's."""
    contents = ledger.read()
    others = {row.run_id for row in contents.rows} - {mine.run_id}
    if others:
        raise LedgerError(
            f"{ledger.path} holds rows of another run ({', '.join(sorted(others))}, not {mine.run_id}: settings, "
            f"checkpoint or code differ{_changed(ledger.path.parent, mine)}); use another --out, or delete "
            f"{ledger.path.parent}"
        )
    if contents.torn is not None:
        print(f"{ledger.path}: the last line was cut off and is dropped; its episode is run again")
    return contents.rows


def _changed(folder: Path, mine: Run) -> str:
    """In words, which settings the folder's config.json has otherwise."""
    try:
        before = json.loads((folder / "config.json").read_text())["settings"]
    except (OSError, ValueError, KeyError):
        return ""
    names = [name for name, value in mine.settings.items() if before.get(name) != value]
    return f": {', '.join(names)}" if names else ""


def _save_config(config: RolloutConfig, mine: Run) -> None:
    from geo4d_bench.fingerprint import commit

    content = {
        "run_id": mine.run_id,
        "settings": mine.settings,
        "commit": commit(),
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()},
    }
    config.folder.mkdir(parents=True, exist_ok=True)
    fresh = config.folder / "config.json.new"
    fresh.write_text(json.dumps(content, indent=2) + "\n")
    fresh.replace(config.folder / "config.json")
