"""Labelled batches from whatever a user has: a loader, a data set, tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

EMPTY_LOADER = "the loader is empty: it gave no batch (is its data set empty, or drop_last set with fewer samples than a batch?)"


def labelled_batches(
    samples: Any, device: torch.device, batch_size: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images (B, ...) and labels (B,) on a device.

    Args:
        samples: A loader, or any iterable of batches; where `batch_size` is given, also a data set
            with length and index, of (image, label).
        device: Where they are put.
        batch_size: For a data set; None: `samples` is always taken for batches.

    Raises:
        ValueError: There are no samples.
    """
    is_dataset = (
        batch_size is not None and hasattr(samples, "__getitem__") and hasattr(samples, "__len__")
    )
    if is_dataset and len(samples) == 0:
        raise ValueError("the data set is empty: there are no samples to test with")
    loader: Iterable[Any] = samples
    if (
        is_dataset and type(samples) is TensorDataset
    ):  # already in memory: slices, instead of collating sample by sample
        loader = (
            samples[start : start + batch_size] for start in range(0, len(samples), batch_size)
        )
    elif is_dataset:
        loader = DataLoader(samples, batch_size=batch_size)
    empty = True
    for images, labels in loader:
        empty = False
        yield images.to(device), torch.as_tensor(labels, device=device)
    if empty:
        raise ValueError(EMPTY_LOADER)


def chosen_device(device: torch.device | str | None, network: nn.Module) -> torch.device:
    """Returns the device a user chose; else that of the network where it isn't the CPU; else a GPU where there is one."""
    if device is not None:
        return torch.device(device)
    own = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    return (
        own if own.type != "cpu" else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuses labels that no exit has a logit for.

    Raises:
        ValueError: Labels aren't (B,), or one is outside 0 to num_classes - 1.
    """
    if labels.dim() != 1:
        raise ValueError(
            f"labels: got a tensor of shape {tuple(labels.shape)}; wanted class numbers (B,)"
        )
    if len(labels) == 0:
        return
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels: got {low if low < 0 else high}; the exits have {num_classes} classes, so wanted 0 to {num_classes - 1}"
        )
