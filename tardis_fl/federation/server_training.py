"""What the server trains: the segments no client holds, on the clients' features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from tardis_fl.codecs import decode, transfer
from tardis_fl.config.schema import Config
from tardis_fl.early_exit.evaluation import exit_logits
from tardis_fl.early_exit.network import Segment, segments_loss
from tardis_fl.federation.local_training import batches
from tardis_fl.federation.messages import Counts, FeatureBatch
from tardis_fl.federation.schedule import learning_rate
from tardis_fl.precision import training_arithmetic


class ServerTrainer:
    """The deeper segments with one optimiser that lives as long as the run.

    Args:
        segments: The deeper segments, trained in place.
        config: Optimiser, exit weights and the planned number of epochs.
        precision: float32 or bfloat16.
    """

    def __init__(self, segments: Sequence[Segment], config: Config, precision: str) -> None:
        settings, depth = config.federation.server, config.federation.client_depth
        self.segments = segments
        self.precision = precision
        self._settings = settings
        self._weights = config.exit_weights[depth:]
        self._planned_epochs = max(1, planned_epochs(config))
        parameters = [parameter for segment in segments for parameter in segment.parameters()]
        self.optimizer = torch.optim.SGD(
            parameters, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay, nesterov=settings.momentum > 0
        )

    def train_epoch(self, data: FeatureBatch, *, epoch: int, generator: torch.Generator) -> Counts:
        """Makes one pass over features, shuffled over all clients.

        Args:
            data: Features and labels of all clients.
            epoch: Which of the planned epochs this is, for the learning rate.
            generator: The order is drawn from it.

        Returns:
            Samples, losses and right answers of the deeper exits seen on the way.
        """
        for segment in self.segments:
            segment.train()
        loss_sum, correct, seen = torch.zeros((), dtype=torch.float64), torch.zeros(len(self.segments), dtype=torch.int64), 0
        for rows in batches(len(data), self._settings.batch_size, generator):
            progress = (epoch + seen / len(data)) / self._planned_epochs
            self.optimizer.param_groups[0]["lr"] = learning_rate(self._settings.learning_rate, self._settings.schedule, progress)
            labels = data.labels[rows]
            with training_arithmetic(self.precision):
                loss, logits = segments_loss(self.segments, decode(data.features, rows), labels, self._weights)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            seen += len(rows)
            loss_sum += loss.detach() * len(rows)
            correct += torch.stack([(row.argmax(1) == labels).sum() for row in logits])
        return Counts(seen, float(loss_sum), tuple(correct.tolist()))


def planned_epochs(config: Config) -> int:
    """Returns the passes over features that the server makes in a whole run."""
    federation = config.federation
    return federation.rounds * federation.server_epochs + federation.final_server_epochs


def deeper_logits(segments: Sequence[Segment], batch: FeatureBatch, codec: str) -> npt.NDArray[np.float32]:
    """Returns the deeper exits' logits (exits, N, classes) on features that clients sent, in float32.

    `codec` is what features travel in between the deeper tiers.
    """
    return exit_logits(segments, lambda rows: decode(batch.features, rows), len(batch), transfer=transfer(codec))
