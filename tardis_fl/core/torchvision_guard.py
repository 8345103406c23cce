"""The one place that imports torchvision.

torchvision's wheel on the Python package index is built against a CUDA build of PyTorch.
Beside a CPU build its operator library doesn't load, and `import torchvision` fails while it
registers shapes for two operators that then don't exist (pytorch/vision issues 8985 and 9085).
Declaring the schemas of these two first makes models and datasets usable; the operators
themselves stay unusable, and nothing here calls them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: torch.library.Library | None = None  # dropping a Library withdraws its schemas


def import_torchvision(module: str = "torchvision") -> ModuleType:
    """Returns torchvision, or a module of it such as `torchvision.models`."""
    global _declared
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if _declared is not None or "torchvision::" not in str(error):
            raise
    _declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS.values():
        _declared.define(schema)  # type: ignore[no-untyped-call]
    return importlib.import_module(module)
