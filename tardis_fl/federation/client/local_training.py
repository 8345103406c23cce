"""What a client does with its shard: plain functions, no Flower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs.codec import EncodedFeatures, codec_of, transfer
from tardis_fl.config.federation import OptimizerConfig
from tardis_fl.config.schema import Config
from tardis_fl.core.compute import training_arithmetic
from tardis_fl.data.augmentation import Normalisation, crop_and_flip, skip_draws
from tardis_fl.data.images import ImageSet
from tardis_fl.early_exit.evaluation import evaluate_batches
from tardis_fl.early_exit.network import Segment, segments_loss
from tardis_fl.early_exit.training.losses import Criterion, Distillation, cross_entropy
from tardis_fl.early_exit.training.registry import LOSSES
from tardis_fl.federation.transport.messages import Counts, FeatureBatch

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
    def of(
        cls,
        split: ImageSet,
        normalisation: Normalisation,
        augment: bool,
        device: torch.device | str = "cpu",
    ) -> LocalData:
        """Wraps a split, without copying it where it stays in this machine's memory."""
        return cls(
            torch.from_numpy(split.images).to(device),
            torch.from_numpy(split.labels).to(device),
            normalisation,
            augment,
        )

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Returns input (B, C, H, W) and labels (B,); a generator makes it a training view."""
        indices = indices.to(self.device)
        images = self.images[indices]
        if generator is not None and self.augment:
            images = crop_and_flip(images, generator)
        return self.normalisation(images), self.labels[indices]

    def skip_views(self, count: int, generator: torch.Generator) -> None:
        """Lets a generator go on as if `batch` had made views of so many images."""
        if self.augment:
            skip_draws(count, generator)

    @property
    def device(self) -> torch.device:
        """Where the images lie, and where all work on them is done."""
        return self.images.device


def batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields shuffled positions in batches; a last one of a single sample joins the batch before, since batch norm needs two."""
    order = torch.randperm(count, generator=generator)
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts


