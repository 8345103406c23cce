"""Layers that several backbones share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "group"]

MAX_GROUPS = 32
MIN_GROUP_CHANNELS = 8


class FlattenPositions(nn.Module):
    """Flattens maps (B, C, H, W) to (B, H * W * C), position by position.

    That is how channels-last memory lies, so nothing is copied; to copy the gradient of
    `nn.Flatten` back takes a twentieth of a small network's training.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the maps in a row, of each sample."""
        return x.permute(0, 2, 3, 1).flatten(1)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Builds the norm layer for maps (B, channels, H, W).

    Group norm (Wu and He, ECCV 2018) has no running statistics, which skewed clients would disagree
    on (Hsieh et al., The Non-IID Data Quagmire, ICML 2020). It gets the most groups, up to the
    paper's 32, that divide the channels into groups of at least 8; fewer channels than that are one
    group.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm != "group":
        raise ValueError(f"norm: got {norm!r}; wanted 'batch' or 'group'")
    num_groups = max(
        n
        for n in range(1, MAX_GROUPS + 1)
        if channels % n == 0 and (n == 1 or channels // n >= MIN_GROUP_CHANNELS)
    )
    return nn.GroupNorm(num_groups, channels)


def convolution(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int = 1,
    *,
    norm: Norm,
    groups: int = 1,
) -> list[nn.Module]:
    """Builds a convolution without bias and its norm; an odd kernel keeps (B, C, H, W) at H / stride, W / stride, rounded up."""
    return [
        nn.Conv2d(
            channels_in, channels_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False
        ),
        norm_layer(norm, channels_out),
    ]


def activated_convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, norm: Norm
) -> nn.Sequential:
    """Builds convolution, norm and ReLU."""
    return nn.Sequential(
        *convolution(channels_in, channels_out, kernel, stride, norm=norm), nn.ReLU()
    )


def named(children: Mapping[str, nn.Module]) -> nn.Sequential:
    """Puts named children in a row."""
    return nn.Sequential(OrderedDict(children))


def initialise_convolutions(network: nn.Module) -> None:
    """Draws convolutions from a normal distribution that keeps the variance of gradients (He et al., ICCV 2015, equation 14)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
