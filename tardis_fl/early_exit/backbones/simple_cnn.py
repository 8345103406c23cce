"""The small network of pfl-research's CIFAR-10 benchmark (Granqvist et al., NeurIPS 2024)."""

from __future__ import annotations

from torch import nn

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.layers import FlattenPositions, named


def simple_cnn(options: BackboneOptions) -> Backbone:
    """Builds two convolutions without padding, pooling, and a hidden layer of 128 that holds nearly all parameters.

    Weights are drawn as there (Glorot and Bengio, AISTATS 2010). Its dropout is left out, which
    would draw from the global generator.
    """
    side = (options.image_size - 4) // 2
    children: dict[str, nn.Module] = {
        "conv1": nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU()),
        "conv2": nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        "fc": named(
            {
                "positions": FlattenPositions(),
                "linear": nn.Linear(64 * side**2, 128),
                "relu": nn.ReLU(),
            }
        ),
        "head": nn.Linear(128, options.num_classes),
    }
    network = named(children)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return Backbone(network)
