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
        width: Channels of the first convolution, where the backbone has a width.
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


def _small_resnet(num_classes: int, width: int, exit_hidden: int) -> EarlyExitNetwork:
    """Three segments that cross at 8x8: the first convolution already halves the image, so a device does little."""
    w = width
    device = nn.Sequential(nn.Conv2d(3, w, 4, 2, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(), ResidualBlock(w, 2 * w, 2))
    edge = nn.Sequential(ResidualBlock(2 * w, 2 * w), ResidualBlock(2 * w, 2 * w))
    cloud = nn.Sequential(ResidualBlock(2 * w, 4 * w, 2), ResidualBlock(4 * w, 4 * w))
    exits = [pooled_exit(2 * w, num_classes, exit_hidden), pooled_exit(2 * w, num_classes, exit_hidden), pooled_exit(4 * w, num_classes)]
    return EarlyExitNetwork(nn.Sequential(device, edge, cloud), nn.ModuleList(exits))


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
