"""What the configs of all generators share: what a generator is given, what it lacks, and what it makes."""

# Annotations are evaluated here, for pydantic reads them from subclasses in other modules.
import dataclasses
import json
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.model.base import Generator


AblationName = Literal[
    "none", "no_mv_attention", "shared_decoders", "no_mask", "no_gripper_weight", "native_frame", "svd", "svd_mv",
    "trajectory_regression",
]  # fmt: skip

ABLATIONS: dict[AblationName, dict[str, bool]] = {
    "none": {},
    "no_mv_attention": {"cross_view_attention": False},
    "shared_decoders": {"shared_decoders": True},  # as in the paper's release
    "no_mask": {"mask_invalid": False},  # as in the paper's release: see apply_ablation
    "no_gripper_weight": {"weight_gripper": False},
    "native_frame": {"shared_frame": False},  # without known poses only
    "svd": {"rgb_only": True, "shared_decoders": True, "cross_view_attention": False},
    "svd_mv": {"rgb_only": True},
    "trajectory_regression": {"generates_video": False},  # the baseline: the gripper's trajectory alone is learned
}
"""The config fields that each ablation sets, by the name that stands in every row of results (paper, sections 4, 5)."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Base of a generator's config, which is everything that a checkpoint must know besides its weights.

    A generator of another package subclasses this and names the subclass as an entry point of the group
    ``geo4d_bench.generators`` (docs/adding_a_generator.md).

    Attributes:
        height, width: image size in pixels.
        frames: predicted frames T.
        dt_s: seconds between frames.
        arms: number of arms.
        calibrated: whether the poses of both cameras are inputs. Without them it is the paper's setting.
        sensor: how the cameras that it was trained with measure depth, one of ``dataset.sensors.SENSORS``.
        rig: name of the rig whose seen cameras it was trained on.
        sample_steps: sampling steps of ``generate``.
        cross_view_attention: whether anything flows between the views.
        shared_decoders: whether one decoder's weights serve both views.
        mask_invalid: whether invalid pixels are left out of the loss.
        weight_gripper: whether pixels on and near a gripper weigh more than others.
        shared_frame: whether view m's points come out in camera n's frame.
        rgb_only: whether there are no points, neither seen nor generated.
        generates_video: whether it makes video; else it predicts trajectories alone.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    name: ClassVar[str]
    """Of the generator: in the registry, in ``config.json`` and in every row."""
    generator: ClassVar[str]
    """Its class as ``module:Class``, imported when it is built."""
    policy: ClassVar[str]
    """Name on the board of the policy that plans by this generator's video."""
    gradient_clip: ClassVar[float] = 1.0

    height: int
    width: int
    frames: int = 10
    dt_s: float = 0.4
    arms: int = 1
    calibrated: bool = False
    sensor: SensorName = "perfect"
    rig: str = "hemisphere16"
    sample_steps: int = 1
    cross_view_attention: bool = True
    shared_decoders: bool = False
    mask_invalid: bool = True
    weight_gripper: bool = True
    shared_frame: bool = True
    rgb_only: bool = False
    generates_video: bool = True

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.frames, self.arms, self.sample_steps) < 1 or self.dt_s <= 0:
            raise ConfigError(
                "generator: height, width, frames, arms and sample_steps must be at least 1, dt_s positive"
            )
        if self.calibrated and not self.shared_frame:
            raise ConfigError(
                "generator: with both poses known view m's points are in the shared frame as soon as they are in their "
                "own; native_frame is for unknown poses (leave --calibrated out)"
            )
        if not self.generates_video and not self.predicts_trajectory:
            raise ConfigError(f"generator: '{self.name}' predicts no trajectory; choose --preset layered_nano")

    # ---- to be overridden -------------------------------------------------------------------------------------

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """Configs that are known by name."""
        return {}

    def fitted(self, windows: "Sequence[Window]") -> Self:
        """This config with the windows' frames, time step and arms, and normalisation measured on them; DatasetError
        where their images are of another size than the config's."""
        first = windows[0]
        height, width = first.rgb.shape[2:4]
        if (height, width) != (self.height, self.width):
            raise DatasetError(
                f"the data's images are {height} x {width}, this preset is for {self.height} x {self.width}; "
                f"render with --height {self.height} --width {self.width} or choose another preset"
            )
        return dataclasses.replace(self, arms=len(first.T_n_ee), frames=first.rgb.shape[1] - 1, dt_s=first.dt_s)

    @property
    def predicts_trajectory(self) -> bool:
        """Whether it can predict the gripper's trajectory apart from any video."""
        return False

    @property
    def needs_pretrained(self) -> bool:
        """Whether training from random weights makes no sense."""
        return False

    # ---- of all generators ------------------------------------------------------------------------------------

    def build(self, pretrained: str | None = None) -> "Generator[Any]":
        """An untrained generator of this config, or one to fine-tune: ``from_pretrained`` of a folder or a hub id."""
        kind: type[Generator[Any]] = pkgutil.resolve_name(self.generator)
        return kind(self) if pretrained is None else kind.from_pretrained(pretrained, self)

    @property
    def ablation(self) -> str:
        """Name of what is left out, one of ``ABLATIONS``; the changed fields joined by ``+`` where none fits."""
        flags = {name for changes in ABLATIONS.values() for name in changes}
        fields = [f for f in dataclasses.fields(self) if f.name in flags]
        changed = {f.name: value for f in fields if (value := getattr(self, f.name)) != f.default}
        named = [name for name, changes in ABLATIONS.items() if changes == changed]
        return named[0] if named else "+".join(sorted(changed))

    def with_ablation(self, name: AblationName) -> Self:
        """This config with one of ``ABLATIONS``; ConfigError where there is none of that name."""
        if name not in ABLATIONS:
            raise ConfigError(f"generator: ablation '{name}', expected one of {', '.join(ABLATIONS)}")
        changes: dict[str, Any] = {**ABLATIONS[name]}
        return dataclasses.replace(self, **changes)

    @property
    def board_name(self) -> str | None:
        """The policy that a checkpoint of this config is for, without its ablation; None where there is none."""
        if self.rgb_only:
            return None  # no depth to track a gripper by
        base = self.policy if self.generates_video else "trajectory_regression"
        return base + ("_calibrated" if self.calibrated else "")

    @property
    def part_classes(self) -> int:
        """Part labels including 0, none."""
        return 1 + 3 * self.arms

    def to_json(self) -> str:
        return json.dumps({"generator": self.name, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """The config of parsed JSON without ``generator``; ConfigError where a field is missing, unknown or wrong."""
        from pydantic import TypeAdapter, ValidationError

        known = {f.name for f in dataclasses.fields(cls)}
        missing = sorted(known - values.keys() - {"rig"})  # older checkpoints name none
        if missing:
            raise ConfigError(f"config of the generator '{cls.name}': {', '.join(missing)} missing")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"config of the generator '{cls.name}': {where}: {first['msg']}") from None
