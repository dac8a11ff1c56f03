"""Lets PyPI's torchvision be imported beside a CPU build of torch; import it before what imports torchvision.

That torchvision is compiled against CUDA: its operators do not load, and its own import fails on the one operator that
it describes unconditionally. Neither robomimic's nor LeRobot's data loading calls an operator; declaring it is enough.
"""

import importlib.util
from pathlib import Path

import torch

_spec = importlib.util.find_spec("torchvision")
_library = next(Path(_spec.submodule_search_locations[0]).glob("_C*.so"), None)
try:
    torch.ops.load_library(str(_library))
except OSError:
    torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
