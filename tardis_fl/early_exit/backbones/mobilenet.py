"""MobileNetV2 (Sandler et al., Inverted Residuals and Linear Bottlenecks, CVPR 2018, table 2)."""

from __future__ import annotations

from torch import Tensor, nn

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.layers import Norm, convolution, initialise_convolutions, named
from tardis_fl.early_exit.exits import pooled_exit

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of the first block, as in table 2 but for the stride of
the second stage."""

STEM_CHANNELS, LAST_CHANNELS = 32, 1280


def mobilenet_v2(options: BackboneOptions) -> Backbone:
    """Builds width 1.0 with strides for small images: 1 instead of 2 in the first convolution and the second stage.

    The paper has no form for such images; these strides are the usual ones, and leave 4x4 positions
    of 32x32 pixels. The children are `stem`, `block0` to `block16`, `last` and `head`.
    """
    children: dict[str, nn.Module] = {
        "stem": _relu6_convolution(3, STEM_CHANNELS, 3, norm=options.norm)
    }
    channels_in, number = STEM_CHANNELS, 0
    for expansion, channels, num_blocks, stride in STAGES:
        for block in range(num_blocks):
            children[f"block{number}"] = InvertedResidual(
                channels_in,
                channels,
                stride if block == 0 else 1,
                expansion=expansion,
                norm=options.norm,
            )
            channels_in, number = channels, number + 1
    children["last"] = _relu6_convolution(channels_in, LAST_CHANNELS, 1, norm=options.norm)
    children["head"] = pooled_exit(LAST_CHANNELS, options.num_classes)
    network = named(children)
    initialise_convolutions(network)
    return Backbone(network)


class InvertedResidual(nn.Module):
    """Expands by a 1x1 convolution, filters each channel, and projects without activation (figure 4d)."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, *, expansion: int, norm: Norm
    ) -> None:
        super().__init__()
        inner = expansion * channels_in
        self.expand: nn.Module = (
            _relu6_convolution(channels_in, inner, 1, norm=norm) if expansion > 1 else nn.Identity()
        )
        self.filter = _relu6_convolution(inner, inner, 3, stride, norm=norm, groups=inner)
        self.project = nn.Sequential(*convolution(inner, channels_out, 1, norm=norm))
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        out = self.project(self.filter(self.expand(x)))
        return out + x if self.has_shortcut else out


def _relu6_convolution(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int = 1,
    *,
    norm: Norm,
    groups: int = 1,
) -> nn.Sequential:
    return nn.Sequential(
        *convolution(channels_in, channels_out, kernel, stride, norm=norm, groups=groups),
        nn.ReLU6(),
    )
