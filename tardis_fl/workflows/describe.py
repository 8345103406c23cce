"""The configured network, counted: nothing is trained, and no image is read."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.markup import escape

from tardis_fl.config.schema import Config
from tardis_fl.data.sources import count_classes
from tardis_fl.early_exit.backbones import build_backbone
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.early_exit.conversion.convert import candidate_cuts
from tardis_fl.early_exit.conversion.cuts import CutTable
from tardis_fl.early_exit.counting import oversized, segment_costs
from tardis_fl.early_exit.summary import summary_table
from tardis_fl.federation.client.resources import new_network

WIDEST = 160


def describe(config: Config, *, cuts: bool, console: Console | None = None) -> None:
    """Prints parameters, multiply-accumulates and bytes of each segment, and warnings.

    Args:
        config: Names the network, its cuts and the images.
        cuts: List every place where the backbone may be cut, too.
        console: Where to; None: standard output.

    Raises:
        DataError: The classes are those of image folders that aren't there.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDEST)
    model = config.model
    size = config.data.image_size
    num_classes = count_classes(config.data)
    info = CATALOGUE[model.backbone]
    shape = (3, size, size)
    names = [tier.name for tier in config.tiers]
    network = new_network(config, num_classes)
    costs = segment_costs(network, shape)
    title = (
        f"{model.backbone} on {size}x{size} images, {num_classes} classes, "
        f"cut after {', '.join(network.cuts or ())}"
    )
    console.print(summary_table(costs, names, input_values=3 * size * size, title=title))
    console.print(escape(info.paper), style="dim", soft_wrap=True)
    for warning in oversized(costs, names, 3 * size * size):
        console.print(f"[bold yellow]warning:[/bold yellow] {escape(warning)}", soft_wrap=True)
    if cuts:
        plain = build_backbone(
            model.backbone,
            num_classes=num_classes,
            width=model.width,
            norm=config.norm_layer,
            image_size=size,
            seed=0,
        )
        places = CutTable(
            [
                cut
                for cut in candidate_cuts(plain, torch.zeros(1, *shape))
                if cut.name in info.children
            ]
        )
        console.print(f"\n{escape(str(places))}", soft_wrap=True)
