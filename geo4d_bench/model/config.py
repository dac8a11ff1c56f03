"""Sizes and settings of a generator, and the presets that are known by name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from geo4d_bench.dataset.sensors import SENSORS, SensorName
from geo4d_bench.errors import ConfigError
from geo4d_bench.registry import Registry

SETTINGS = ("geo4d", "geo4d_calibrated")
"""``geo4d`` gets no camera pose, as in the paper; ``geo4d_calibrated`` is given the poses of both cameras."""

ABLATIONS = {
    "none": "the whole method",
    "no_mv_attention": "nothing flows between the views",
    "shared_decoders": "one decoder's weights serve both views, as in the paper's release",
    "no_mask": "invalid pixels are learned as the point (0, 0, 0) of their camera, as in the paper's release",
    "no_gripper_weight": "pixels on and near a hand weigh as much as any other",
    "native_frame": "each view's points stay in its own frame, there is no shared one; without known poses only",
    "svd": "RGB only, one decoder, the views apart",
    "svd_mv": "RGB only, two decoders with cross-view attention",
    "pose_regression": "the hands' poses alone are learned and read out: the baseline that generates no video",
}
"""What is left out of the method, by name (paper, sections 4 and 5); the name stands in every row of results."""


class Told:
    """What the setting and the ablation of a config mean, for every backbone."""

    setting: str
    ablation: str
    sensor: SensorName
    arms: int

    def check_told(self) -> None:
        """ConfigError where setting, ablation or sensor is unknown, or they contradict one another."""
        if self.setting not in SETTINGS:
            raise ConfigError(f"generator: setting '{self.setting}', expected {' or '.join(SETTINGS)}")
        if self.ablation not in ABLATIONS:
            raise ConfigError(f"generator: ablation '{self.ablation}', expected one of {', '.join(ABLATIONS)}")
        if self.calibrated and self.ablation == "native_frame":
            raise ConfigError(
                "generator: with both poses known view m's points are in the shared frame as soon as they are in their "
                "own; native_frame is for the setting geo4d"
            )
        if self.sensor not in SENSORS:
            raise ConfigError(f"generator: sensor '{self.sensor}', expected {' or '.join(SENSORS)}")

    @property
    def calibrated(self) -> bool:
        """Whether the poses of both cameras are inputs."""
        return self.setting == "geo4d_calibrated"

    @property
    def cross_view_attention(self) -> bool:
        """Whether anything flows between the views."""
        return self.ablation not in ("no_mv_attention", "svd")

    @property
    def shared_decoders(self) -> bool:
        """Whether one decoder's weights serve both views."""
        return self.ablation in ("shared_decoders", "svd")

    @property
    def gripper_weight(self) -> bool:
        """Whether pixels on and near a hand weigh more than others."""
        return self.ablation != "no_gripper_weight"

    @property
    def shared_frame(self) -> bool:
        """Whether view m's points come out in camera n's frame."""
        return self.ablation != "native_frame"

    @property
    def rgb_only(self) -> bool:
        """Whether there are no points, neither seen nor generated."""
        return self.ablation in ("svd", "svd_mv")

    @property
    def told_where(self) -> bool:
        """Whether every view, not only view n, is told where the hands are at first."""
        return not self.rgb_only and (self.calibrated or (self.cross_view_attention and self.shared_frame))

    @property
    def draws(self) -> bool:
        """Whether video is generated."""
        return self.ablation != "pose_regression"

    @property
    def part_classes(self) -> int:
        """Part labels including 0, none."""
        return 1 + 3 * self.arms


