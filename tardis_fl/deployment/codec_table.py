"""What each codec costs in accuracy and saves in bytes, measured through the real segments, next to sending the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs.metering import Meter
from tardis_fl.codecs.names import shared_pass
from tardis_fl.deployment.escalation import Outcome
from tardis_fl.deployment.png import png_bytes, raw_bytes
from tardis_fl.deployment.scoring.policies import extra_bytes
from tardis_fl.early_exit.conversion.tracing import evaluation_mode
from tardis_fl.early_exit.evaluation import evaluate_batches
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.early_exit.scoring.ensemble import ensemble_logits


@dataclass(frozen=True)
class CodecRow:
    """One codec between all tiers.

    Attributes:
        codec: Its name.
        exit_accuracies: Of each exit over all samples, which all came to it through the codec.
        accuracy: At the operating point.
        offload_rate: Share of samples that leave the first tier at the operating point.
        exit_counts: Samples that each exit answers at the operating point.
        bytes_per_boundary: Mean over the samples that cross it; None where none does.
        bytes_per_sample: Mean over all samples of what they send over all boundaries.
    """

    codec: str
    exit_accuracies: list[float]
    accuracy: float
    offload_rate: float
    exit_counts: list[int]
    bytes_per_boundary: list[float | None]
    bytes_per_sample: float


@dataclass(frozen=True)
class ImageRow:
    """The picture itself, sent by every sample.

    Attributes:
        form: raw or png.
        bytes_per_sample: Mean over all images.
    """

    form: str
    bytes_per_sample: float


def measure_codecs(
    network: EarlyExitNetwork,
    inputs: Callable[[slice], Tensor],
    labels: npt.NDArray[np.int64],
    codecs: Sequence[str],
    *,
    decide: Callable[[Tensor], npt.NDArray[np.int64]],
    batch_size: int,
    ensemble: bool = False,
    policy: str = "max_softmax",
) -> list[CodecRow]:
    """Sends samples through all segments with each codec in turn between them; a deeper segment sees only decoded features.

    Codecs that differ in their compressor alone share one pass. Only logits and sizes are kept of a
    batch, never its features.

    Args:
        network: Its mode is left as it was.
        inputs: Gives the images (B, C, H, W) for a range of samples.
        labels: (N,).
        codecs: Names, each once; the rows come in their order.
        decide: Gives each sample's exit (N,) from the logits (exits, N, classes).
        batch_size: Samples at a time.
        ensemble: Whether an exit answers by the geometric mean of itself and the shallower ones.
            `decide` then gets these means, and what the exits have said so far travels beside the
            features (`extra_bytes`).
        policy: Of the decisions, for what else travels beside the features.

    Raises:
        ValueError: There are no samples, no codec is called so, one is listed twice, or `decide`
            gives something else than one exit a sample.
        RunError: A codec can't carry the features.
    """
    if not len(labels):
        raise ValueError("labels: got none; wanted one a sample, and at least one")
    if len(set(codecs)) != len(codecs):
        raise ValueError(f"codecs: got {', '.join(codecs)}; wanted each once")
    sharing: dict[str, list[str]] = {}
    for codec in codecs:
        sharing.setdefault(shared_pass(codec), []).append(codec)
    with evaluation_mode(network):
        rows = {
            row.codec: row
            for names in sharing.values()
            for row in _one_pass(
                network, inputs, labels, names, decide, batch_size, ensemble, policy
            )
        }
    return [rows[codec] for codec in codecs]


def image_rows(images: npt.NDArray[np.uint8]) -> list[ImageRow]:
    """Returns what images (N, H, W, C) cost raw and as PNG."""
    return [
        ImageRow("raw", float(raw_bytes(images).mean())),
        ImageRow("png", float(png_bytes(images).mean())),
    ]


def _one_pass(
    network: EarlyExitNetwork,
    inputs: Callable[[slice], Tensor],
    labels: npt.NDArray[np.int64],
    codecs: Sequence[str],
    decide: Callable[[Tensor], npt.NDArray[np.int64]],
    batch_size: int,
    ensemble: bool,
    policy: str,
) -> Iterator[CodecRow]:
    """Yields the rows of codecs that share their quantiser."""
    num_exits, count = len(network), len(labels)
    meter = Meter(codecs)
    batches = evaluate_batches(list(network), inputs, count, transfer=meter, batch_size=batch_size)
    logits = torch.cat([rows.cpu() for rows, _ in batches], dim=1)
    if ensemble:
        logits = ensemble_logits(logits)
    exits = np.asarray(decide(logits))
    if exits.shape != (count,) or exits.min() < 0 or exits.max() >= num_exits:
        raise ValueError(
            f"decide: got exits of shape {exits.shape} from {exits.min()} to {exits.max()}; wanted ({count},) from 0 to {num_exits - 1}"
        )
    correct = logits.argmax(2).numpy() == labels
    outcome = Outcome(exits, correct[exits, np.arange(count)], num_exits)
    crosses = exits > np.arange(num_exits - 1)[:, None]  # (boundaries, N)
    said = extra_bytes(policy, ensemble, logits.shape[2])
    for codec in codecs:
        sent = (
            crosses * (meter.crossing_bytes(codec, num_exits - 1) + said)
            if num_exits > 1
            else np.zeros((0, count), np.int64)
        )
        yield CodecRow(
            codec,
            [float(value) for value in correct.mean(axis=1)],
            outcome.accuracy,
            float((exits > 0).mean()),
            outcome.exit_counts,
            [
                float(row.sum() / number) if number else None
                for row, number in zip(sent, outcome.crossings, strict=True)
            ],
            float(sent.sum() / count),
        )