@dataclass(frozen=True)
class Objective:
    """What a round asks of the exits.

    Attributes:
        exit_weights: Weight of each held exit's loss; 0: it is not trained.
        distillation: Exits that learn from others, or None.
        distillation_weight: Of their loss in this round.
        proximal_mu: Weight of the pull towards the weights of the start (FedProx).
        criterion: The loss of one exit's logits.
    """

    exit_weights: Sequence[float]
    distillation: Distillation | None = None
    distillation_weight: float = 0.0
    proximal_mu: float = 0.0
    criterion: Criterion = cross_entropy

    def loss(
        self, segments: Sequence[Segment], x: Tensor, labels: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Returns the loss over consecutive segments, each exit's logits (B, classes), and the last one's features (B, ...)."""
        loss, logits, features = segments_loss(
            segments, x, labels, self.exit_weights, criterion=self.criterion
        )
        if self.distillation and self.distillation_weight and len(logits) > 1:
            loss = loss + self.distillation_weight * self.distillation.loss(logits)
        return loss, logits, features


def build_distillation(config: Config) -> Distillation | None:
    """Returns the configured distillation, or None."""
    settings = config.federation.distillation
    if settings.teacher == "none":
        return None
    return Distillation(settings.teacher, settings.weight, settings.temperature, settings.ramp)


def build_sgd(
    parameters: Sequence[Tensor], settings: OptimizerConfig, rate: float
) -> torch.optim.SGD:
    """Returns SGD, with Nesterov momentum where there is momentum."""
    return torch.optim.SGD(
        parameters,
        rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )


class Tally:
    """Sums over the batches of a training, without waiting for the device between them."""

    def __init__(self, num_exits: int, device: torch.device) -> None:
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros(num_exits, dtype=torch.int64, device=device)
        self.num_samples = 0

    def add(self, loss: Tensor, logits: Sequence[Tensor], labels: Tensor) -> None:
        """Adds a batch."""
        self.num_samples += len(labels)
        self._loss_sum += loss.detach() * len(labels)
        self._correct += torch.stack([(rows.argmax(1) == labels).sum() for rows in logits])

    def counts(self) -> Counts:
        """Returns what was counted."""
        return Counts(self.num_samples, float(self._loss_sum), tuple(self._correct.tolist()))


def train_segments(
    segments: Sequence[Segment],
    data: LocalData,
    indices: Indices,
    *,
    config: Config,
    learning_rate: float,
    generator: torch.Generator,
    precision: str,
    objective: Objective | None = None,
) -> Counts:
    """Trains the held segments in place on a client's training samples with their exits.

    Args:
        segments: The held segments, from the first.
        data: The images.
        indices: The client's training samples.
        config: Local epochs and optimiser.
        learning_rate: This round's.
        generator: Order and augmentation are drawn from it.
        precision: float32 or bfloat16.
        objective: What this round asks; None: the configured exit weights alone.

    Returns:
        Samples, losses and right answers seen on the way, summed over the local epochs.
    """
    settings, own = config.federation.client, torch.from_numpy(indices)
    if objective is None:
        criterion = LOSSES.bound(config.model.loss, config.model.loss_options)
        objective = Objective(config.exit_weights[: len(segments)], criterion=criterion)
    parameters = [parameter for segment in segments for parameter in segment.parameters()]
    start = (
        [parameter.detach().clone() for parameter in parameters] if objective.proximal_mu else None
    )
    optimizer = build_sgd(parameters, settings, learning_rate)
    for segment in segments:
        segment.train()
    tally = Tally(len(segments), data.device)
    for _ in range(config.federation.local_epochs):
        for positions in batches(len(own), settings.batch_size, generator):
            x, labels = data.batch(own[positions], generator)
            with training_arithmetic(precision, data.device):
                loss, logits, _ = objective.loss(segments, x, labels)
            optimizer.zero_grad()
            loss.backward()
            finish_step(
                optimizer, parameters, settings, start=start, proximal_mu=objective.proximal_mu
            )
            tally.add(loss, logits, labels)
    return tally.counts()


def finish_step(
    optimizer: torch.optim.SGD,
    parameters: Sequence[Tensor],
    settings: OptimizerConfig,
    *,
    start: Sequence[Tensor] | None = None,
    proximal_mu: float = 0.0,
) -> None:
    """Adds FedProx's pull to the gradients, clips them, and makes the optimiser's step.

    The pull is the gradient of mu/2 |w - w_start|^2 (Li et al. 2020), for parameters that the loss
    reaches.
    """
    if start is not None:
        for parameter, origin in zip(parameters, start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - origin, alpha=proximal_mu)
    if settings.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    optimizer.step()


def training_features(
    segments: Sequence[Segment],
    data: LocalData,
    indices: Indices,
    *,
    codec: str,
    generator: torch.Generator,
    precision: str,
    first: int = 0,
    most_bytes: int | None = None,
    noise: Callable[[Tensor, int], Tensor] | None = None,
) -> FeatureBatch:
    """Computes the features of the deepest held segment on one training view of each sample, as they travel.

    Args:
        segments: The held segments, from the first.
        data: The images.
        indices: Training samples.
        codec: How the features travel.
        generator: Views are drawn from it; a sample's doesn't depend on where a piece begins or
            ends.
        precision: float32 or bfloat16.
        first: Position of the sample to begin with.
        most_bytes: Where to end: so many bytes of encoded features, or at least one sample; None:
            at the last sample.
        noise: Adds noise to features (B, ...), given them and their batch's number.
    """
    own = torch.from_numpy(indices)
    parts, last = [], len(own)
    sender = codec_of(codec)
    for segment in segments:
        segment.eval()
    with torch.no_grad():
        for number, positions in enumerate(torch.arange(len(own)).split(EVALUATION_BATCH)):
            begin, end = int(positions[0]), int(positions[-1]) + 1
            if begin >= last:
                break
            if end <= first:
                data.skip_views(len(positions), generator)
                continue
            x, _ = data.batch(own[positions], generator)
            with training_arithmetic(precision, data.device):
                for segment in segments:
                    x = segment.body(x)
            encoded = sender.encode(x if noise is None else noise(x, number))
            if most_bytes is not None:
                last = min(last, first + max(1, most_bytes // (encoded.nbytes // len(positions))))
            parts.append(encoded[max(first - begin, 0) : last - begin])
    return FeatureBatch(
        EncodedFeatures.concatenate(parts),
        data.labels[own[first:last].to(data.device)],
        len(segments),
    )


def noisy(features: Tensor, noise: float, generator: np.random.Generator) -> Tensor:
    """Returns features (B, ...) with Gaussian noise of `noise` times each sample's own standard deviation, drawn on the CPU.

    By NumPy, whose seeds are as long as one likes: PyTorch's generator has 32 bits, which somebody
        who wants the features can try.
    """
    own = features.flatten(1).std(1).view(-1, *[1] * (features.dim() - 1))
    return features + noise * own * torch.from_numpy(
        generator.standard_normal(tuple(features.shape), dtype=np.float32)
    ).to(features)


def held_out_logits(
    segments: Sequence[Segment], data: LocalData, indices: Indices, *, codec: str
) -> tuple[npt.NDArray[np.float32], FeatureBatch]:
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
    sender = codec_of(codec)
    for rows, features in evaluate_batches(
        segments, lambda rows: data.batch(own[rows], None)[0], len(own), transfer=transfer(codec)
    ):
        logits.append(rows)
        parts.append(sender.encode(features))
    return torch.cat(logits, dim=1).cpu().numpy(), FeatureBatch(
        EncodedFeatures.concatenate(parts), data.labels[own.to(data.device)], len(segments)
    )


def answering_exits(logits: Tensor, serving_score: float, *, last_answers: bool) -> Tensor:
    """Returns for each sample the first exit whose largest probability reaches the score, (N,); the number of exits where none does.

    Args:
        logits: (exits, N, classes).
        serving_score: In [0, 1].
        last_answers: The last of these exits answers whatever it is asked.
    """
    answers = logits.softmax(2).amax(2) >= serving_score
    if last_answers:
        answers[-1] = True
    ever = answers.any(0)
    return torch.where(
        ever, answers.int().argmax(0), torch.full_like(ever, len(logits), dtype=torch.int64)
    )
