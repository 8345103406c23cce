"""What a client does with its shard: plain functions, no Flower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs import concatenate, encode, transfer
from tardis_fl.config.schema import Config
from tardis_fl.data.augmentation import Normalisation, crop_and_flip
from tardis_fl.data.images import ImageSet
from tardis_fl.early_exit.evaluation import evaluate_batches
from tardis_fl.early_exit.network import Segment, segments_loss
from tardis_fl.federation.messages import Counts, FeatureBatch
from tardis_fl.precision import training_arithmetic

Indices = npt.NDArray[np.int64]
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class LocalData:
    """A client's view of the images: shared bytes, its own indices.

    Attributes:
        images: (N, H, W, C) uint8, the whole training split, shared by all clients of a process.
        labels: (N,) int64.
        normalisation: From bytes to network input.
        augment: Whether training views are cropped and flipped.
    """

    images: Tensor
    labels: Tensor
    normalisation: Normalisation
    augment: bool

    @classmethod
    def of(cls, split: ImageSet, normalisation: Normalisation, augment: bool) -> LocalData:
        """Wraps a split without copying it."""
        return cls(torch.from_numpy(split.images), torch.from_numpy(split.labels), normalisation, augment)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Returns input (B, C, H, W) and labels (B,); a generator makes it a training view."""
        images = self.images[indices]
        if generator is not None and self.augment:
            images = crop_and_flip(images, generator)
        return self.normalisation(images), self.labels[indices]


def batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields shuffled positions in batches; a last one of a single sample joins the batch before, since batch norm needs two."""
    order = torch.randperm(count, generator=generator)
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts


def train_segments(
    segments: Sequence[Segment], data: LocalData, indices: Indices, *,
    config: Config, learning_rate: float, generator: torch.Generator, precision: str,
) -> Counts:  # fmt: skip
    """Trains the held segments in place on a client's training samples with all their exits.

    Args:
        segments: The held segments, from the first.
        data: The images.
        indices: The client's training samples.
        config: Local epochs, optimiser and exit weights.
        learning_rate: This round's.
        generator: Order and augmentation are drawn from it.
        precision: float32 or bfloat16.

    Returns:
        Samples, losses and right answers seen on the way, summed over the local epochs.
    """
    settings, weights = config.federation.client, config.exit_weights[: len(segments)]
    own = torch.from_numpy(indices)
    parameters = [parameter for segment in segments for parameter in segment.parameters()]
    optimizer = torch.optim.SGD(parameters, learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay, nesterov=settings.momentum > 0)
    for segment in segments:
        segment.train()
    loss_sum, correct, seen = torch.zeros((), dtype=torch.float64), torch.zeros(len(segments), dtype=torch.int64), 0
    for _ in range(config.federation.local_epochs):
        for positions in batches(len(own), settings.batch_size, generator):
            x, labels = data.batch(own[positions], generator)
            with training_arithmetic(precision):
                loss, logits = segments_loss(segments, x, labels, weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(labels)
            loss_sum += loss.detach() * len(labels)
            correct += torch.stack([(row.argmax(1) == labels).sum() for row in logits])
    return Counts(seen, float(loss_sum), tuple(correct.tolist()))


def training_features(
    segments: Sequence[Segment], data: LocalData, indices: Indices, *, codec: str, generator: torch.Generator, precision: str
) -> FeatureBatch:
    """Computes the features of the deepest held segment on one training view of each sample, as they travel."""
    own = torch.from_numpy(indices)
    parts = []
    for segment in segments:
        segment.eval()
    with torch.no_grad():
        for positions in torch.arange(len(own)).split(EVALUATION_BATCH):
            x, _ = data.batch(own[positions], generator)
            with training_arithmetic(precision):
                for segment in segments:
                    x = segment.body(x)
            parts.append(encode(x, codec))
    return FeatureBatch(concatenate(parts), data.labels[own])


def held_out_logits(segments: Sequence[Segment], data: LocalData, indices: Indices, *, codec: str) -> tuple[npt.NDArray[np.float32], FeatureBatch]:
    """Computes, in float32, what the deployed tiers of this client's segments would, on samples as they are.

    Args:
        segments: The held segments, from the first.
        data: The images.
        indices: Held-out samples.
        codec: How features travel between tiers, held segments included.

    Returns:
        Logits of the held exits (exits, N, classes), and the features for the deeper ones.
    """
    own = torch.from_numpy(indices)
    logits, parts = [], []
    for rows, features in evaluate_batches(segments, lambda rows: data.batch(own[rows], None)[0], len(own), transfer=transfer(codec)):
        logits.append(rows)
        parts.append(encode(features, codec))
    return torch.cat(logits, dim=1).numpy(), FeatureBatch(concatenate(parts), data.labels[own])
