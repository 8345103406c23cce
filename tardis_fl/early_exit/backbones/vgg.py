"""VGG (Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, table 1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.layers import initialise_convolutions, named, norm_layer
from tardis_fl.early_exit.exits import pooled_exit

CHANNELS = (64, 128, 256, 512, 512)


def vgg(options: BackboneOptions, *, convolutions: Sequence[int], with_norm: bool) -> Backbone:
    """Builds the form for small images: the five stages of the paper, pooling, and one linear layer in place of its three.

    Its children are `conv1_1` (with its norm), `relu1_1` and so on as the paper counts them,
    `pool1` to `pool5`, and `head`. A convolution and its ReLU are two children because TARDIS Early
    Exit cuts VGG19 between them, at `features[:17]`. Convolutions keep their bias before a norm, as
    torchvision's do, so that its weights fit.

    Args:
        options: Classes, and the kind of norm.
        convolutions: How many each of the five stages has.
        with_norm: Whether a norm layer follows each of them.
    """
    children: dict[str, nn.Module] = {}
    channels_in = 3
    for stage, (count, channels) in enumerate(zip(convolutions, CHANNELS, strict=True), start=1):
        for number in range(1, count + 1):
            convolution = nn.Conv2d(channels_in, channels, 3, padding=1)
            children[f"conv{stage}_{number}"] = (
                nn.Sequential(convolution, norm_layer(options.norm, channels))
                if with_norm
                else convolution
            )
            children[f"relu{stage}_{number}"] = nn.ReLU()
            channels_in = channels
        children[f"pool{stage}"] = nn.MaxPool2d(2)
    children["head"] = pooled_exit(channels_in, options.num_classes)
    network = named(children)
    initialise_convolutions(network)
    return Backbone(network)
