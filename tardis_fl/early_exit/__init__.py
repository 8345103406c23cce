"""Early-exit networks: convert, train, measure and deploy in segments.

Knows neither Flower nor files.

Names are imported when they are used, so that what needs no PyTorch, such as the catalogue of
backbones, loads at once.
"""

import importlib
from typing import Any

_HOMES = {
    "Distillation": "training.losses",
    "EarlyExitNetwork": "network",
    "Segment": "network",
    "SegmentedEarlyExitNetwork": "segmented",
    "adaptive_exit": "exits",
    "build_backbone": "backbones",
    "build_network": "backbones",
    "candidate_cuts": "conversion.convert",
    "convert": "conversion.convert",
    "escalate": "segmented",
    "seperate_networks": "segmented",
    "separate_networks": "segmented",
    "test_all_exits_accuracy": "evaluation",
    "test_networks": "segmented",
    "train_model": "training.loop",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