@dataclass(frozen=True)
class GeneratorConfig(Told):
    """Everything that a checkpoint must know besides its weights, normalisation included.

    Attributes:
        height, width: image size in pixels.
        setting: one of ``SETTINGS``.
        sensor: how the cameras that it was trained with measure depth, one of ``dataset.sensors.SENSORS``.
        frames: predicted frames T.
        dt_s: seconds between frames.
        arms: number of arms.
        patch: a token is patch x patch pixels of all T frames of one view.
        dim, heads: width of a token and attention heads.
        trunk_layers: blocks shared by the views.  decoder_layers: blocks that each view has to itself.
        ablation: one of ``ABLATIONS``.
        pure_noise_share: share of the training samples at pure noise, where one-step generation works.
        sample_steps: Euler steps of ``generate``.
        loss_frames: frames whose pixels a training step looks at, drawn anew each time: neighbours say nearly the
            same, and fewer frames make more steps.
        hand_weight: added loss weight of pixels within ``hand_dilation`` pixels of a hand.
        part_weight: weight of hand pixels in the loss of the part labels: they are less than 1 % of an image.
        part_odds: a pixel is generated as hand where its probability times this exceeds the others'; above 1, hands
            whose place is uncertain still show.
        point_mean_m, point_scale_m: points p in a camera's frame are seen by the network as (p - mean) / scale.
        work_centre_m, work_half_m: the cube in the world, by its middle and half its edge, in which hands work.
        scene_layers: blocks that tell the hands' motion from orthographic pictures of that cube.
        scene_cells: cells of such a picture along an edge, a multiple of 8.
        motion_scale_m: unit of the hands' predicted motion.
    """

    backbone: ClassVar[str] = "tokens"
    gradient_clip: ClassVar[float] = 4.0

    height: int
    width: int
    dim: int
    heads: int
    trunk_layers: int
    decoder_layers: int
    setting: str = "geo4d"
    sensor: SensorName = "perfect"
    frames: int = 10
    dt_s: float = 0.4
    arms: int = 1
    patch: int = 8
    ablation: str = "none"
    pure_noise_share: float = 0.7
    sample_steps: int = 1
    loss_frames: int = 3
    hand_weight: float = 4.0
    hand_dilation: int = 2
    part_weight: float = 16.0
    part_odds: float = 3.0
    point_mean_m: tuple[float, float, float] = (0.0, 0.0, 0.8)
    point_scale_m: float = 0.3
    work_centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    work_half_m: float = 0.5
    scene_layers: int = 3
    scene_cells: int = 32
    motion_scale_m: float = 0.1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.dim, self.heads, self.patch) < 1:
            raise ConfigError("generator: height, width, dim, heads and patch must be at least 1")
        if self.height % self.patch or self.width % self.patch:
            raise ConfigError(
                f"generator: {self.height} x {self.width} pixels don't divide into patches of {self.patch}; "
                "choose multiples of the patch"
            )
        if self.dim % self.heads or self.dim % 2:
            raise ConfigError(
                f"generator: dim {self.dim} does not divide into {self.heads} heads, or is not even: half of what a "
                "noise level is told by are sines"
            )
        if (
            min(self.frames, self.arms, self.decoder_layers, self.sample_steps, self.loss_frames) < 1
            or self.trunk_layers < 0
        ):
            raise ConfigError(
                "generator: frames, loss_frames, arms, decoder_layers and sample_steps must be at least 1"
            )
        if not (0.0 <= self.pure_noise_share <= 1.0):
            raise ConfigError(f"generator: pure_noise_share is {self.pure_noise_share}, expected 0 to 1")
        if (
            min(self.dt_s, self.point_scale_m, self.motion_scale_m, self.work_half_m, self.part_weight, self.part_odds)
            <= 0
            or min(self.hand_weight, self.hand_dilation) < 0
        ):
            raise ConfigError(
                "generator: dt_s, scales and weights must be positive, hand_weight and hand_dilation at least 0"
            )
        if len(self.point_mean_m) != 3 or len(self.work_centre_m) != 3:
            raise ConfigError("generator: point_mean_m and work_centre_m must have 3 numbers each")
        if self.scene_cells < 8 or self.scene_cells % 8:
            raise ConfigError(f"generator: scene_cells is {self.scene_cells}, expected a multiple of 8")
        self.check_told()

    @property
    def foresees(self) -> bool:
        """Whether the hands' way is told from points."""
        return not self.rgb_only

    @property
    def finds_cameras(self) -> bool:
        """Whether cameras have to be found in the scene."""
        return self.foresees and self.shared_frame and not self.calibrated

    @property
    def weight_of_parts(self) -> float:
        """What a hand's pixel weighs in the loss of the part labels."""
        return self.part_weight if self.gripper_weight else 1.0

    @property
    def tokens(self) -> int:
        """Tokens of one view."""
        return (self.height // self.patch) * (self.width // self.patch)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GeneratorConfig:
        """The config written by :meth:`to_json`; ConfigError where it is another kind of file."""
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"generator config is not JSON ({error})") from None
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            got = set(values) if isinstance(values, dict) else set()
            raise ConfigError(f"generator config: fields differ from this version's: {', '.join(sorted(got ^ names))}")
        return cls(**checked(cls, values))


_ACCEPTED: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str, "SensorName": str}


def checked(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Values read from JSON for the fields of a dataclass, lists as tuples; ConfigError where a type is wrong."""
    for field in fields(kind):
        value = values[field.name] = _tuples(values[field.name])
        name = str(field.type)
        many = name.startswith("tuple[")
        accepted = _ACCEPTED.get(name.removeprefix("tuple[").split(",")[0])
        each = value if many and isinstance(value, tuple) else (value,)
        wrong = not all(isinstance(v, accepted) and isinstance(v, bool) == (accepted is bool) for v in each if accepted)
        if wrong or many != isinstance(value, tuple):
            raise ConfigError(f"generator config: {field.name} is {value!r}, expected {name}")
    return values


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


PRESETS: Registry[GeneratorConfig] = Registry("preset")
PRESETS.register(
    "debug",
    GeneratorConfig(
        height=16, width=24, dim=32, heads=2, trunk_layers=1, decoder_layers=1, frames=3, scene_layers=1, scene_cells=16
    ),
)
PRESETS.register("nano", GeneratorConfig(height=64, width=80, dim=192, heads=3, trunk_layers=4, decoder_layers=2))
PRESETS.register(
    "small",
    GeneratorConfig(
        height=128, width=160, dim=384, heads=6, trunk_layers=8, decoder_layers=4, scene_layers=6, scene_cells=64
    ),
)
