"""Temperatures and histograms from sums that clients send, in place of exit tables: no logit, feature or label leaves a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from torch import Tensor

from tardis_fl.codecs.codec import transfer
from tardis_fl.data.roles import Role, Shard
from tardis_fl.early_exit.evaluation import exit_logits
from tardis_fl.early_exit.scoring.calibration_sums import CalibrationSums
from tardis_fl.early_exit.scoring.ensemble import ensemble_logits
from tardis_fl.early_exit.scoring.histograms import NUM_BINS, Histograms, score_histograms
from tardis_fl.early_exit.scoring.scores import early_scores
from tardis_fl.early_exit.scoring.temperature_sums import (
    Brackets,
    TemperatureSums,
    temperature_sums,
)
from tardis_fl.federation.client.local_training import LocalData
from tardis_fl.federation.client.resources import ClientResources
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.fleet import Reply
from tardis_fl.federation.transport.weights import Flat

STAGE = "calibrate"


def held_out_answers(resources: ClientResources, shard: Shard) -> ArrayRecord:
    """Returns the logits (exits, N, classes) of a client's two held-out samples, which stay with it; of ensembles, where the deployment has them."""
    deployment, answers = resources.config.deployment, {}
    for role in (Role.FIT, Role.CALIBRATE):
        own = torch.from_numpy(shard.indices(role))
        inputs = partial(_inputs, resources.data, own)
        logits = torch.from_numpy(
            exit_logits(
                resources.segments, inputs, len(own), transfer=transfer(deployment.feature_codec)
            )
        )
        answers[role.value] = (
            ensemble_logits(logits) if deployment.ensemble == "geometric" else logits
        )
    return messages.pack_tensors(answers)


def client_temperature_sums(
    resources: ClientResources,
    shard: Shard,
    answers: ArrayRecord,
    inverse_temperatures: list[float],
) -> MetricRecord:
    """Sums over a client's fit samples, at inverse temperatures (exits * POINTS,)."""
    logits = messages.unpack_tensors(answers)[Role.FIT.value]
    labels = torch.from_numpy(resources.dataset.train.labels[shard.fit])
    return MetricRecord(
        temperature_sums(
            logits, labels, np.reshape(inverse_temperatures, (len(logits), -1))
        ).to_numbers()
    )  # type: ignore[arg-type]


def client_histograms(
    resources: ClientResources,
    shard: Shard,
    answers: ArrayRecord,
    temperatures: list[float],
    bins: int,
) -> ArrayRecord:
    """Counts a client's calibrate samples by score and by right and wrong."""
    logits = messages.unpack_tensors(answers)[Role.CALIBRATE.value]
    correct = logits.numpy().argmax(axis=2) == resources.dataset.train.labels[shard.calibrate]
    scores = early_scores(resources.config.deployment.policy, logits, temperatures).numpy()
    counts = score_histograms(scores, correct, bins).to_arrays()
    return messages.pack_tensors({name: torch.from_numpy(array) for name, array in counts.items()})


def _inputs(data: LocalData, own: Tensor, rows: slice) -> Tensor:
    return data.batch(own[rows], None)[0]


class Asking(Protocol):
    """Asks all clients that haven't failed yet; yields who answered with what."""

    def __call__(
        self,
        stage: str,
        message_type: str,
        *,
        weights: Flat | None = None,
        depth: int | None = None,
        **values: Any,
    ) -> Iterator[tuple[Reply, RecordDict]]: ...


def collect_sums(
    ask: Asking,
    reject: Callable[[int, str], None],
    check: Callable[[], None],
    *,
    weights: Flat,
    num_exits: int,
) -> CalibrationSums:
    """Asks clients for sums over their held-out samples, in four messages.

    Args:
        ask: Asks for one stage.
        reject: Takes note of a client whose answer doesn't fit, and why.
        check: Ends the run where too many clients failed.
        weights: Of the whole network; they go with the first message.
        num_exits: Of the network.
    """
    temperatures, num_fit = _temperatures(ask, reject, check, weights, num_exits)
    total = Histograms.zero(num_exits)
    for reply, content in ask(
        STAGE, messages.HISTOGRAMS, depth=num_exits, temperatures=list(temperatures), bins=NUM_BINS
    ):
        arrays = messages.unpack_tensors(content.array_records[messages.METRICS])
        try:
            total += Histograms.from_arrays({name: array.numpy() for name, array in arrays.items()})
        except ValueError as error:
            reject(reply.client, str(error))
    check()
    return CalibrationSums(temperatures, total, num_fit, total.num_samples)


def _temperatures(
    ask: Asking,
    reject: Callable[[int, str], None],
    check: Callable[[], None],
    weights: Flat,
    num_exits: int,
) -> tuple[tuple[float, ...], int]:
    """Returns temperatures and the number of samples behind them; where a client fails on the way it begins again, so that all sums are of the same samples."""
    brackets, clients, unsent, total = (
        Brackets.whole(num_exits),
        None,
        weights,
        TemperatureSums.zero(num_exits),
    )
    while not brackets.is_narrow:
        total, answered, grid = (
            TemperatureSums.zero(num_exits),
            [],
            brackets.inverse_temperatures.ravel().tolist(),
        )
        for reply, content in ask(
            STAGE, messages.TEMPERATURES, weights=unsent, depth=num_exits, inverse_temperatures=grid
        ):
            try:
                total += TemperatureSums.from_numbers(
                    content.metric_records[messages.METRICS], num_exits
                )
                answered.append(reply.client)
            except ValueError as error:
                reject(reply.client, str(error))
        check()
        brackets = (
            brackets.narrowed(total) if clients in (None, answered) else Brackets.whole(num_exits)
        )
        clients, unsent = answered, None
    return brackets.temperatures, total.num_samples
