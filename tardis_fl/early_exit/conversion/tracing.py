"""The graph of a PyTorch model: its operations in order, what each costs, and which values are alive after it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

PROFILED_BATCH = (
    3  # a size that few other dimensions have, so that a leading dimension of 3 is the batch
)


class ConversionError(ValueError):
    """A model can't be converted, or not as asked."""


@dataclass(frozen=True)
class Trace:
    """A model as a graph, run once on tensors without data.

    Attributes:
        model: The model, in evaluation mode.
        graph: Its operations in the order in which they run.
        module_outputs: For each called submodule, the values it returned, in the order of its
            calls.
        macs: Multiply-accumulates of each operation on one sample.
        shapes: (...) of one sample for each value that is a tensor with the batch as first
            dimension.
        bytes_per_value: Of each of these values.
        overwritten: Values that a later operation writes over in place.
        input_shape: (...) of one sample.
        num_classes: Logits of the model.
    """

    model: nn.Module
    graph: fx.Graph
    module_outputs: Mapping[str, Sequence[fx.Node]]
    macs: Mapping[fx.Node, int]
    shapes: Mapping[fx.Node, tuple[int, ...]]
    bytes_per_value: Mapping[fx.Node, int]
    overwritten: frozenset[fx.Node]
    input_shape: tuple[int, ...]
    num_classes: int

    @property
    def input(self) -> fx.Node:
        """The model's input."""
        return next(node for node in self.graph.nodes if node.op == "placeholder")

    @property
    def output(self) -> fx.Node:
        """The value that the model returns."""
        value = next(node for node in reversed(self.graph.nodes) if node.op == "output").args[0]
        assert isinstance(value, fx.Node)
        return value


