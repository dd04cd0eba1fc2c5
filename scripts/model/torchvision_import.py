"""Import torchvision also if its wheel was built for CUDA and torch's for the CPU.

Such a torchvision fails on import: it registers further kernels for operators that its own extension, which cannot be
loaded, should have defined. Declaring the operators without an implementation is enough for classification networks,
which use none of them. This module imports the standard library alone, since a benchmark measures processes that
import it.
"""

import importlib
from types import ModuleType

_kept_alive: list[object] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, first as it is, then with the operators that it misses declared.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        _kept_alive.append(library)  # the declarations end with the object
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision")
