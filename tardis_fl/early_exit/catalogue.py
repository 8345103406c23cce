"""What is known of the registered backbones without importing PyTorch."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

RESNET = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
VGG = "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015"
CIFAR10_MEAN = (0.491, 0.482, 0.447)
CIFAR10_DEVIATION = (0.245, 0.243, 0.261)


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """Data that travels with a backbone.

    Attributes:
        name: The name a configuration uses.
        children: Its children in order, without `head`: after each of them it can be cut.
        cuts: The children after which it is cut by default.
        min_input_size: Smallest side of the square input in pixels that leaves every batch norm at
            least 2x2 positions, and every layer one.
        paper: Where the architecture comes from.
        has_width: Whether `model.width` scales it.
        has_norm: Whether `model.norm` chooses its norm layers.
        depthwise: Whether most of its multiply-accumulates are in depthwise separable convolutions,
            which devices compute more slowly.
        fixed_exits: Children with an exit of the paper's, which `model.exit_hidden` doesn't change.
        input_multiple: What the side of its input must be a multiple of.
        input_size: Side of the input that parameters and MACs in papers are for.
        mean: Of the RGB values of its input in [0, 1], before normalisation.
        std: Their standard deviation.
    """

    name: str
    children: tuple[str, ...]
    cuts: tuple[str, ...]
    min_input_size: int
    paper: str
    has_width: bool = False
    has_norm: bool = True
    depthwise: bool = False
    fixed_exits: tuple[str, ...] = ()
    input_multiple: int = 1
    input_size: int = 32
    mean: tuple[float, float, float] = CIFAR10_MEAN
    std: tuple[float, float, float] = CIFAR10_DEVIATION

    @property
    def num_segments(self) -> int:
        """Segments, each with one exit, where it is cut by default."""
        return len(self.cuts) + 1

    def problem_with_cuts(self, cuts: Sequence[str]) -> tuple[str, str] | None:
        """Says why the backbone can't be cut after these children, if so: what was got and what was wanted."""
        for cut in cuts:
            if cut == "head":
                return "'head'", "it is the last exit, with nothing behind it; leave it out"
            if cut not in self.children:
                near = difflib.get_close_matches(cut, self.children, n=3, cutoff=0)
                return repr(
                    cut
                ), f"{self.name!r} has no such child; the nearest are {', '.join(map(repr, near))}"
        in_order = [child for child in self.children if child in cuts]
        if list(cuts) != in_order:
            return ", ".join(
                cuts
            ), f"wanted {', '.join(in_order)}: each child once, in the network's order"
        return None

    def problem_with_size(self, image_size: int) -> str | None:
        """Says why the backbone can't take images of this side in pixels, if so."""
        if image_size < self.min_input_size:
            return (
                f"the backbone {self.name!r} wants images of at least {self.min_input_size} pixels"
            )
        if image_size % self.input_multiple:
            return f"the backbone {self.name!r} wants a multiple of {self.input_multiple} pixels"
        return None


def _resnet(depth: int) -> BackboneInfo:
    blocks = (depth - 2) // 6
    children = (
        "stem",
        *(f"layer{stage}_{block}" for stage in (1, 2, 3) for block in range(blocks)),
    )
    cuts = (f"layer1_{blocks - 1}", f"layer2_{blocks - 1}")
    return BackboneInfo(
        name=f"resnet{depth}",
        children=children,
        cuts=cuts,
        min_input_size=8,
        paper=f"{RESNET} (section 4.2, CIFAR-10)",
    )


def _vgg(
    name: str, convolutions: tuple[int, ...], configuration: str, cuts: tuple[str, ...]
) -> BackboneInfo:
    children: list[str] = []
    for stage, count in enumerate(convolutions, start=1):
        children += [
            f"{layer}{stage}_{number}"
            for number in range(1, count + 1)
            for layer in ("conv", "relu")
        ]
        children.append(f"pool{stage}")
    paper = f"{VGG} (configuration {configuration})"
    return BackboneInfo(
        name=name,
        children=tuple(children),
        cuts=cuts,
        min_input_size=32,
        paper=paper,
        has_norm=name.endswith("_bn"),
    )


_POOLS = ("pool2", "pool3")
_TARDIS = (
    "relu2_1",
    "conv3_4",
)  # features[:7] and features[7:17] of torchvision's VGG19, as TARDIS Early Exit cuts it

CATALOGUE = {
    info.name: info
    for info in (
        BackboneInfo(
            name="small_resnet",
            children=("device", "edge", "cloud"),
            cuts=("device", "edge"),
            min_input_size=16,
            paper=f"{RESNET} (basic blocks)",
            has_width=True,
        ),
        _resnet(8),
        _resnet(20),
        _resnet(56),
        _vgg("vgg11", (1, 1, 2, 2, 2), "A", _POOLS),
        _vgg("vgg11_bn", (1, 1, 2, 2, 2), "A", _POOLS),
        _vgg("vgg16", (2, 2, 3, 3, 3), "D", _POOLS),
        _vgg("vgg16_bn", (2, 2, 3, 3, 3), "D", _POOLS),
        _vgg("vgg19", (2, 2, 4, 4, 4), "E", _TARDIS),
        _vgg("vgg19_bn", (2, 2, 4, 4, 4), "E", _TARDIS),
        BackboneInfo(
            name="mobilenet_v2",
            depthwise=True,
            children=("stem", *(f"block{number}" for number in range(17)), "last"),
            cuts=("block5", "block12"),
            min_input_size=16,
            paper="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018",
        ),
        BackboneInfo(
            name="vit_tiny",
            children=("embed", *(f"block{number}" for number in range(6))),
            cuts=("block1", "block3"),
            min_input_size=8,
            input_multiple=4,
            paper="Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, ICLR 2021",
            has_norm=False,
        ),
        BackboneInfo(
            name="b_alexnet",
            children=("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"),
            cuts=("conv2", "conv3"),
            min_input_size=16,
            paper="Teerapittayanon et al., BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks, ICPR 2016",
            has_norm=False,
            fixed_exits=("conv2", "conv3"),
        ),
        BackboneInfo(
            name="simple_cnn",
            children=("conv1", "conv2", "fc"),
            cuts=("conv1", "conv2"),
            min_input_size=8,
            paper="Granqvist et al., pfl-research: Simulation Framework for Accelerating Research in Private Federated Learning, NeurIPS 2024 (CIFAR-10)",
            has_norm=False,
        ),
    )
}
