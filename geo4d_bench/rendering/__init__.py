"""One-pass multi-camera RGB-D and segmentation on MuJoCo, and the scenes it draws."""

import os

from geo4d_bench.rendering.opengl import import_mujoco

os.environ["MUJOCO_GL"] = os.environ.get("MUJOCO_GL") or "egl"  # before a module of this package imports mujoco
import_mujoco()
