"""Does this machine have what the benchmark needs? Each check does the real thing, small."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DoctorConfig:
    """Checks take no options."""


@dataclass(frozen=True)
class Diagnosis:
    """One line a check: (name, what was found, whether it is well)."""

    checks: tuple[tuple[str, str, bool], ...]

    @property
    def exit_code(self) -> int:
        return 0 if all(well for _, _, well in self.checks) else 1

    def __str__(self) -> str:
        lines = [f"{'ok  ' if well else 'FAIL'}  {name:<10} {found}" for name, found, well in self.checks]
        closing = "all is well; begin with: geo4d-bench datagen --task store_cereal"
        if self.exit_code:
            closing = "mend what failed, then type 'geo4d-bench doctor' again"
        return "\n".join([*lines, closing])


def run(config: DoctorConfig) -> Diagnosis:
    """Run every check; one that raises has failed, and its error is what was found."""
    checks = []
    for check in (_python, _packages, _rendering, _simulator, _training, _video, _disk):
        try:
            found, well = check(), True
        except Exception as error:  # a check must never stop the others
            found, well = f"{type(error).__name__}: {error}", False
        checks.append((check.__name__.removeprefix("_"), found, well))
    return Diagnosis(tuple(checks))


def _python() -> str:
    return f"{sys.version.split()[0]}, {os.cpu_count()} cores"


def _packages() -> str:
    names = ("mujoco", "robosuite", "torch", "numpy", "diffusers", "small_gicp")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _rendering() -> str:
    from geo4d_bench.geometry.camera import Camera, look_at
    from geo4d_bench.rendering.opengl import idle_gpu, renderer_name
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rendering.scene import load_scene, pack_scene

    xml = "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.1' rgba='1 0 0 1'/></worldbody></mujoco>"
    cameras = [Camera(f"cam{i:02d}", look_at(eye, (0, 0, 0)), 0.8) for i, eye in enumerate([(1, 0, 0.3), (0, -1, 0.2)])]
    with Renderer(load_scene(pack_scene(xml)), 32, 32) as renderer:
        frame = renderer.render(None, cameras, check=True)
    for red in frame.rgb[:, 16, 16].astype(int):
        if not red[0] > 2 * max(red[1], red[2]):
            raise RuntimeError(f"a red sphere came out as {red.tolist()} by {renderer_name()}")
    warning = f"; warning: {idle}" if (idle := idle_gpu()) else ""
    return f"{renderer_name()}, a red sphere is red, cameras stand where they are asked to{warning}"


def _simulator() -> str:
    from geo4d_bench import tasks

    name = next(iter(tasks.names()))
    task = tasks.make(name)
    task.reset(seed=0, split="train")
    task.step(task.expert().command())
    return f"{name} takes a step"


def _training() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    x = torch.ones(8, 8, requires_grad=True)
    (x @ x).sum().backward()  # type: ignore[no-untyped-call]
    return f"gradients on {device}"


def _video() -> str:
    import imageio_ffmpeg

    return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"


def _disk() -> str:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    if free_gb < 2:
        raise RuntimeError(f"{free_gb:.1f} GB free here; the demo writes about 1 GB, keep 2")
    return f"{free_gb:.0f} GB free"