def trace(model: nn.Module, example_input: Tensor) -> Trace:
    """Traces a classification model and counts its operations.

    The model's mode is left as it was, and no weight is copied or changed.

    Args:
        model: Takes one tensor (B, ...) and returns logits (B, classes) in evaluation mode.
        example_input: (B, ...), of the shape that the model will be used with; on any device.

    Raises:
        ConversionError: The model's output isn't one tensor (B, classes), it takes more than one
            input, or its forward can't be traced.
    """
    if not isinstance(example_input, Tensor) or example_input.dim() < 2 or len(example_input) == 0:
        got = (
            tuple(example_input.shape)
            if isinstance(example_input, Tensor)
            else type(example_input).__name__
        )
        raise ConversionError(
            f"example_input: got {got}; wanted a tensor of at least one sample with a batch dimension, such as torch.zeros(1, 3, 32, 32)"
        )
    with evaluation_mode(model):
        defaults = _defaults(model)
        num_classes = _check_output(model, example_input)
        tracer = _Tracer()
        try:
            graph = tracer.trace(model, concrete_args=defaults)
        except Exception as error:
            raise ConversionError(
                f"{type(model).__name__}: its forward can't be traced ({_first_line(error)}); "
                "cut it by hand into an nn.Sequential and use EarlyExitNetwork(segments, exits)"
            ) from error
        profile = _profile(model, graph, example_input)
    return Trace(
        model,
        graph,
        tracer.module_outputs,
        profile.macs,
        profile.shapes,
        profile.bytes_per_value,
        frozenset(profile.overwritten),
        tuple(example_input.shape[1:]),
        num_classes,
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode and afterwards each of its modules into the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Tracer(fx.Tracer):
    """Traces into modules, but keeps whole what wouldn't survive it.

    Modules of PyTorch stay whole. So do modules whose methods read `self.training` (dropout by
    function, stochastic depth), since a trace would fix the mode it was made in, and modules whose
    forward can't be traced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.module_outputs: dict[str, list[fx.Node]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or reads_training(m)

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        last = next(iter(reversed(self.graph.nodes)))
        outputs = {name: list(nodes) for name, nodes in self.module_outputs.items()}
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:  # whatever a forward raises on a value that isn't there yet
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.module_outputs = outputs
            result = self.create_proxy("call_module", path, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.module_outputs.setdefault(path, []).append(result.node)
        return result


def reads_training(module: nn.Module) -> bool:
    """Whether a method of the module's class, or of one it is derived from, looks at `self.training`."""
    if type(module).__module__.startswith("torch.nn."):
        return False
    classes = [cls for cls in type(module).__mro__ if cls not in nn.Module.__mro__]
    functions = [
        inspect.unwrap(value)
        for cls in classes
        for value in vars(cls).values()
        if inspect.isfunction(value)
    ]
    return any("training" in function.__code__.co_names for function in functions)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Returns the values of a forward's further arguments; the trace takes them as constants."""
    arguments = list(inspect.signature(model.forward).parameters.values())
    named = [
        argument
        for argument in arguments
        if argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
    ]
    if not named:
        raise ConversionError(
            f"{type(model).__name__}: its forward names no argument; wanted forward(self, x)"
        )
    required = [argument.name for argument in named[1:] if argument.default is argument.empty]
    if required:
        raise ConversionError(
            f"{type(model).__name__}: its forward takes {', '.join([named[0].name, *required])}; wanted one input tensor, so wrap it in a module that takes one"
        )
    return {argument.name: argument.default for argument in named[1:]}


def _check_output(model: nn.Module, example_input: Tensor) -> int:
    """Returns the number of classes, or says what the model returned instead of logits (B, classes)."""
    output = _without_data(model, model, example_input)
    name = type(model).__name__
    if isinstance(output, Mapping):
        raise ConversionError(
            f"{name} returns a dict with the keys {', '.join(map(repr, output))}; wanted one tensor (B, classes): wrap it in a module that returns the logits"
        )
    if isinstance(output, tuple | list):
        raise ConversionError(
            f"{name} returns a {type(output).__name__} of {len(output)}; wanted one tensor (B, classes): wrap it in a module that returns the logits"
        )
    if not isinstance(output, Tensor):
        raise ConversionError(
            f"{name} returns {type(output).__name__}; wanted one tensor (B, classes): wrap it in a module that returns the logits"
        )
    if output.dim() != 2 or len(output) != PROFILED_BATCH:
        raise ConversionError(
            f"{name} returns a tensor of shape {tuple(output.shape)} for {PROFILED_BATCH} samples; wanted ({PROFILED_BATCH}, classes)"
        )
    return output.shape[1]


class _Profile(fx.Interpreter):
    """Runs a graph and notes what each operation gives, costs and writes over."""

    def __init__(self, model: nn.Module, graph: fx.Graph, counter: FlopCounterMode) -> None:
        super().__init__(model, graph=graph)
        self._counter = counter
        self.macs: dict[fx.Node, int] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.bytes_per_value: dict[fx.Node, int] = {}
        self.overwritten: set[fx.Node] = set()
        self._versions: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = self._counter.get_total_flops()
        result = super().run_node(n)
        self.macs[n] = (self._counter.get_total_flops() - before) // (2 * PROFILED_BATCH)
        if isinstance(result, Tensor) and result.dim() >= 1 and len(result) == PROFILED_BATCH:
            self.shapes[n], self.bytes_per_value[n] = tuple(result.shape[1:]), result.element_size()
        for node, value in self.env.items():
            if isinstance(value, Tensor) and value._version > self._versions.get(
                node, value._version
            ):
                self.overwritten.add(node)
                self._versions[node] = value._version
                if not n.users:
                    raise ConversionError(
                        f"{n.name} writes over {node.name} in place and its result isn't used, so a segment would lose it; write y = f(x) instead of f(x)"
                    )
        if isinstance(result, Tensor):
            self._versions[n] = result._version
        return result


def _profile(model: nn.Module, graph: fx.Graph, example_input: Tensor) -> _Profile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the counter's notes on modules with hooks
        counter = FlopCounterMode(display=False)
    runner = nn.Module()
    runner.model = model
    profile: list[_Profile] = []

    def forward(x: Tensor) -> Any:
        profile.append(_Profile(model, graph, counter))
        return profile[-1].run(x)

    runner.forward = forward  # type: ignore[method-assign]
    with counter:
        _without_data(runner, model, example_input)
    return profile[-1]


def _without_data(runner: nn.Module, model: nn.Module, example_input: Tensor) -> Any:
    """Runs a module on tensors that have shapes only; where it can't do without data, on the example itself."""
    prefix = "" if runner is model else "model."
    state = {
        prefix + name: value.to("meta")
        for name, value in [*model.named_parameters(), *model.named_buffers()]
    }
    sample = example_input[:1].expand(PROFILED_BATCH, *example_input.shape[1:])
    with torch.no_grad(), countable_attention():
        try:
            return torch.func.functional_call(runner, state, (sample.to("meta"),))
        except ConversionError:
            raise
        except Exception as error:
            if sample.device.type == "meta":
                shape = tuple(sample.shape[1:])
                raise ConversionError(
                    f"{type(model).__name__}: it failed on {PROFILED_BATCH} samples of shape {shape} without data: {_first_line(error)}"
                ) from error
        try:
            return runner(sample.clone())
        except Exception as error:
            raise ConversionError(
                f"{type(model).__name__}: it failed on {PROFILED_BATCH} samples of shape {tuple(sample.shape[1:])}: {_first_line(error)}"
            ) from error


@contextmanager
def countable_attention() -> Iterator[None]:
    """Keeps attention off its fused paths for inference, into which PyTorch's FLOP counter doesn't see."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
