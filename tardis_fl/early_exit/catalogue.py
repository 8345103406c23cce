"""What is known of the registered backbones without importing PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneInfo:
    """Data that travels with a backbone.

    Attributes:
        name: The name a configuration uses.
        num_segments: Segments, each with one exit.
        min_input_size: Smallest side of the square input in pixels that leaves the last segment at least 2x2 positions, or 1x1 without batch norm.
        paper: Where the architecture comes from.
        has_width: Whether `model.width` scales it.
    """

    name: str
    num_segments: int
    min_input_size: int
    paper: str
    has_width: bool


CATALOGUE = {
    info.name: info
    for info in (
        BackboneInfo(
            "small_resnet", 3, 16, "He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (basic blocks)", True,
        ),
        BackboneInfo(
            "vgg19", 3, 32, "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015 (configuration E)", False,
        ),
    )
}  # fmt: skip
