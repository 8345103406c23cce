"""From the name of a registered backbone to a network, plain or cut into segments with exits."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import nn

from tardis_fl.early_exit.backbones.backbone import Backbone, BackboneOptions
from tardis_fl.early_exit.backbones.layers import Norm, named
from tardis_fl.early_exit.backbones.registry import BUILDERS
from tardis_fl.early_exit.catalogue import CATALOGUE, BackboneInfo
from tardis_fl.early_exit.conversion.cuts import candidate_cuts, choose_cuts
from tardis_fl.early_exit.exits import adaptive_exit
from tardis_fl.early_exit.network import EarlyExitNetwork, Recipe


def build_backbone(
    name: str,
    *,
    num_classes: int,
    width: int = 32,
    norm: Norm = "batch",
    image_size: int = 32,
    exit_hidden: int = 64,
    seed: int,
) -> nn.Sequential:
    """Builds a registered network without early exits; its weights are those of `build_network`.

    Args:
        name: A name of `CATALOGUE`.
        num_classes: Logits.
        width: Scales all channels, where the backbone has a width.
        norm: The norm layer, where the backbone has one to choose.
        image_size: Side of the square RGB images in pixels.
        exit_hidden: As for `build_network`; without effect but on the seeded weights of
            `small_resnet`'s head.
        seed: The initial weights follow from it; the global generator is left as it was.

    Returns:
        Named children, the last one `head`, in channels-last memory order, which is the faster one
        on CPUs.

    Raises:
        ValueError: There is no such backbone, or it can't take images of this size.
    """
    _known(name, image_size)
    options = BackboneOptions(
        num_classes, width=width, norm=norm, image_size=image_size, exit_hidden=exit_hidden
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BUILDERS[name](options).network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_network(
    name: str,
    *,
    num_classes: int,
    width: int = 32,
    norm: Norm = "batch",
    image_size: int = 32,
    exit_hidden: int = 64,
    cuts: Sequence[str] | None = None,
    num_segments: int | None = None,
    seed: int,
) -> EarlyExitNetwork:
    """Builds a registered network, cut into segments.

    A cut gets the backbone's own exit where it brings one for that child, else an adaptive one. The
    weights of the network don't depend on where it is cut.

    Args:
        name: A name of `CATALOGUE`.
        num_classes: Logits of every exit.
        width: Scales all channels, where the backbone has a width.
        norm: The norm layer, where the backbone has one to choose.
        image_size: Side of the square RGB images in pixels.
        exit_hidden: Hidden units of the early exits, 0 for none.
        cuts: Children after which a segment ends, in order; None: the catalogue's, if they make as
            many segments as wanted, else those nearest to equal shares of the multiply-accumulates.
        num_segments: How many segments to make, where `cuts` doesn't say; None: as many as the
            catalogue's cuts make.
        seed: The initial weights follow from it; the global generator is left as it was.

    Returns:
        One segment more than cuts, in channels-last memory order, which is the faster one on CPUs.

    Raises:
        ValueError: There is no such backbone, it can't take images of this size, or it can't be cut
            so.
    """
    info = _known(name, image_size)
    if cuts is not None and (problem := info.problem_with_cuts(cuts)):
        got, wanted = problem
        raise ValueError(f"cuts: got {got}; {wanted}")
    options = BackboneOptions(
        num_classes, width=width, norm=norm, image_size=image_size, exit_hidden=exit_hidden
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = BUILDERS[name](options)
        if cuts is None:
            cuts = (
                info.cuts
                if num_segments in (None, info.num_segments)
                else _equal_cuts(backbone, info, num_segments, image_size)
            )
        network = _cut(backbone, cuts, options)
    network.recipe = Recipe("registered", {"name": name, "cuts": list(cuts), **asdict(options)})
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _known(name: str, image_size: int) -> BackboneInfo:
    """Returns a backbone's entry after checking what every build needs."""
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1)
        raise ValueError(
            f"there is no backbone {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(CATALOGUE)}"
        )
    problem = CATALOGUE[name].problem_with_size(image_size)
    if problem:
        raise ValueError(f"image_size: got {image_size}; {problem}")
    return CATALOGUE[name]


def _equal_cuts(
    backbone: Backbone, info: BackboneInfo, num_segments: int, image_size: int
) -> list[str]:
    places = [
        cut
        for cut in candidate_cuts(backbone.network, torch.zeros(1, 3, image_size, image_size))
        if cut.name in info.children
    ]
    return [cut.name for cut in choose_cuts(places, num_segments)]


def _cut(backbone: Backbone, cuts: Sequence[str], options: BackboneOptions) -> EarlyExitNetwork:
    """Groups a backbone's children into bodies, and puts an exit on each."""
    *children, (_, head) = backbone.network.named_children()
    names = [name for name, _ in children]
    ends = [*(names.index(cut) + 1 for cut in cuts), len(children)]
    bodies = [
        _in_a_row(dict(children[start:end]))
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    x = torch.zeros(1, 3, options.image_size, options.image_size)
    exits = []
    with torch.no_grad():
        for cut, body in zip(cuts, bodies, strict=False):
            x = body.eval()(x)
            body.train()
            exits.append(
                backbone.exits[cut]
                if cut in backbone.exits
                else adaptive_exit(x.shape[1:], options.num_classes, hidden=options.exit_hidden)
            )
    return EarlyExitNetwork(bodies, [*exits, head])


def _in_a_row(children: dict[str, nn.Module]) -> nn.Module:
    """Returns a single child as it is, so that the names of `small_resnet`'s weights stay those of models saved before."""
    return next(iter(children.values())) if len(children) == 1 else named(children)
