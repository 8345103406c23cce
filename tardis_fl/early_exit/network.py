"""The segment, and the network as a list of segments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from tardis_fl.early_exit.training.losses import Criterion, cross_entropy


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


@dataclass(frozen=True)
class Recipe:
    """How to build the segments of a network again, before its weights are loaded.

    Attributes:
        kind: registered: by `build_network`; converted: by `convert`, from a model that only its
            user can build.
        options: Keyword arguments, of what JSON can hold; among them `cuts`, by name.
    """

    kind: Literal["registered", "converted"]
    options: Mapping[str, Any]


class EarlyExitNetwork(nn.Module):
    """A network cut into segments, each with an exit.

    The modules are taken as they are, not copied: training this network trains them. In all of them
        but the first body, modules with an `inplace` flag lose it, since an exit and the next
        segment read the same features.

    Args:
        core_net: The bodies of the segments, in order.
        exits: One exit a segment; one fewer where the last body already ends in logits and so is
            the last exit.

    Raises:
        ValueError: If the numbers of bodies and exits don't fit.
    """

    def __init__(
        self,
        core_net: nn.Sequential | Iterable[nn.Module],
        exits: nn.ModuleList | Iterable[nn.Module],
    ) -> None:
        super().__init__()
        bodies, heads = list(core_net), list(exits)
        missing = len(bodies) - len(heads)
        if not bodies or missing not in (0, 1):
            raise ValueError(
                f"got {len(bodies)} bodies and {len(heads)} exits; wanted one exit a body, or one fewer where the last body ends in logits"
            )
        for part in [*bodies[1:], *heads]:
            for module in part.modules():
                if getattr(module, "inplace", False) is True:
                    module.inplace = False
        heads += [nn.Identity() for _ in range(missing)]
        self.segments = nn.ModuleList(
            Segment(body, head) for body, head in zip(bodies, heads, strict=True)
        )
        self.recipe: Recipe | None = None

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)  # type: ignore[arg-type]

    @property
    def cuts(self) -> tuple[str, ...] | None:
        """Where a whole network was cut to make this one; None where its segments were made by hand."""
        return tuple(self.recipe.options["cuts"]) if self.recipe else None

    @property
    def exits(self) -> nn.ModuleList:
        """The exits in order; where the last body ends in logits it is itself the last exit, as in TARDIS Early Exit."""
        *early, last = self
        return _View(
            [
                *(segment.exit for segment in early),
                last.body if self.last_exit_is_body else last.exit,
            ]
        )

    @property
    def network(self) -> nn.ModuleList:
        """The bodies that exits sit on, without a last body that is itself an exit, as in TARDIS Early Exit."""
        bodies = [segment.body for segment in self]
        return _View(bodies[:-1] if self.last_exit_is_body else bodies)

    @property
    def last_exit_is_body(self) -> bool:
        """Whether the last body ends in logits."""
        return isinstance(list(self)[-1].exit, nn.Identity)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("exits", "network"):
            raise AttributeError(
                f"{name} only shows the network's modules; set network.segments[number].exit or .body"
            )
        super().__setattr__(name, value)

    def forward(self, x: Tensor, exit_chosen: int | None = None) -> Tensor:
        """Computes exits.

        Args:
            x: Images (B, C, H, W), or whatever the first body takes.
            exit_chosen: Compute only this exit, and no segment beyond it.

        Returns:
            Logits of all exits (B, exits, classes), or of one (B, classes).

        Raises:
            ValueError: If there is no exit of this number, or an exit can't take its features.
        """
        if exit_chosen is not None and not 0 <= exit_chosen < len(self):
            raise ValueError(
                f"exit_chosen: got {exit_chosen}, the network has the exits 0 to {len(self) - 1}"
            )
        all_logits: list[Tensor] = []
        for number, segment in enumerate(self):
            x = segment.body(x)
            if exit_chosen is None or number == exit_chosen:
                all_logits.append(_exit_logits(segment.exit, x, number, all_logits))
            if number == exit_chosen:
                return all_logits[0]
        return torch.stack(all_logits, dim=1)


class _View(nn.ModuleList):
    """Modules of a network in the order of their segments; what is put into it would not reach the network."""

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(
            "this list only shows the network's modules; replace an exit with network.segments[number].exit = ..."
        )

    __setitem__ = __delitem__ = insert = append = _refuse


def _exit_logits(
    exit: nn.Module, features: Tensor, number: int, shallower: Sequence[Tensor]
) -> Tensor:
    """Runs an exit and checks that it fits the features and the exits before it."""
    try:
        logits = exit(features)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"exit {number} can't take the features of its segment, of shape {_shape(features)}: {str(error).splitlines()[0]}"
        ) from error
    if logits.dim() != 2 or len(logits) != len(features):
        raise ValueError(
            f"exit {number}: got logits of shape {_shape(logits)} for features of shape {_shape(features)}; wanted ({len(features)}, classes)"
        )
    if shallower and logits.shape != shallower[0].shape:
        raise ValueError(
            f"exit {number}: got {logits.shape[1]} classes, exit 0 has {shallower[0].shape[1]}; all exits want the same classes"
        )
    return logits


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"


def segments_loss(
    segments: Sequence[Segment],
    x: Tensor,
    labels: Tensor,
    weights: Sequence[float],
    *,
    criterion: Criterion = cross_entropy,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Computes the weighted sum of the exits' losses over consecutive segments.

    Args:
        segments: Consecutive segments.
        x: Input of the first of them (B, ...).
        labels: (B,) int64.
        weights: One weight an exit; an exit of weight 0 gets no gradient, so that no optimiser
            moves it.
        criterion: The loss of one exit's logits (B, classes) in float32.

    Returns:
        The loss, a scalar, each exit's logits (B, classes) in float32, and the last segment's
        features (B, ...).
    """
    loss = torch.zeros((), device=labels.device)
    all_logits = []
    for segment, weight in zip(segments, weights, strict=True):
        x, logits = segment(x)
        logits = logits.float()
        if weight:
            loss = loss + weight * criterion(logits, labels)
        all_logits.append(logits)
    return loss, all_logits, x
