"""What is known of the registered backbones without importing PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneInfo:
    """Data that travels with a backbone.

    Attributes:
        name: The name a configuration uses.
        num_segments: Segments, each with one exit.
        input_size: Side of the square input in pixels that the cuts were chosen for.
        paper: Where the architecture comes from.
        cuts: Where it is cut, in words.
        has_width: Whether `model.width` scales it.
    """

    name: str
    num_segments: int
    input_size: int
    paper: str
    cuts: str
    has_width: bool


CATALOGUE = {
    info.name: info
    for info in (
        BackboneInfo(
            "small_resnet", 3, 32, "He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (basic blocks)",
            "after the residual block at 16x16, after two more at 8x8", True,
        ),
        BackboneInfo(
            "vgg19", 3, 32, "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015 (configuration E)",
            "features[:7], features[7:17], the rest", False,
        ),
    )
}  # fmt: skip
