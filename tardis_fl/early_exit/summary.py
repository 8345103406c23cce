"""What a network costs, as a table for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from rich.markup import escape
from rich.table import Table

from tardis_fl.codecs.codec import sample_bytes
from tardis_fl.codecs.names import CODEC_NAMES, TRAINING_CODECS, parse_codec
from tardis_fl.early_exit.counting import SegmentCost, oversized, segment_costs
from tardis_fl.early_exit.network import EarlyExitNetwork


def summary_table(
    costs: Sequence[SegmentCost],
    names: Sequence[str],
    *,
    input_values: int,
    title: str = "",
    codecs: Sequence[str] = TRAINING_CODECS,
) -> Table:
    """Lists parameters, multiply-accumulates and what crosses to the next segment in each codec.

    Args:
        costs: From `segment_costs`.
        names: One a segment.
        input_values: Of one raw input sample; a byte each in an image.
        title: Above the table.
        codecs: Whose bytes to list.
    """
    table = Table("of each segment", *map(escape, names), "all", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"

    def counts(label: str, values: Sequence[int]) -> None:
        table.add_row(label, *(f"{value:,}" for value in values), f"{sum(values):,}")

    counts("parameters", [cost.num_parameters for cost in costs])
    counts("  of these exit", [cost.num_exit_parameters for cost in costs])
    macs = [cost.macs for cost in costs]
    counts("MACs a sample", macs)
    counts("  of these exit", [cost.exit_macs for cost in costs])
    table.add_row("  share", *(f"{value / max(1, sum(macs)):.0%}" for value in macs), "")
    table.add_section()
    crossing = costs[:-1]
    table.add_row(
        "hands on", *("x".join(map(str, cost.feature_shape)) for cost in crossing), "logits", ""
    )
    for name in codecs:
        codec, ending = _without_compressor(name)
        sizes = [sample_bytes(cost.feature_shape, codec) for cost in crossing]
        cells = ["by content" if size is None else f"{size:,}" for size in sizes]
        table.add_row(f"  bytes as {escape(codec)}{ending}", *cells, "", "")
    table.add_row(
        f"  uint8 / raw {input_values:,}",
        *(f"{cost.bytes_per_codec()['uint8'] / input_values:.2f}" for cost in crossing),
        "",
        "",
    )
    return table


def _without_compressor(name: str) -> tuple[str, str]:
    """Returns the codec whose bytes follow from a shape, and what a row says of the compression."""
    if name not in CODEC_NAMES:
        return name, ""
    form = parse_codec(name)
    return form.quantiser, f", before {form.compressor}" if form.compressor else ""


def summary(
    network: EarlyExitNetwork,
    input_shape: Sequence[int],
    names: Sequence[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Table:
    """Counts a network and returns the table; print it with rich, or as it is in a notebook.

    Args:
        network: Any network of segments.
        input_shape: (...) of one sample, such as (3, 32, 32).
        names: One a segment; None: segment 0, segment 1, ...
        dtype: Of the input; None: that of the network's parameters.

    Returns:
        The table, with a warning below for every exit that outweighs its segment and boundary that
        outweighs the raw input.
    """
    costs = segment_costs(network, input_shape, dtype)
    names = names or [f"segment {number}" for number in range(len(network))]
    table = summary_table(costs, names, input_values=math.prod(input_shape))
    warnings = "\n".join(oversized(costs, names, math.prod(input_shape)))
    table.caption = escape(warnings) or None
    table.caption_justify = "left"
    return table
