"""Networks that TARDIS Early Exit saved with `torch.save`: pickles, which run code when they are opened."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.early_exit.scoring.confidence import checked_threshold
from tardis_fl.errors import DataError

SEED_PACKAGE = "early_exit"
SEED_CLASS = "SegmentedEarlyExitNetwork"


def import_seed_models(
    paths: Sequence[str | Path], *, trust_pickle: bool
) -> tuple[EarlyExitNetwork, list[float]]:
    """Reads `model_0.pth`, `model_1.pth`, ... of TARDIS Early Exit.

    Args:
        paths: One file a segment, in order.
        trust_pickle: Must be True: whoever made these files can run anything on this machine when
            they are opened.

    Returns:
        The network, and the threshold of each segment but the last.

    Raises:
        DataError: `trust_pickle` isn't set, a file can't be read, or it holds something else.
    """
    if not trust_pickle:
        raise DataError(
            f"{paths[0] if paths else 'model_0.pth'}: models saved with torch.save are pickles, which can run any code when they are opened; "
            "if you made these files yourself, or trust who did, pass --trust-pickle (trust_pickle=True)"
        )
    if not paths:
        raise DataError("got no file; wanted model_0.pth, model_1.pth, ... in order")
    parts = [_read(Path(path)) for path in paths]
    thresholds = []
    for path, part in zip(paths[:-1], parts[:-1], strict=True):
        if part.exit is None:
            raise DataError(
                f"{path}: it has no exit, so it is the last segment; give the files in order, shallow to deep"
            )
        try:
            thresholds.append(checked_threshold(part.threshold, "its threshold"))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
    exits = [part.exit for part in parts if part.exit is not None]
    return EarlyExitNetwork([part.network for part in parts], exits).eval(), thresholds


class _SeedSegment(nn.Module):
    """Takes the attributes of the seed's class when it is unpickled."""


class _Unpickler(pickle.Unpickler):
    """Finds the seed's class, whose own package isn't installed here, wherever it lay."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if global_name == SEED_CLASS and (
            module_name == "__main__" or SEED_PACKAGE in module_name.split(".")
        ):
            return _SeedSegment
        return super().find_class(module_name, global_name)


def _read(path: Path) -> Any:
    pickle_module = SimpleNamespace(
        Unpickler=_Unpickler, load=pickle.load, loads=pickle.loads, __name__="pickle"
    )
    try:
        part = torch.load(path, map_location="cpu", pickle_module=pickle_module, weights_only=False)
    except OSError as error:
        raise DataError(f"{path}: it can't be read ({error.strerror})") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"{path}: it is no model that torch.save wrote, or it is damaged ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(part, _SeedSegment) or not isinstance(
        getattr(part, "network", None), nn.Module
    ):
        raise DataError(f"{path}: it holds a {type(part).__name__}; wanted the seed's {SEED_CLASS}")
    part.exit = getattr(part, "exit", None)
    return part
