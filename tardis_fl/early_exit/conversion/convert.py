"""Any classification model into segments with exits, without a change to its code."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from tardis_fl.early_exit.conversion.cuts import Cuttable, candidate_cuts, choose_cuts
from tardis_fl.early_exit.conversion.tracing import (
    ConversionError,
    Trace,
    evaluation_mode,
    reads_training,
    trace,
)
from tardis_fl.early_exit.exits import adaptive_exit, guess_layout
from tardis_fl.early_exit.network import EarlyExitNetwork, Recipe

__all__ = ["ConversionError", "candidate_cuts", "convert"]

TOLERANCE = 1e-5


def convert(
    model: nn.Module,
    example_input: Tensor,
    num_segments: int = 3,
    *,
    cuts: Sequence[str] | None = None,
    shares: Sequence[float] | None = None,
    exits: Sequence[nn.Module] | None = None,
    exit_hidden: int = 0,
    seed: int | None = None,
    check: bool = True,
) -> EarlyExitNetwork:
    """Cuts a model into segments and puts an exit on each.

    The segments use the model's own modules and weights, not copies; the model itself goes on
    working (modules with an `inplace` flag lose it, as `EarlyExitNetwork` says). The last exit is
    the model's own classifier and computes what the model computed.

    Args:
        model: A classification network that torch.fx can trace, of one input tensor, whose output
            is logits (B, classes).
        example_input: (B, ...), of the shape that the network will be used with.
        num_segments: How many segments to make, where `cuts` doesn't say.
        cuts: Names of the modules after which to cut, or of other cuts that `candidate_cuts` lists;
            None: by `shares`.
        shares: Of the multiply-accumulates, one a segment; None: equal.
        exits: One for each cut; None: `adaptive_exit` for what crosses there.
        exit_hidden: Hidden units of these.
        seed: Their initial weights follow from it, and the global generator is left as it was;
            None: it is used.
        check: Run both on random input of the example's shape (on the example itself, if it holds
            whole numbers) and compare.

    Returns:
        The network; its `cuts` are the names of the places where it was cut.

    Raises:
        ConversionError: The model can't be cut like that; says where it can, or how to go on.
    """
    cuttable = Cuttable(trace(model, example_input))
    if cuts is None:
        names = [
            cut.name
            for cut in choose_cuts([cut for _, cut in cuttable.candidates], num_segments, shares)
        ]
    else:
        names = list(cuts)
        if shares is not None:
            raise ConversionError("got cuts and shares; wanted one of them")
        if len(set(names)) < len(names):
            raise ConversionError(f"cuts: got {', '.join(names)}; each place can be cut once")
    nodes = sorted((cuttable.find(name) for name in names), key=cuttable.nodes.index)
    traced = cuttable.trace
    if reads_training(model):
        warnings.warn(
            f"{type(model).__name__} itself reads self.training; what it does only in training is left out of the converted network",
            stacklevel=2,
        )
    heads = list(exits) if exits is not None else _adaptive_exits(traced, nodes, exit_hidden, seed)
    if len(heads) != len(nodes):
        raise ConversionError(
            f"exits: got {len(heads)} for {len(nodes)} cuts; wanted one for each, since the last exit is the model's own"
        )
    boundaries = [traced.input, *nodes, traced.output]
    bodies = [_body(traced, start, end) for start, end in pairwise(boundaries)]
    modes = [(module, module.training) for module in model.modules()]
    network = EarlyExitNetwork(bodies, heads).train(model.training)
    for module, training in modes:
        module.training = training
    cut_names = [cuttable.name(node) for node in nodes]
    options = {
        "cuts": cut_names,
        "exit_hidden": exit_hidden,
        "own_exits": exits is not None,
        "input_shape": list(traced.input_shape),
        "input_dtype": str(example_input.dtype).removeprefix("torch."),
    }
    network.recipe = Recipe("converted", options)
    device = _reference(model).device
    if check and "meta" not in (example_input.device.type, device.type):
        _check(model, network, example_input.to(device))
    return network


def _adaptive_exits(
    traced: Trace, nodes: Sequence[fx.Node], hidden: int, seed: int | None
) -> list[nn.Module]:
    reference = _reference(traced.model)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        exits = []
        for node in nodes:
            shape = traced.shapes[node]
            with torch.device(reference.device if reference.device.type == "meta" else "cpu"):
                exits.append(
                    adaptive_exit(
                        shape,
                        traced.num_classes,
                        hidden=hidden,
                        layout=guess_layout(shape, traced.input_shape),
                    )
                )
    return [exit.to(reference.device, reference.dtype) for exit in exits]


def _reference(model: nn.Module) -> Tensor:
    """Returns a tensor of the model's device and type."""
    return next(
        (parameter for parameter in model.parameters() if parameter.is_floating_point()),
        torch.empty(0),
    )


def _body(traced: Trace, start: fx.Node, end: fx.Node) -> fx.GraphModule:
    """Makes a module of the operations between two values."""
    needed: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is start or node in needed:
            continue
        assert node.op != "placeholder", "a cut is a place where nothing else crosses"
        needed.add(node)
        waiting += node.all_input_nodes
    graph = fx.Graph()
    value = graph.placeholder("x")
    copies = {start: graph.call_method("clone", (value,)) if start in traced.overwritten else value}
    for node in traced.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(copies[end])
    graph.lint()
    return fx.GraphModule(traced.model, graph, class_name=type(traced.model).__name__ + "Segment")


def _check(model: nn.Module, network: EarlyExitNetwork, example_input: Tensor) -> None:
    if example_input.is_floating_point():  # zeros would prove little
        example_input = torch.randn(
            example_input.shape, generator=torch.Generator().manual_seed(0)
        ).to(example_input)
    with evaluation_mode(model), evaluation_mode(network), torch.no_grad():
        expected = model(example_input.clone())
        got = network(example_input.clone(), exit_chosen=len(network) - 1)
        for number in range(len(network) - 1):
            network(example_input.clone(), exit_chosen=number)
    difference = float((expected - got).abs().max())
    if not difference <= TOLERANCE:
        raise ConversionError(
            f"{type(model).__name__}: the converted network's last exit differs from the model by {difference:.3g} on random input; "
            "does its forward depend on chance, or keep state? Cut it by hand, or pass check=False to take it as it is"
        )
