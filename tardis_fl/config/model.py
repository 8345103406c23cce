"""Keys of `model` and `tiers`: the network, and where its segments run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tardis_fl.config.plugin_names import PluginName
from tardis_fl.config.section import ADDED, NonNegativeFloat, Options, Section
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.early_exit.training.registry import LOSSES

# the last exit's weight beside the first's: BranchyNet (Teerapittayanon et al. 2016) took 1.0 and
# 0.3
EARLY_HEAVY = 0.3


class ModelConfig(Section):
    """The network: one segment a tier, one exit a segment."""

    backbone: Annotated[str, PluginName(lambda: tuple(CATALOGUE))] = "small_resnet"
    """small_resnet, made for three tiers; forms for 32x32 images of networks in papers: resnet8,
    resnet20, resnet56, vgg11, vgg11_bn, vgg16, vgg16_bn, vgg19, vgg19_bn, mobilenet_v2, vit_tiny,
    b_alexnet, simple_cnn; or MODULE:FUNCTION, a network of your own."""
    options: Annotated[Options, ADDED] = Field(default={})
    """Options of a backbone of your own, by the names of its parameters."""
    width: Annotated[int, Field(ge=4, le=256)] = 32
    """Scales all channels (backbone small_resnet): width / 2 cross from device to edge, 2 * width
    from edge to cloud."""
    norm: Literal["batch", "batch_local", "group"] = "batch"
    """Norm layer (small_resnet, resnet*, *_bn, mobilenet_v2). batch: averaged like all weights;
    batch_local: each client trains with norm layers of its own, and their average is deployed
    (FedBN, Li et al. 2021); group: has no running statistics, which clients with skewed data would
    disagree on."""
    cuts: list[str] | None = None
    """Names of the children after which the network is cut, one fewer than tiers (`describe --cuts`
    lists them); null: the backbone's own for three tiers, else those nearest to equal shares of its
    multiply-accumulates."""
    exit_hidden: Annotated[int, Field(ge=0, le=4096)] = 64
    """Hidden units in the head of the early exits; 0: a single linear layer."""
    exit_weights: list[NonNegativeFloat] | None = None
    """Weight of each exit's loss, from shallow to deep; null: by exit_weighting."""
    exit_weighting: Literal["uniform", "early_heavy", "serving_rate"] = "uniform"
    """uniform: 1 for all; early_heavy: from 1 down to 0.3, each a fixed share of the one before;
    serving_rate: by the share of held-out samples that each exit answered at the last evaluation
    (federation.serving_score), on average 1."""
    loss: Annotated[str, PluginName(LOSSES.names), ADDED] = "cross_entropy"
    """Loss of an exit's logits: cross_entropy; or MODULE:FUNCTION, a loss of your own."""
    loss_options: Annotated[Options, ADDED] = Field(default={})
    """Options of a loss of your own, by the names of its parameters."""

    @property
    def norm_layer(self) -> Literal["batch", "group"]:
        """The kind of norm layer, whoever holds it."""
        return "group" if self.norm == "group" else "batch"

    def initial_exit_weights(self, num_exits: int) -> list[float]:
        """Returns the weight of each exit's loss at the start, from shallow to deep."""
        if self.exit_weights is not None:
            return list(self.exit_weights)
        if self.exit_weighting == "early_heavy":
            return [EARLY_HEAVY ** (number / (num_exits - 1)) for number in range(num_exits)]
        return [1.0] * num_exits


class TierConfig(Section):
    """A place where one segment runs."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    """Name of the tier in reports."""
