"""Ways to train a network with several exits, as phases: what is trained, and by the losses of which exits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from tardis_fl.early_exit.network import EarlyExitNetwork

Mode = Literal["joint", "heads", "backbone_first", "layerwise"]
"""joint: everything by all exits' losses. heads: the exits on a frozen backbone. backbone_first:
the backbone by its
last exit, then joint. layerwise: segment after segment from shallow to deep, the shallower ones
frozen."""


@dataclass(frozen=True)
class Phase:
    """One stretch of a training.

    Attributes:
        name: Shown in progress and records.
        bodies: Numbers of the segments whose bodies are trained.
        heads: Numbers of the exits that are trained.
        losses: Numbers of the exits whose losses are used, in order.
    """

    name: str
    bodies: tuple[int, ...]
    heads: tuple[int, ...]
    losses: tuple[int, ...]


def phases_of(
    mode: Mode, num_exits: int, exit_chosen: int | None, last_exit_is_body: bool
) -> list[Phase]:
    """Lists the phases of a training.

    Args:
        mode: See `Mode`.
        num_exits: Exits of the network.
        exit_chosen: Train this exit alone on frozen features; only with joint.
        last_exit_is_body: The last body ends in logits, so that it is itself the last exit.

    Raises:
        ValueError: There is no such mode or exit, or both are asked for.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode: got {mode!r}; wanted one of {', '.join(get_args(Mode))}")
    every, last = tuple(range(num_exits)), num_exits - 1
    if exit_chosen is not None:
        if mode != "joint":
            raise ValueError(f"got exit_chosen={exit_chosen} and mode={mode!r}; wanted one of them")
        if not 0 <= exit_chosen < num_exits:
            raise ValueError(
                f"exit_chosen: got {exit_chosen}, the network has the exits 0 to {last}"
            )
        body = (last,) if last_exit_is_body and exit_chosen == last else ()
        return [Phase(f"exit {exit_chosen}", body, (exit_chosen,), (exit_chosen,))]
    joint = Phase("all exits", every, every, every)
    if mode == "joint":
        return [joint]
    if mode == "heads":
        heads = (
            every[:-1] if last_exit_is_body else every
        )  # a last body that ends in logits belongs to the backbone
        return [Phase("exits on a frozen backbone", (), heads, every)]
    if mode == "backbone_first":
        return [Phase("backbone", every, (last,), (last,)), joint]
    return [Phase(f"segment {number}", (number,), (number,), (number,)) for number in every]


@contextmanager
def training_only(network: EarlyExitNetwork, phase: Phase) -> Iterator[list[nn.Parameter]]:
    """Makes just a phase's modules trainable: all others get no gradient, and stay in evaluation mode so that their buffers stay too.

    Yields:
        The parameters that are trained.
    """
    wanted = {parameter: parameter.requires_grad for parameter in network.parameters()}
    was_training = [(module, module.training) for module in network.modules()]
    trained = [network.segments[number].body for number in phase.bodies] + [
        network.segments[number].exit for number in phase.heads
    ]
    network.eval()
    for module in trained:
        module.train()
    own = {parameter for module in trained for parameter in module.parameters()}
    for parameter, requires_grad in wanted.items():
        parameter.requires_grad_(requires_grad and parameter in own)
        parameter.grad = None
    try:
        yield [parameter for parameter in own if parameter.requires_grad]
    finally:
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)
        for module, training in was_training:
            module.training = training


def epochs_of(epochs: int | Sequence[int], phases: Sequence[Phase]) -> list[int]:
    """Returns the epochs of each phase; one number counts for every phase.

    Raises:
        ValueError: The number of entries is wrong, or one is no count of 1 or more.
    """
    counts = [epochs] * len(phases) if isinstance(epochs, int) else list(epochs)
    if len(counts) != len(phases) or not all(
        isinstance(count, int) and count >= 1 for count in counts
    ):
        raise ValueError(
            f"epochs: got {epochs}; wanted a whole number of 1 or more, or one for each of the {len(phases)} phases: {', '.join(p.name for p in phases)}"
        )
    return counts
