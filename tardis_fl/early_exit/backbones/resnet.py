"""Residual networks for CIFAR-10 (He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.layers import (
    Norm,
    activated_convolution,
    convolution,
    initialise_convolutions,
    named,
)
from tardis_fl.early_exit.exits import pooled_exit

CHANNELS = (16, 32, 64)


def resnet(options: BackboneOptions, *, blocks_per_stage: int) -> Backbone:
    """Builds the network with 6 * blocks_per_stage + 2 weighted layers, with identity shortcuts (option A) as in the paper.

    Its children are `stem`, `layer1_0` and so on to `layer3_{blocks_per_stage - 1}`, and `head`.
    """
    children: dict[str, nn.Module] = {
        "stem": activated_convolution(3, CHANNELS[0], 3, norm=options.norm)
    }
    channels_in = CHANNELS[0]
    for stage, channels in enumerate(CHANNELS, start=1):
        for block in range(blocks_per_stage):
            children[f"layer{stage}_{block}"] = BasicBlock(
                channels_in, channels, 2 if stage > 1 and block == 0 else 1, norm=options.norm
            )
            channels_in = channels
    children["head"] = pooled_exit(channels_in, options.num_classes)
    network = named(children)
    initialise_convolutions(network)
    return Backbone(network)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, *, norm: Norm) -> None:
        super().__init__()
        self.first = nn.Sequential(
            *convolution(channels_in, channels_out, 3, stride, norm=norm), nn.ReLU()
        )
        self.second = nn.Sequential(*convolution(channels_out, channels_out, 3, norm=norm))
        same_shape = stride == 1 and channels_in == channels_out
        self.shortcut: nn.Module = (
            nn.Identity() if same_shape else PaddedShortcut(channels_out - channels_in, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th position, and zeros for the channels that are new."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C + new_channels, H / stride, W / stride)."""
        return nn.functional.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels)
        )
