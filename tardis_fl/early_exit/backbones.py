"""Registered networks, already cut into segments with their exits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.early_exit.exits import pooled_exit
from tardis_fl.early_exit.network import EarlyExitNetwork


def build_network(name: str, *, num_classes: int, width: int, exit_hidden: int, seed: int) -> EarlyExitNetwork:
    """Builds a registered network in channels-last memory order, which is the faster one on CPUs.

    Args:
        name: A name of `CATALOGUE`.
        num_classes: Logits of every exit.
        width: Scales all channels, where the backbone has a width.
        exit_hidden: Hidden units of the early exits.
        seed: The initial weights follow from it; the global generator is left as it was.

    Raises:
        ValueError: There is no such backbone.
    """
    if name not in BUILDERS:
        raise ValueError(f"there is no backbone {name!r}; known: {', '.join(CATALOGUE)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BUILDERS[name](num_classes, width, exit_hidden)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016, figure 2), batch norm after each."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        out = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    padding = 1 if kernel > 1 else 0
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU())


def _small_resnet(num_classes: int, width: int, exit_hidden: int) -> EarlyExitNetwork:
    """Three segments for small devices.

    The first convolution halves the image, so that a device works at 16x16. What crosses from there has few channels
    but keeps its resolution: measured on CIFAR-10, deeper exits gain more from 16 channels at 16x16 than from the same
    bytes as 64 channels at 8x8. The device's exit has two convolutions of its own, so that features needn't be
    linearly separable already where they cross.
    """
    trunk, crossing, deep = 3 * width // 2, width // 2, 2 * width
    device = nn.Sequential(_convolution(3, trunk, 4, 2), ResidualBlock(trunk, trunk), _convolution(trunk, crossing, 1))
    edge = nn.Sequential(ResidualBlock(crossing, deep, 2), ResidualBlock(deep, deep))
    cloud = nn.Sequential(ResidualBlock(deep, 2 * deep, 2), ResidualBlock(2 * deep, 2 * deep))
    device_exit = nn.Sequential(_convolution(crossing, trunk, 3, 2), _convolution(trunk, trunk, 3), pooled_exit(trunk, num_classes, exit_hidden))
    return EarlyExitNetwork(
        nn.Sequential(device, edge, cloud),
        nn.ModuleList([device_exit, pooled_exit(deep, num_classes, exit_hidden), pooled_exit(2 * deep, num_classes)]),
    )


def _vgg19(num_classes: int, width: int, exit_hidden: int) -> EarlyExitNetwork:
    """torchvision's VGG19, untrained, cut where TARDIS Early Exit cuts it; pooled exits instead of its flattening ones."""
    from tardis_fl.torchvision_guard import import_torchvision

    features = import_torchvision("torchvision.models").vgg19(weights=None, num_classes=1).features
    for module in features.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # an exit reads the features that the next segment would overwrite
    exits = [pooled_exit(128, num_classes, exit_hidden), pooled_exit(256, num_classes, exit_hidden), pooled_exit(512, num_classes)]
    return EarlyExitNetwork(nn.Sequential(features[:7], features[7:17], features[17:]), nn.ModuleList(exits))


BUILDERS: dict[str, Callable[[int, int, int], EarlyExitNetwork]] = {"small_resnet": _small_resnet, "vgg19": _vgg19}
