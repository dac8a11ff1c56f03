"""What there is to choose from: tasks and camera rigs."""

from __future__ import annotations

from dataclasses import dataclass

from geo4d_bench import tasks
from geo4d_bench.geometry import Rig
from geo4d_bench.tasks import TaskSpec
from geo4d_bench.tasks.rigs import RIGS, make_rig


@dataclass(frozen=True)
class TasksConfig:
    """Listing takes no options."""


@dataclass(frozen=True)
class Listing:
    """All registered tasks, and all rigs as placed about the first task's workspace."""

    tasks: tuple[TaskSpec, ...]
    rigs: tuple[Rig, ...]

    def __str__(self) -> str:
        lines = ["tasks"]
        for spec in self.tasks:
            arms = f"{len(spec.arms)} arm{'s' if len(spec.arms) > 1 else ''}"
            lines += [
                f"  {spec.id} {spec.version}  ({arms}, {spec.control_hz:g} Hz, at most {spec.max_seconds:g} s)",
                f"    {spec.language}",
                f"    phases: {' → '.join(spec.phases)}",
            ]
        lines.append("rigs")
        for rig in self.rigs:
            novel = rig.views("novel")
            angles = [rig.view_angle_deg(camera.name) for camera in novel]
            spread = f", {min(angles):.0f} to {max(angles):.0f} degrees from the nearest seen one" if angles else ""
            lines.append(f"  {rig.name}  {len(rig.views('seen'))} seen and {len(novel)} novel cameras{spread}")
        lines.append("next: geo4d-bench datagen --task " + self.tasks[0].id)
        return "\n".join(lines)


def run(config: TasksConfig) -> Listing:
    """List tasks and rigs without building a simulation."""
    specs = tuple(tasks.spec(name) for name in tasks.names())
    return Listing(specs, tuple(make_rig(name, specs[0].workspace) for name in RIGS))
