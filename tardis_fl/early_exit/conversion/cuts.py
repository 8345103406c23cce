"""Where a model can be cut into segments, and which of these places to take."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from tardis_fl.early_exit.conversion.tracing import ConversionError, Trace, trace


@dataclass(frozen=True)
class Cut:
    """A place where one tensor crosses.

    Attributes:
        name: The module whose output crosses, by its path in the model, or the operation.
        shape: (...) of one sample of what crosses.
        num_bytes: Of one sample, as the model computes it.
        input_values: Values of one raw input sample, each a byte in an image.
        macs_before: Multiply-accumulates of a sample up to here.
        macs_after: And from here on.
        num_parameters_before: Parameters used up to here.
        num_parameters_after: And from here on.
    """

    name: str
    shape: tuple[int, ...]
    num_bytes: int
    input_values: int
    macs_before: int
    macs_after: int
    num_parameters_before: int
    num_parameters_after: int

    @property
    def num_values(self) -> int:
        """Values that cross for one sample: bytes, where features travel as uint8."""
        return math.prod(self.shape)

    @property
    def ratio_to_input(self) -> float:
        """Bytes that cross as uint8, for each byte of the raw input."""
        return self.num_values / self.input_values

    @property
    def macs_share(self) -> float:
        """Share of the multiply-accumulates up to here."""
        total = self.macs_before + self.macs_after
        return self.macs_before / total if total else 0.0


class CutTable(Sequence[Cut]):
    """Cuts from shallow to deep; prints as a table."""

    def __init__(self, cuts: Sequence[Cut]) -> None:
        self._cuts = tuple(cuts)

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._cuts[index]

    def __iter__(self) -> Iterator[Cut]:
        return iter(self._cuts)

    def __str__(self) -> str:
        header = (
            "cut",
            "shape",
            "bytes",
            "as uint8 / input",
            "MACs before",
            "after",
            "parameters before",
            "after",
        )
        rows = [
            (
                cut.name,
                "x".join(map(str, cut.shape)),
                f"{cut.num_bytes:,}",
                f"{cut.ratio_to_input:.2f}",
                f"{cut.macs_before:,} ({cut.macs_share:.0%})",
                f"{cut.macs_after:,}",
                f"{cut.num_parameters_before:,}",
                f"{cut.num_parameters_after:,}",
            )
            for cut in self
        ]
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in [header, *rows]
        ]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__


def candidate_cuts(model: nn.Module, example_input: Tensor) -> CutTable:
    """Lists every place of a model where one tensor crosses, from shallow to deep.

    Args:
        model: A traceable classification model; its mode and weights are left alone.
        example_input: (B, ...), of the shape that the model will be used with.

    Raises:
        ConversionError: The model can't be converted at all.
    """
    return CutTable([cut for _, cut in Cuttable(trace(model, example_input)).candidates])


class Cuttable:
    """A traced model with its candidates, by node."""

    def __init__(self, traced: Trace) -> None:
        self.trace = traced
        self.nodes = [node for node in traced.graph.nodes if node.op != "output"]
        self._index = {node: number for number, node in enumerate(self.nodes)}
        self._constant = _constants(self.nodes)
        self._last_use = {
            node: max((self._index.get(user, len(self.nodes)) for user in node.users), default=-1)
            for node in self.nodes
        }
        self._names = _names(traced)
        self.candidates = self._candidates()

    def alive_after(self, position: int) -> list[fx.Node]:
        """Returns the values that operations after a position still need and that depend on the input."""
        return [
            node
            for node in self.nodes[: position + 1]
            if self._last_use[node] > position and node not in self._constant
        ]

    def name(self, node: fx.Node) -> str:
        """Returns a value's name: that of the module that returned it, or of its operation."""
        return self._names.get(node, node.name)

    def find(self, name: str) -> fx.Node:
        """Returns the value that crosses at a cut of this name.

        Raises:
            ConversionError: There is no such cut: says which tensors cross there, or which names
                are near.
        """
        outputs = self.trace.module_outputs.get(name, [])
        if len(outputs) > 1:
            raise ConversionError(
                f"cuts: {name!r} is called {len(outputs)} times in a forward pass, so its name doesn't say where to cut; name a module around it"
            )
        for node, cut in self.candidates:
            if cut.name == name:
                return node
        if outputs:
            node = outputs[0]
            if node is self.trace.output:
                raise ConversionError(
                    f"cuts: {name!r} gives the model's logits; nothing would be left for a segment after it"
                )
            if any(candidate is node for candidate, _ in self.candidates):
                return node
            alive = self.alive_after(self._index[node])
            listed = ", ".join(f"{self.name(value)} ({self._shape_text(value)})" for value in alive)
            raise ConversionError(
                f"cuts: {len(alive)} values cross after {name!r}: {listed}; wanted a place where one tensor does{self._near(node)}"
            )
        names = [cut.name for _, cut in self.candidates]
        near = difflib.get_close_matches(
            name, [*names, *self.trace.module_outputs], n=4, cutoff=0.4
        )
        inside = next(
            (path for path in self.trace.module_outputs if name.startswith(path + ".")), None
        )
        if inside is not None and name in dict(self.trace.model.named_modules()):
            raise ConversionError(
                f"cuts: {name!r} lies inside {inside!r}, which stays whole; cut at {inside!r} or before it"
            )
        raise ConversionError(
            f"cuts: there is no {name!r}; "
            + (
                f"near: {', '.join(dict.fromkeys(near))}"
                if near
                else f"possible: {', '.join(names)}"
            )
        )

    def _near(self, node: fx.Node) -> str:
        deeper = [
            cut.name
            for candidate, cut in self.candidates
            if self._index[candidate] > self._index[node]
        ]
        modules = [name for name in deeper if name in self.trace.module_outputs]
        return f", such as {(modules or deeper)[0]!r}" if deeper else ""

    def _shape_text(self, node: fx.Node) -> str:
        shape = self.trace.shapes.get(node)
        return "x".join(map(str, shape)) if shape is not None else "no tensor with one row a sample"

    def _candidates(self) -> list[tuple[fx.Node, Cut]]:
        """Sweeps over the operations once, keeping the values that are alive."""
        parameters = _parameters_by_node(self.trace)
        total_macs = sum(self.trace.macs.values())
        alive: set[fx.Node] = set()
        found: dict[fx.Node, Cut] = {}
        macs = 0
        used_after = _suffix_parameters([parameters.get(node, {}) for node in self.nodes])
        used_before: dict[int, int] = {}
        for position, node in enumerate(self.nodes):
            macs += self.trace.macs.get(node, 0)
            used_before |= parameters.get(node, {})
            if node not in self._constant:
                alive.add(node)
            alive = {value for value in alive if self._last_use[value] > position}
            if len(alive) != 1:
                continue
            value = next(iter(alive))
            if (
                value in found
                or value is self.trace.input
                or value is self.trace.output
                or not self.trace.shapes.get(value)
            ):
                continue
            if (
                self._index[value] != position
            ):  # operations without effect on what crosses, such as assertions, follow the value
                continue
            shape = self.trace.shapes[value]
            found[value] = Cut(
                self.name(value),
                shape,
                math.prod(shape) * self.trace.bytes_per_value[value],
                math.prod(self.trace.input_shape),
                macs,
                total_macs - macs,
                sum(used_before.values()),
                used_after[position + 1],
            )
        return list(found.items())


