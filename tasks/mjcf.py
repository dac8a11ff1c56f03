"""Pieces of MJCF that the tasks' scenes are made of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from geo4d_bench.geometry.se3 import Array

FIRM = 'solref="0.005 1" solimp="0.95 0.99 0.001"'
"""Contacts that fingers press on, or that stand on one another: MuJoCo's defaults give way by millimetres."""
SEEN = 'group="1" contype="0" conaffinity="0"'  # Geoms that are drawn and do not collide


def textured(name: str, file: str, repeat: int, look: str = 'specular="0.1" shininess="0.1"') -> str:
    """A material with one of robosuite's textures, which repeats so many times a metre."""
    from geo4d_bench.tasks.simulation import texture_file

    return (
        f'<texture type="2d" name="tex-{name}" file="{texture_file(file)}"/>'
        f'<material name="{name}" texture="tex-{name}" texrepeat="{repeat} {repeat}" texuniform="true" {look}/>'
    )


def legs(x_m: tuple[float, float], y_m: tuple[float, float], half_m: float, look: str) -> str:
    """A table's four legs, 4 cm thick and twice ``half_m`` high, from the floor up."""
    return "".join(
        f'<geom type="box" size="0.02 0.02 {half_m}" pos="{x} {y} {half_m}" group="1" {look}/>'
        for x in x_m
        for y in y_m
    )


def grid_mesh(name: str, points: Array, closed: tuple[bool, bool]) -> str:
    """A ``<mesh>`` through a grid of points (N, M, 3), closed along either axis where asked; to be seen only."""
    n, m, _ = points.shape
    number = np.pad(np.arange(n * m).reshape(n, m), [(0, int(c)) for c in closed], mode="wrap")
    a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    faces = np.stack([a, b, c, a, c, d], axis=-1)
    return f'<mesh name="{name}" inertia="shell" vertex="{text(points.ravel())}" face="{text(faces.ravel())}"/>'


def text(numbers: Iterable[float]) -> str:
    """Numbers as an attribute has them, with six digits."""
    return " ".join(f"{number:.6g}" for number in numbers)
