"""The options of a rollout, and what of them decides its rows."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field

from geo4d_bench.dataset.schema import Pixels
from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError
from geo4d_bench.fingerprint import fingerprint
from geo4d_bench.geometry.room import RoomsName, draw_room
from geo4d_bench.options import Count, Processes, check_ranges, listing, option, with_help
from geo4d_bench.policies.true_stages import STAGES, Replacement
from geo4d_bench.rollout.leaderboard import CHOSEN_EPISODES
from geo4d_bench.rollout.ledger import RunColumns
from geo4d_bench.rollout.views import Views, resolve
from geo4d_bench.runs import run_id
from geo4d_bench.seeding import Seed

if TYPE_CHECKING:
    from geo4d_bench.policies import PolicyFactory

SPLIT = "eval"
"""Policies are judged on seeds that no demonstration was made from."""


@dataclass(frozen=True)
class RolloutConfig:
    task: str = "store_cereal"
    """Task to play."""
    policy: str = "layered"
    """Policy that plays; it decides which further options there are."""
    views: str = "novel"
    """Where the pair of cameras of each episode is taken from: seen, novel, a rig's name or file, or a published
    protocol (vista_small, libero_plus_3 and others, see docs/rigs.md)."""
    rig: str | None = None
    """Rig that seen and novel refer to; the one that the checkpoint was trained on where not given, hemisphere16
    for policies without one."""
    rooms: RoomsName = "fixed"
    """Rooms about the work: fixed, or drawn anew for every episode, varied or held_out (docs/rooms.md)."""
    episodes: Count = 20
    """Number of episodes; more than last time adds the missing ones."""
    seed: Seed = 1000
    """Seed of the first episode; the following ones count up."""
    sensor: SensorName | None = None
    """How the depth that the policy sees is measured; as in its checkpoint's training where not given."""
    calibration_deg: Annotated[float, Field(ge=0, le=90)] = 0.0
    """Turns the cameras' poses that the policy is told by this much, about axes drawn for each episode and camera."""
    calibration_cm: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Shifts them by this much."""
    realtime: Annotated[float, Field(ge=0, le=100)] | Literal["measured"] = 0.0
    """Seconds that the world goes on while the policy plans, in whole control steps: 0 stops it, measured takes the
    median of 10 plans here, once for a folder (docs/realtime.md)."""
    height: Pixels = 64
    """Images' height in pixels, where the checkpoint does not fix it."""
    width: Pixels = 80
    """Images' width in pixels, where the checkpoint does not fix it."""
    workers: Processes = 2
    """Processes; the rows do not depend on it."""
    side_by_side: Count = 1
    """Episodes in each process that share a pass of the generator, for a GPU. The last bits of a plan depend on it."""
    cluster: str | None = None
    """Play on a Ray cluster instead of local processes: its address, or auto; see datagen."""
    video: bool = False
    """Also write an MP4 of each episode."""
    replacement: tyro.conf.Suppress[Replacement | None] = None
    """The stage of the policy that is replaced by the truth, for an error budget, see ``policies.true_stages``."""
    options: tyro.conf.Suppress[Any] = None
    """The policy's own options, an instance of its ``Options``; its defaults where None."""
    out: Path | None = None
    """Folder of the results; runs/<task>/rollout_<policy>_<views>, with _<rooms> unless they are fixed and
    _realtime_<seconds>, where not given."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def folder(self) -> Path:
        """Where results go."""
        from geo4d_bench.tasks.rigs import is_rig_file

        name = Path(self.views).stem if is_rig_file(self.views) else self.views
        rooms = "" if self.rooms == "fixed" else f"_{self.rooms}"
        late = f"_realtime_{self.realtime}" if self.realtime else ""
        return self.out or Path("runs") / self.task / f"rollout_{self.policy}_{name}{rooms}{late}"

    @property
    def ledger(self) -> Path:
        """Where the rows go. With a stage replaced they are of chosen seeds: no board shall find them."""
        return self.folder / ("episodes.csv" if self.replacement is None else CHOSEN_EPISODES)


def config_type(args: Sequence[str]) -> type[RolloutConfig]:
    """:class:`RolloutConfig` with the options of the policy that command-line arguments name; UnknownNameError."""
    from geo4d_bench import policies

    policy = policies.policy_class(option(args, "--policy") or RolloutConfig.policy)
    names = listing(f"Policy that plays; it has options of its own (here those of {policy.name})", policies.names())
    return with_help(RolloutConfig, policy.Options(), policy=names)


@dataclass(frozen=True)
class RolloutContext:
    """What decides the rows of a rollout, and what a process plays with.

    Attributes:
        run_id: 16 hex digits over ``settings``.
        settings: task, version, policy, generator, ablation, checkpoint, the policy's options, sensor, calibration,
            views, rig, rooms, seed, split, images' size, latency, fingerprint.
        columns: what stands in each row.
        factory: makes policies.  views: what camera pairs are drawn from.
    """

    config: RolloutConfig
    run_id: str
    settings: dict[str, Any]
    columns: RunColumns
    factory: PolicyFactory
    views: Views


def prepare(config: RolloutConfig, factory: PolicyFactory | None = None) -> RolloutContext:
    """Load what decides the rows, which the number of episodes, workers and films do not; cheap checks come first.

    Args:
        config: where its latency is still to be measured, the world stands still.
        factory: of the config's policy, where it is loaded already.

    Raises:
        UnknownNameError: no such task, policy, rig, views or rooms.
        CheckpointError: the policy needs a checkpoint and there is none; names the command that makes one.
        ConfigError: the checkpoint is for another number of arms than the task has, ``sensor`` is given to a policy
            that measures no depth, a calibration error to one without images, or views that make no sense.
    """
    from geo4d_bench import tasks
    from geo4d_bench.policies import PolicyFactory
    from geo4d_bench.tasks.rigs import make_rig
    from geo4d_bench.trackers import SEGMENTERS

    spec = tasks.spec(config.task)
    tasks.require_robosuite()
    draw_room(config.rooms, spec.key, SPLIT, config.seed)  # no such set is an error before any work
    resolve(config.views, make_rig(config.rig or PolicyFactory.rig, spec.workspace))  # neither are faulty cameras
    factory = factory or _load_policy(config, spec.arms)
    rig = config.rig or _trained_rig(config, factory)
    views = resolve(config.views, make_rig(rig, spec.workspace))
    policy = factory.policy
    options = dataclasses.asdict(config.options or policy.Options())
    shared: dict[str, Any] = {
        "task": spec.id,
        "task_version": spec.version,
        "policy": ", ".join([policy.name, *([STAGES[config.replacement].words] if config.replacement else [])]),
        "generator": factory.generator,
        "ablation": factory.ablation,
        "checkpoint": factory.checkpoint_sha256,
        "sensor": config.sensor or factory.sensor,
        "rooms": config.rooms,
        "tracker": options.get("tracker") or "",
        "segmenter": options.get("segmenter") or "",
        "calibration_deg": float(config.calibration_deg),
        "calibration_cm": float(config.calibration_cm),
        "fingerprint": fingerprint(),
    }
    settings = shared | {
        "views": _rig_identity(config.views),
        "rig": _rig_identity(rig),
        "split": SPLIT,
        "options": {k: v for k, v in options.items() if k not in ("checkpoint", "fast_checkpoint")},
        "side_by_side": config.side_by_side if policy.needs_checkpoint else 1,
        "image_size": list(factory.image_size or (config.height, config.width)) if policy.needs_images else None,
    }
    if shared["segmenter"]:
        settings["segmenter_version"] = SEGMENTERS.get(shared["segmenter"]).version(spec.id)
    if factory.fast_checkpoint_sha256:
        settings["fast_checkpoint"] = factory.fast_checkpoint_sha256
    late = 0 if config.realtime == "measured" else math.ceil(config.realtime * spec.control_hz - 1e-6)
    latency_s = late / spec.control_hz
    if late:
        settings["latency_s"] = latency_s
    columns = RunColumns(
        **shared,
        latency_s=latency_s,
        views=views.name,
        rig=views.training.name,
        steps=options.get("steps") or 0,
        settings=run_id(settings),
        privileged=policy.privileged,
    )
    settings["seed"] = config.seed
    return RolloutContext(config, run_id(settings), settings, columns, factory, views)


def _trained_rig(config: RolloutConfig, factory: PolicyFactory) -> str:
    from geo4d_bench.tasks.rigs import RIGS

    if factory.rig not in RIGS:
        raise ConfigError(
            f"the checkpoint of policy '{config.policy}' was trained on the rig '{factory.rig}', which is none of "
            f"{', '.join(RIGS)}; give its file with --rig"
        )
    return factory.rig


def _rig_identity(name: str) -> str:
    """A registered rig's name, or the sha256 of a rig's file: another rig is another run, whatever it is called."""
    from geo4d_bench.tasks.rigs import is_rig_file

    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if is_rig_file(name) else name


def _load_policy(config: RolloutConfig, arms: Sequence[str]) -> PolicyFactory:
    from geo4d_bench import policies

    factory = policies.load_policy(config.policy, config.task, config.options, config.replacement)
    if config.sensor is not None and not factory.policy.needs_checkpoint:
        raise ConfigError(
            f"policy '{config.policy}' is given no measured depth, so that --sensor {config.sensor} would change "
            "nothing; leave it out"
        )
    if (config.calibration_deg or config.calibration_cm) and not factory.policy.needs_images:
        raise ConfigError(
            f"policy '{config.policy}' does not look through cameras, so that --calibration-deg and --calibration-cm "
            "would change nothing; leave them out"
        )
    if factory.arms not in (None, len(arms)):
        raise ConfigError(
            f"the checkpoint of '{config.policy}' was trained for {factory.arms} arm(s), and {config.task} has "
            f"{len(arms)} ({', '.join(arms)}); name a checkpoint that was trained on {config.task} with --checkpoint"
        )
    return factory
