"""What a round asks of clients and server: learning rate, exit weights, distillation."""

from __future__ import annotations

from tardis_fl.config.schema import Config
from tardis_fl.early_exit.training.losses import Criterion, cross_entropy
from tardis_fl.federation.client.local_training import Objective, build_distillation
from tardis_fl.federation.server.learning_rate import learning_rate
from tardis_fl.federation.transport.messages import Counts


class TrainingPlan:
    """The plan over the rounds.

    Args:
        config: The run's configuration.
        criterion: The loss of one exit's logits.

    Attributes:
        exit_weights: Of the next round; under exit_weighting serving_rate they follow the last
            evaluation.
    """

    def __init__(self, config: Config, criterion: Criterion = cross_entropy) -> None:
        self._config = config
        self._criterion = criterion
        self._distillation = build_distillation(config)
        self._follows_serving = (
            config.model.exit_weights is None and config.model.exit_weighting == "serving_rate"
        )
        self.exit_weights = config.exit_weights

    @property
    def serving_score(self) -> float | None:
        """The score at which exits answer, where evaluations are to count that."""
        return self._config.federation.serving_score if self._follows_serving else None

    def learning_rate(self, round_number: int) -> float:
        """Returns the clients' learning rate in a round."""
        federation = self._config.federation
        return learning_rate(
            federation.client, (round_number - 1) / federation.rounds, federation.rounds
        )

    def request(self, round_number: int) -> dict[str, float | list[float]]:
        """Returns what clients are told for their training."""
        return {
            "learning_rate": self.learning_rate(round_number),
            "exit_weights": self.exit_weights,
            "distillation_weight": self._distillation_weight(round_number),
            "fraction": self._config.federation.feature_fraction,
        }

    def server_objective(self, round_number: int) -> Objective:
        """Returns what the server's training follows in a round; final epochs follow the last."""
        return Objective(
            self.exit_weights,
            self._distillation,
            self._distillation_weight(round_number),
            criterion=self._criterion,
        )

    def learn_serving_rates(self, validation: Counts) -> None:
        """Sets the exits' weights to the share of samples that each would answer, with one sample more for each, so that their mean is 1."""
        if self._follows_serving and validation.num_samples:
            count = len(validation.answered)
            self.exit_weights = [
                count * (answered + 1) / (validation.num_samples + count)
                for answered in validation.answered
            ]

    def _distillation_weight(self, round_number: int) -> float:
        if self._distillation is None:
            return 0.0
        return self._distillation.weight_at(
            min(1.0, (round_number - 1) / self._config.federation.rounds)
        )
