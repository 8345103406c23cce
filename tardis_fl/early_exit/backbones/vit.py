"""A small vision transformer (Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.layers import named
from tardis_fl.early_exit.exits import MeanOverPositions

PATCH, DIM, DEPTH, NUM_HEADS, MLP_DIM = 4, 192, 6, 3, 768


def vit_tiny(options: BackboneOptions) -> Backbone:
    """Builds patches of 4x4 pixels and six blocks as wide as those of DeiT-Ti (Touvron et al., ICML 2021, table 1).

    The blocks are the paper's, with a norm before attention and MLP. The depth, patches for small
    images and no dropout are ours, and so is classifying by the mean of all tokens instead of by a
    class token (which works as well, says the paper's appendix D.3), so that every exit reads all
    of what crosses. Initial weights are as in DeiT. The children are `embed`, `block0` to `block5`
    and `head`; tokens (B, N, 192) cross between them.
    """
    children: dict[str, nn.Module] = {"embed": Embedding(options.image_size)}
    children |= {f"block{number}": TransformerBlock() for number in range(DEPTH)}
    children["head"] = nn.Sequential(
        nn.LayerNorm(DIM), MeanOverPositions(), nn.Linear(DIM, options.num_classes)
    )
    network = named(children)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return Backbone(network)


class Embedding(nn.Module):
    """Maps each patch to a token and adds where it is."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.positions = nn.Parameter(torch.empty(1, (image_size // PATCH) ** 2, DIM))  # (1, N, D)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) to tokens (B, N, D)."""
        return self.patches(x).flatten(2).transpose(1, 2) + self.positions


class TransformerBlock(nn.Module):
    """Self-attention and an MLP, each with a norm before it and a shortcut around it (equations 2 and 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attention = SelfAttention()
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, MLP_DIM), nn.GELU(), nn.Linear(MLP_DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (B, N, D) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SelfAttention(nn.Module):
    """Multi-head self-attention (appendix A).

    Written out, since PyTorch's FLOP counter counts nothing for the fused attention of CPUs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(DIM, 3 * DIM)
        self.project = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (B, N, D) to the same shape."""
        head_dim = DIM // NUM_HEADS
        split = (
            self.queries_keys_values(x)
            .unflatten(-1, (3, NUM_HEADS, head_dim))
            .permute(2, 0, 3, 1, 4)
        )  # (3, B, heads, N, D / heads)
        queries, keys, values = split[0], split[1], split[2]
        weights = torch.softmax(
            queries @ keys.transpose(-2, -1) * head_dim**-0.5, -1
        )  # (B, heads, N, N)
        return self.project((weights @ values).transpose(1, 2).flatten(2))
