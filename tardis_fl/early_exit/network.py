"""The segment, and the network as a list of segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Segment(nn.Module):
    """A piece of the network with the exit that sits on it.

    Args:
        body: Maps the previous segment's features, or the images, to features.
        exit: Maps these features to logits (B, classes).
    """

    def __init__(self, body: nn.Module, exit: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.exit = exit

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features for the next segment (B, ...) and logits (B, classes)."""
        features = self.body(x)
        return features, self.exit(features)


class EarlyExitNetwork(nn.Module):
    """A network cut into segments, each with an exit.

    Args:
        core_net: The bodies of the segments, in order.
        exits: One exit a segment; one fewer where the last body already ends in logits.

    Raises:
        ValueError: If the numbers of bodies and exits don't fit.
    """

    def __init__(self, core_net: nn.Sequential, exits: nn.ModuleList) -> None:
        super().__init__()
        missing = len(core_net) - len(exits)
        if len(core_net) == 0 or missing not in (0, 1):
            raise ValueError(f"got {len(core_net)} bodies and {len(exits)} exits; wanted one exit a body, or one fewer where the last body ends in logits")
        heads = [*exits, *[nn.Identity()] * missing]
        self.segments = nn.ModuleList(Segment(body, head) for body, head in zip(core_net, heads, strict=True))

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)  # type: ignore[arg-type]

    def forward(self, x: Tensor, exit_chosen: int | None = None) -> Tensor:
        """Computes exits.

        Args:
            x: Images (B, C, H, W).
            exit_chosen: Compute only this exit, and no segment beyond it.

        Returns:
            Logits of all exits (exits, B, classes), or of one (B, classes).

        Raises:
            ValueError: If there is no exit of this number.
        """
        if exit_chosen is not None and not 0 <= exit_chosen < len(self):
            raise ValueError(f"exit_chosen: got {exit_chosen}, the network has the exits 0 to {len(self) - 1}")
        all_logits = []
        for number, segment in enumerate(self):
            if exit_chosen is None:
                x, logits = segment(x)
                all_logits.append(logits)
                continue
            x = segment.body(x)
            if number == exit_chosen:
                return segment.exit(x)
        return torch.stack(all_logits)


def segments_loss(segments: Sequence[Segment], x: Tensor, labels: Tensor, weights: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
    """Computes the weighted sum of the exits' cross-entropies over consecutive segments.

    Args:
        segments: Consecutive segments.
        x: Input of the first of them (B, ...).
        labels: (B,) int64.
        weights: One weight an exit.

    Returns:
        The loss, a scalar, and each exit's logits (B, classes) in float32.
    """
    loss = torch.zeros(())
    all_logits = []
    for segment, weight in zip(segments, weights, strict=True):
        x, logits = segment(x)
        logits = logits.float()
        loss = loss + weight * nn.functional.cross_entropy(logits, labels)
        all_logits.append(logits)
    return loss, all_logits