def choose_cuts(
    cuts: Sequence[Cut], num_segments: int, shares: Sequence[float] | None = None
) -> list[Cut]:
    """Chooses the cuts whose segments come nearest to given shares of the multiply-accumulates.

    Between two operations that multiply, the cut with the fewest bytes is taken, the last of equals
    (so after an activation, not before it). Among these the squared distance of the segments'
    cumulated shares from the wanted ones is minimised.

    Args:
        cuts: Candidates from shallow to deep.
        num_segments: How many segments to make.
        shares: Of the multiply-accumulates, one a segment, in any unit; None: equal.

    Raises:
        ConversionError: There are too few places to cut, or the shares don't fit.
    """
    if num_segments < 1:
        raise ConversionError(f"num_segments: got {num_segments}; wanted 1 or more")
    wanted = [1.0] * num_segments if shares is None else [float(share) for share in shares]
    if len(wanted) != num_segments or not all(
        math.isfinite(share) and share > 0 for share in wanted
    ):
        raise ConversionError(
            f"shares: got {list(shares or [])} for {num_segments} segments; wanted one number above 0 for each"
        )
    best_of: dict[int, Cut] = {}
    for cut in cuts:
        if cut.macs_before > 0 and (
            cut.macs_before not in best_of or cut.num_bytes <= best_of[cut.macs_before].num_bytes
        ):
            best_of[cut.macs_before] = cut
    places = [cut for cut in best_of.values() if cut.macs_after > 0]
    num_cuts = num_segments - 1
    if len(places) < num_cuts:
        raise ConversionError(
            f"num_segments: got {num_segments}; there are {len(places)} places with work on both sides where one tensor crosses, so at most {len(places) + 1} segments"
        )
    targets = [sum(wanted[: number + 1]) / sum(wanted) for number in range(num_cuts)]
    # costs[k]: the least distance of the first k+1 targets with the k-th cut at each place, and the
    # places before it
    costs: list[list[tuple[float, tuple[int, ...]]]] = []
    for number, target in enumerate(targets):
        row: list[tuple[float, tuple[int, ...]]] = []
        best_before: tuple[float, tuple[int, ...]] = (0.0, ()) if number == 0 else (math.inf, ())
        for position, place in enumerate(places):
            row.append(
                (best_before[0] + (place.macs_share - target) ** 2, (*best_before[1], position))
            )
            if number > 0:
                best_before = min(
                    best_before, costs[number - 1][position], key=lambda entry: entry[0]
                )
        costs.append(row)
    chosen = min(costs[-1], key=lambda entry: entry[0])[1] if costs else ()
    return [places[position] for position in chosen]


