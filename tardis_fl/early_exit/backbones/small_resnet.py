"""A residual network for small devices, ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.layers import (
    Norm,
    activated_convolution,
    convolution,
    named,
    norm_layer,
)
from tardis_fl.early_exit.exits import pooled_exit


def small_resnet(options: BackboneOptions) -> Backbone:
    """Builds three segments of basic blocks (He et al.

    2016) with projection shortcuts, and the exits of the first two.

    The first convolution halves the image, so that a device works at 16x16. What crosses from there
    has few channels
    but keeps its resolution: measured on CIFAR-10, deeper exits gain more from 16 channels at 16x16
        than from the same bytes as 64 channels at 8x8. The device's exit has two convolutions of
        its own, so that features needn't be linearly separable already where they cross.
    """
    norm, num_classes, hidden = options.norm, options.num_classes, options.exit_hidden
    trunk, crossing, deep = 3 * options.width // 2, options.width // 2, 2 * options.width
    device = nn.Sequential(
        activated_convolution(3, trunk, 4, 2, norm=norm),
        ProjectedBlock(trunk, trunk, norm=norm),
        activated_convolution(trunk, crossing, 1, norm=norm),
    )
    edge = nn.Sequential(
        ProjectedBlock(crossing, deep, 2, norm=norm), ProjectedBlock(deep, deep, norm=norm)
    )
    cloud = nn.Sequential(
        ProjectedBlock(deep, 2 * deep, 2, norm=norm), ProjectedBlock(2 * deep, 2 * deep, norm=norm)
    )
    device_exit = nn.Sequential(
        activated_convolution(crossing, trunk, 3, 2, norm=norm),
        activated_convolution(trunk, trunk, 3, norm=norm),
        pooled_exit(trunk, num_classes, hidden),
    )
    exits = {"device": device_exit, "edge": pooled_exit(deep, num_classes, hidden)}
    # last, so that a seed keeps giving the weights it always gave; they so depend on `hidden`
    head = pooled_exit(2 * deep, num_classes)
    return Backbone(named({"device": device, "edge": edge, "cloud": cloud, "head": head}), exits)


class ProjectedBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al.

    2016, figure 2), a 1x1 convolution where the shape changes.

    The shortcut takes every `stride`-th position before its convolution, which is the same: in
    PyTorch 2.13, a 1x1 convolution with a stride in channels-last order writes beyond its memory
    for fewer than 16 channels on CPUs with AVX-512, and crashes the process sooner or later.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, *, norm: Norm) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = norm_layer(norm, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = norm_layer(norm, channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(*convolution(channels_in, channels_out, 1, norm=norm))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        out = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(
            self.norm2(self.conv2(out)) + self.shortcut(x[:, :, :: self.stride, :: self.stride])
        )
