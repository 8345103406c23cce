"""The exit table: every exit's logits for every sample, from which all else is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.early_exit.conversion.tracing import evaluation_mode
from tardis_fl.early_exit.network import EarlyExitNetwork, Segment
from tardis_fl.early_exit.scoring.ensemble import ensemble_logits
from tardis_fl.early_exit.training.loading import check_labels, chosen_device, labelled_batches


@dataclass(frozen=True)
class ExitTable:
    """Logits of all exits for the samples of one role. Use the subclass of the role.

    Attributes:
        logits: (exits, N, classes) float32, before any temperature.
        labels: (N,) int64.
        sample_ids: (N,) int64, unique over the roles of a run.
        client_ids: (N,) int64, the client that holds the sample, -1 for none.
    """

    role: ClassVar[str]

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    sample_ids: npt.NDArray[np.int64]
    client_ids: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = {
            self.logits.shape[1],
            len(self.labels),
            len(self.sample_ids),
            len(self.client_ids),
        }
        if self.logits.ndim != 3 or len(lengths) != 1:
            raise ValueError(
                f"the columns of an exit table must have one row a sample; got the lengths {sorted(lengths)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_exits(self) -> int:
        return len(self.logits)

    def correct(self) -> npt.NDArray[np.bool_]:
        """Returns whether each exit is right on each sample: (exits, N)."""
        return self.logits.argmax(axis=2) == self.labels

    def accuracies(self) -> list[float]:
        """Returns each exit's share of right answers over all samples."""
        return [float(value) for value in self.correct().mean(axis=1)]

    def ensembled(self) -> Self:
        """Returns the table in which every exit answers by the geometric mean of itself and all shallower ones."""
        return replace(self, logits=ensemble_logits(torch.from_numpy(self.logits)).numpy())

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """Joins the rows of several tables of one role."""
        columns = {
            field.name: [getattr(table, field.name) for table in tables] for field in fields(cls)
        }
        return cls(
            **{
                name: np.concatenate(parts, axis=1 if name == "logits" else 0)
                for name, parts in columns.items()
            }
        )


class FitTable(ExitTable):
    """Held out by the clients, for temperatures."""

    role = "fit"


class CalibrationTable(ExitTable):
    """Held out by the clients, for thresholds and certificates."""

    role = "calibrate"


class TestTable(ExitTable):
    """The test split: for the report, never to choose anything."""

    __test__ = False  # pytest takes the name for a test class
    role = "test"


def evaluate_batches(
    segments: Sequence[Segment],
    inputs: Callable[[slice], Tensor],
    count: int,
    *,
    transfer: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 250,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Runs consecutive segments over samples, in evaluation mode and float32.

    Args:
        segments: Consecutive segments; they are left in evaluation mode.
        inputs: Gives the first segment's input for a range of samples.
        count: Number of samples.
        transfer: What features go through between two segments; None: nothing.
        batch_size: Samples at a time.

    Yields:
        For each batch, logits (exits, B, classes) and the last segment's features (B, ...).
    """
    for segment in segments:
        segment.eval()
    for start in range(0, count, batch_size):
        with torch.no_grad():
            x = inputs(slice(start, min(start + batch_size, count)))
            rows = []
            for number, segment in enumerate(segments):
                x, logits = segment(transfer(x) if transfer and number else x)
                rows.append(logits.float())
        yield torch.stack(rows), x


def exit_logits(
    segments: Sequence[Segment],
    inputs: Callable[[slice], Tensor],
    count: int,
    *,
    transfer: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 250,
) -> npt.NDArray[np.float32]:
    """Returns the logits (exits, count, classes) of `evaluate_batches`."""
    batches = evaluate_batches(segments, inputs, count, transfer=transfer, batch_size=batch_size)
    return torch.cat([logits for logits, _ in batches], dim=1).cpu().numpy()


def test_all_exits_accuracy(
    eenet: EarlyExitNetwork,
    loader: Iterable,
    device: torch.device | str | None = None,
    *,
    ensemble: bool = False,
) -> tuple[list[int], int]:
    """Counts the right answers of every exit, in evaluation mode.

    Args:
        eenet: The network; it is moved to the device, and left in the mode it was in.
        loader: Gives batches of images and labels (B,).
        device: Where to compute; None: a GPU where there is one.
        ensemble: Each exit answers by the geometric mean of itself and all shallower ones.

    Returns:
        Right answers of each exit, from shallow to deep, and the number of samples.

    Raises:
        ValueError: The loader is empty, or a label is out of range.
    """
    device = chosen_device(device, eenet)
    eenet.to(device)
    correct, total = torch.zeros(len(eenet), dtype=torch.int64, device=device), 0
    with evaluation_mode(eenet), torch.no_grad():
        for images, labels in labelled_batches(loader, device, batch_size=None):
            logits = eenet(images)
            check_labels(labels, logits.shape[-1])
            if ensemble:
                logits = ensemble_logits(logits.transpose(0, 1)).transpose(0, 1)
            correct += (logits.argmax(-1) == labels[:, None]).sum(0)
            total += len(labels)
    return correct.tolist(), total


test_all_exits_accuracy.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test
