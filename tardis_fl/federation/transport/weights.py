"""The weights of held segments as flat arrays, one for each body or exit and type.

A hundred tensors a model, each an array with a header of its own, took longer to pack than to
average. Keys are `0.body.float32`, `0.exit.float32`, `0.body.int64`, ...: a client that holds fewer
segments, or trains fewer exits, sends fewer of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

Flat = dict[str, Tensor]
"""Flat arrays (numbers,) by key."""


class HeldWeights:
    """Parameters and buffers of consecutive segments: the live tensors, seen as flat arrays.

    A tensor stands in its memory order, which is the same wherever the same configuration built the
    segments.

    Args:
        segments: The segments, from the first.
        own_storage: Move the live tensors into flat arrays, so that loading and flattening are
            single copies. Not for segments that are saved afterwards: their tensors share memory.

    Attributes:
        parameters: For each key of floats a mask (numbers,): True for parameters, not for buffers.
        norm_names: Names of the tensors of batch norm layers.
    """

    def __init__(self, segments: Sequence[nn.Module], *, own_storage: bool = False) -> None:
        self._live: dict[str, Tensor] = {}
        self._names: dict[str, list[str]] = {}
        self.norm_names: set[str] = set()
        parameter_names = set()
        for number, segment in enumerate(segments):
            self._live |= {
                f"{number}.{name}": tensor
                for name, tensor in segment.state_dict(keep_vars=True).items()
            }
            parameter_names |= {
                f"{number}.{name}" for name, _ in segment.named_parameters(remove_duplicate=False)
            }
            for module_name, module in segment.named_modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    self.norm_names |= {
                        f"{number}.{module_name}.{name}" for name in module.state_dict()
                    }
        for name, tensor in self._live.items():
            segment_name, part = name.split(".")[:2]
            dtype = str(tensor.dtype).removeprefix("torch.")
            self._names.setdefault(f"{segment_name}.{part}.{dtype}", []).append(name)
        self._sizes = {
            key: [self._live[name].numel() for name in names] for key, names in self._names.items()
        }
        self.parameters = {
            key: torch.cat(
                [torch.full((self._live[name].numel(),), name in parameter_names) for name in names]
            )
            for key, names in self._names.items()
            if self._live[names[0]].is_floating_point()
        }
        self._storage = {key: self._move(key) for key in self._names} if own_storage else None

    def _move(self, key: str) -> Tensor:
        """Makes the live tensors of a key views of one flat array."""
        flat = torch.cat([_in_memory_order(self._live[name].detach()) for name in self._names[key]])
        for name, part in zip(self._names[key], _split(flat, self._sizes[key]), strict=True):
            self._live[name].data = _like(self._live[name], part)
        return flat

    def keys(self, depth: int, *, exits: str = "all") -> list[str]:
        """Returns the keys of the first `depth` segments; of their exits all, or only the last."""
        found = []
        for key in self._names:
            number, part = key.split(".")[:2]
            if int(number) < depth and (
                part == "body" or exits == "all" or int(number) == depth - 1
            ):
                found.append(key)
        return found

    def flatten(self, keys: Iterable[str] | None = None, *, copy: bool = True) -> Flat:
        """Returns copies of the current weights, on the CPU.

        Args:
            keys: Those that are wanted; None: all.
            copy: False: what is returned may be the live weights, for whoever packs it at once.
        """
        wanted = self._names if keys is None else keys
        if self._storage is not None:
            return {
                key: (self._storage[key].clone() if copy else self._storage[key]).cpu()
                for key in wanted
            }
        return {
            key: torch.cat(
                [_in_memory_order(self._live[name].detach()) for name in self._names[key]]
            ).cpu()
            for key in wanted
        }

    def load(self, flat: Mapping[str, Tensor]) -> None:
        """Copies flat arrays into the live tensors."""
        with torch.no_grad():
            for key, values in flat.items():
                if self._storage is not None:
                    self._storage[key].copy_(values)
                    continue
                for name, part in zip(
                    self._names[key], _split(values, self._sizes[key]), strict=True
                ):
                    self._live[name].copy_(_like(self._live[name], part))

    def check(self, flat: Mapping[str, Tensor], keys: Sequence[str]) -> None:
        """Refuses arrays that don't fit the live tensors.

        Raises:
            ValueError: Parts are missing or unknown, have another size or type, or hold values that
                are not finite.
        """
        if flat.keys() != set(keys):
            differing = ", ".join(sorted(flat.keys() ^ set(keys)))
            raise ValueError(
                f"sent other segments than it was asked for (on one side only: {differing})"
            )
        for key in keys:
            shape = (sum(self._sizes[key]),)
            dtype = self._live[self._names[key][0]].dtype
            if tuple(flat[key].shape) != shape or flat[key].dtype != dtype:
                got = f"{tuple(flat[key].shape)} {flat[key].dtype}"
                raise ValueError(f"sent {key} as {got}, wanted {shape} {dtype}")
        broken = next(
            (key for key in keys if flat[key].is_floating_point() and not _all_finite(flat[key])),
            None,
        )
        if broken is not None:
            parts = zip(self._names[broken], _split(flat[broken], self._sizes[broken]), strict=True)
            name = next(name for name, part in parts if not torch.isfinite(part).all())
            raise ValueError(
                f"sent weights that are not finite ({name}); "
                "a lower federation.client.learning_rate may help"
            )

    def flatten_norms(self, keys: Iterable[str]) -> Flat:
        """Returns copies of the tensors of batch norm layers, one flat array a key that has any."""
        names = {
            key: [name for name in self._names[key] if name in self.norm_names] for key in keys
        }
        return {
            key: torch.cat([self._live[name].detach().reshape(-1) for name in found]).cpu()
            for key, found in names.items()
            if found
        }

    def load_norms(self, flat: Mapping[str, Tensor]) -> None:
        """Copies what `flatten_norms` returned into the live tensors."""
        with torch.no_grad():
            for key, values in flat.items():
                tensors = [self._live[name] for name in self._names[key] if name in self.norm_names]
                for tensor, part in zip(
                    tensors, _split(values, [tensor.numel() for tensor in tensors]), strict=True
                ):
                    tensor.copy_(part.view(tensor.shape))


def _split(flat: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Returns consecutive parts of a flat array, as views."""
    return torch.split(flat, list(sizes))


def _all_finite(values: Tensor) -> bool:
    # nothing that isn't finite hides in a sum, which is faster than looking at each; one that
    # overflows is looked at again
    return math.isfinite(values.sum()) or bool(torch.isfinite(values).all())


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Returns the numbers of a tensor, (numbers,), as they lie in memory."""
    return (
        tensor.permute(0, 2, 3, 1).reshape(-1) if _is_channels_last(tensor) else tensor.reshape(-1)
    )


def _like(tensor: Tensor, flat: Tensor) -> Tensor:
    """Returns what `_in_memory_order` made of a tensor in that tensor's shape, as a view."""
    if _is_channels_last(tensor):
        first, second, third, fourth = tensor.shape
        return flat.view(first, third, fourth, second).permute(0, 3, 1, 2)
    return flat.view(tensor.shape)
