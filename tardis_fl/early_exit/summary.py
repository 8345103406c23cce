"""What a network costs, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from tardis_fl.codecs import BYTES_PER_VALUE
from tardis_fl.early_exit.counting import SegmentCost, segment_costs
from tardis_fl.early_exit.network import EarlyExitNetwork


def summary_table(
    costs: Sequence[SegmentCost], names: Sequence[str], *, input_values: int, title: str = "", codecs: Sequence[str] = tuple(BYTES_PER_VALUE)
) -> Table:
    """Lists parameters, multiply-accumulates and what crosses to the next segment in each codec.

    Args:
        costs: From `segment_costs`.
        names: One a segment.
        input_values: Of one raw input sample; a byte each in an image.
        title: Above the table.
        codecs: Whose bytes to list.
    """
    table = Table(
        "segment",
        "parameters",
        "of these exit",
        "MACs a sample",
        "of these exit",
        "share",
        "hands on",
        *codecs,
        "uint8 / input",
        title=title,
        title_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    total = sum(cost.macs for cost in costs) or 1
    for number, (name, cost) in enumerate(zip(names, costs, strict=True)):
        crosses = ("logits", *("" for _ in codecs), "")
        if number < len(costs) - 1:
            sizes = cost.bytes_per_codec()
            crosses = ("x".join(map(str, cost.feature_shape)), *(f"{sizes[codec]:,} B" for codec in codecs), f"{sizes['uint8'] / input_values:.2f}")
        table.add_row(
            escape(name),
            f"{cost.num_parameters:,}",
            f"{cost.num_exit_parameters:,}",
            f"{cost.macs:,}",
            f"{cost.exit_macs:,}",
            f"{cost.macs / total:.0%}",
            *crosses,
        )
    everything = [sum(values) for values in zip(*((c.num_parameters, c.num_exit_parameters, c.macs, c.exit_macs) for c in costs), strict=True)]
    table.add_section()
    table.add_row("all", *(f"{value:,}" for value in everything), "", f"input: {input_values:,} values")
    return table


def summary(network: EarlyExitNetwork, input_shape: Sequence[int], names: Sequence[str] | None = None) -> Table:
    """Counts a network and returns the table; print it with rich, or as it is in a notebook.

    Args:
        network: Any network of segments.
        input_shape: (...) of one sample, such as (3, 32, 32).
        names: One a segment; None: segment 0, segment 1, ...
    """
    costs = segment_costs(network, input_shape)
    values = 1
    for side in input_shape:
        values *= side
    return summary_table(costs, names or [f"segment {number}" for number in range(len(network))], input_values=values)
