"""One-pass multi-camera RGB-D and segmentation on MuJoCo, and the scenes it draws."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # before a module of this package imports mujoco