def _constants(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Returns the values that don't depend on the input, such as weights: any segment can compute them by itself."""
    constant: set[fx.Node] = set()
    for node in nodes:
        if (
            node.op != "placeholder"
            and all(source in constant for source in node.all_input_nodes)
            and node.op != "call_module"
        ):
            constant.add(node)
    return constant


def _names(traced: Trace) -> dict[fx.Node, str]:
    """Names each value that a module called once returned after the outermost such module."""
    names: dict[fx.Node, str] = {}
    for path, outputs in traced.module_outputs.items():
        if (
            len(outputs) == 1
            and path
            and (outputs[0] not in names or path.count(".") < names[outputs[0]].count("."))
        ):
            names[outputs[0]] = path
    return names


def _parameters_by_node(traced: Trace) -> dict[fx.Node, dict[int, int]]:
    """Returns, for each operation, the parameters it uses: their identity and number of values."""
    used: dict[fx.Node, dict[int, int]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            used[node] = {
                id(parameter): parameter.numel()
                for parameter in traced.model.get_submodule(str(node.target)).parameters()
            }
        elif node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            value = getattr(traced.model.get_submodule(path), name, None)
            used[node] = {id(value): value.numel()} if isinstance(value, nn.Parameter) else {}
    return used


def _suffix_parameters(used: Sequence[dict[int, int]]) -> list[int]:
    """Returns, for each position, the values of all parameters used from there on, each counted once."""
    totals, seen, total = [0] * (len(used) + 1), set(), 0
    for position in range(len(used) - 1, -1, -1):
        for identity, count in used[position].items():
            if identity not in seen:
                seen.add(identity)
                total += count
        totals[position] = total
    return totals
