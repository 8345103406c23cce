"""Rules that a few wrong updates can't lead far astray: trimmed mean, median, and a limit on an update's length."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

NORM_PIECE = 1024  # values whose squares are summed in their own type
CHUNK_VALUES = 2**17  # sorted at a time; larger chunks fall out of the processor's cache


def kinds_of(update: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Returns shapes and dtypes by key."""
    return {key: (tensor.shape, tensor.dtype) for key, tensor in update.items()}


def check_kinds(
    kinds: Mapping[str, tuple[torch.Size, torch.dtype]],
    first: Mapping[str, tuple[torch.Size, torch.dtype]],
) -> None:
    """Raises ValueError where a key that both hold has another shape or dtype than in `first`."""
    for key, (shape, dtype) in kinds.items():
        wanted_shape, wanted_dtype = first.get(key, (shape, dtype))
        if shape != wanted_shape:
            raise ValueError(
                f"{key} has the shape {tuple(shape)}, the first update's has {tuple(wanted_shape)}"
            )
        if dtype != wanted_dtype:
            raise ValueError(f"{key} is {dtype}, the first update's is {wanted_dtype}")


def check_weight(num_samples: float) -> None:
    """Raises ValueError unless the weight of an update is positive and finite."""
    if not 0 < num_samples < math.inf:
        raise ValueError(f"the weight of an update must be positive and finite, got {num_samples}")


class TrimmedMean:
    """The mean of each coordinate without its smallest and largest values (Yin et al.

    2018, definition 2).

    All updates count alike, whatever their samples. Of the n values of a coordinate,
    floor(trim_fraction * n) are left out at each end, and at least one where n is 3 or more;
    one or two holders of a key are simply averaged, so that there nothing protects against a wrong
    one. Integer tensors take the maximum.

    All updates of a round stay in memory until it is dropped, uncopied: callers don't change them.
    How many values are extreme is known only when all updates have come.
    """

    def __init__(self, trim_fraction: float) -> None:
        """Starts without updates.

        Args:
            trim_fraction: In [0, 0.5); 0 leaves nothing out.

        Raises:
            ValueError: The fraction is out of range.
        """
        if not 0 <= trim_fraction < 0.5:
            raise ValueError(f"trim_fraction must be at least 0 and under 0.5, got {trim_fraction}")
        self._trim_fraction = trim_fraction
        self._held = _HeldUpdates()

    @property
    def num_updates(self) -> int:
        """Updates so far."""
        return self._held.num_updates

    def add(self, update: Mapping[str, Tensor], num_samples: float) -> None:
        """Keeps one client's update; `num_samples` is checked and has no effect.

        See `Aggregator.add`.
        """
        self._held.add(update, num_samples)

    def result(self) -> dict[str, Tensor]:
        """Returns the trimmed mean of each key over the updates that held it.

        Raises:
            ValueError: There was no update.
        """
        return self._held.reduce(self._mean_of_the_middle)

    def _mean_of_the_middle(self, ordered: Tensor) -> Tensor:
        n = len(ordered)
        cut = num_trimmed(n, self._trim_fraction)
        return ordered[cut : n - cut].double().mean(0)


class Median:
    """The median of each coordinate (Yin et al.

    2018, definition 1); of an even number the mean of the middle two.

    All updates count alike, whatever their samples. Integer tensors take the maximum.

    All updates of a round stay in memory until it is dropped, uncopied: callers don't change them.
    No streaming form exists: until the last value has come, any earlier one may still be the middle
        one.
    """

    def __init__(self) -> None:
        self._held = _HeldUpdates()

    @property
    def num_updates(self) -> int:
        """Updates so far."""
        return self._held.num_updates

    def add(self, update: Mapping[str, Tensor], num_samples: float) -> None:
        """Keeps one client's update; `num_samples` is checked and has no effect.

        See `Aggregator.add`.
        """
        self._held.add(update, num_samples)

    def result(self) -> dict[str, Tensor]:
        """Returns the median of each key over the updates that held it.

        Raises:
            ValueError: There was no update.
        """
        return self._held.reduce(
            lambda ordered: (
                (ordered[(len(ordered) - 1) // 2].double() + ordered[len(ordered) // 2].double())
                / 2
            )
        )


def num_trimmed(n: int, trim_fraction: float) -> int:
    """Returns how many of n values are cut at each end; at least one value is left."""
    cut = math.floor(trim_fraction * n + 1e-9)  # 0.29 * 100 is a little under 29
    if trim_fraction > 0 and n >= 3:
        cut = max(cut, 1)
    return min(cut, (n - 1) // 2)


class _HeldUpdates:
    """The updates of a round, by key."""

    def __init__(self) -> None:
        self._tensors: dict[str, list[Tensor]] = {}
        self.num_updates = 0

    def add(self, update: Mapping[str, Tensor], num_samples: float) -> None:
        check_weight(num_samples)
        check_kinds(
            kinds_of(update), kinds_of({key: tensors[0] for key, tensors in self._tensors.items()})
        )
        for key, tensor in update.items():
            self._tensors.setdefault(key, []).append(tensor)
        self.num_updates += 1

    def reduce(self, statistic: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Applies a statistic of ordered values, (n, c) -> (c,) float64, to all coordinates, a chunk of them at a time."""
        if not self.num_updates:
            raise ValueError("there is no update to average")
        return {
            key: _reduce_in_chunks(tensors, statistic)
            if tensors[0].is_floating_point()
            else functools.reduce(torch.maximum, tensors).clone()
            for key, tensors in self._tensors.items()
        }


def _reduce_in_chunks(tensors: list[Tensor], statistic: Callable[[Tensor], Tensor]) -> Tensor:
    flat = [tensor.reshape(-1) for tensor in tensors]
    reduced = torch.empty_like(flat[0])
    width = max(1, CHUNK_VALUES // len(flat))
    for start in range(0, len(reduced), width):
        ordered = (
            torch.stack([tensor[start : start + width] for tensor in flat]).sort(dim=0).values
        )  # (n, c)
        reduced[start : start + width] = statistic(ordered)
    return reduced.view(tensors[0].shape)


def clip_update(
    update: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    max_norm: float,
) -> tuple[dict[str, Tensor], float]:
    """Shortens an update's change of the parameters to a largest norm (norm bounding, Sun et al.

    2019).

    Args:
        update: New weights by key, a subset of the reference's keys.
        reference: The weights that were sent out.
        masks: For each floating key, True where a parameter is and False where a buffer is.
        max_norm: Positive.

    Returns:
        The update, and the norm that its change had. Where nothing needs clipping the update's own
        tensors come back; otherwise reference + change * max_norm / norm at the parameters,
        computed in float64. Buffers and integer keys stay.

    Raises:
        ValueError: The norm is infinite or not a number.
    """
    norm = update_norm(update, reference, masks)
    if not math.isfinite(norm):
        raise ValueError(f"the norm of an update's change must be finite, got {norm}")
    if norm <= max_norm:
        return dict(update), norm
    clipped = dict(update)
    for key in _floating(update):
        start = reference[key].double()
        shortened = start + (update[key].double() - start) * (max_norm / norm)
        clipped[key] = torch.where(masks[key], shortened.to(update[key].dtype), update[key])
    return clipped, norm


def update_norm(
    update: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    masks: Mapping[str, Tensor | None],
) -> float:
    """Returns the L2 norm of the change of all parameters that an update holds; see `clip_update`.

    A mask may also be of ones and zeros, which is faster, or None for parameters alone. The norm is
    infinite or not a number where the parameters are.
    """
    return _joint_norm(
        (difference, mask)
        for key in _floating(update)
        for difference, mask in _differences(update[key], reference[key], masks[key])
    )


def parameters_norm(
    reference: Mapping[str, Tensor], masks: Mapping[str, Tensor | None], keys: Iterable[str]
) -> float:
    """Returns the L2 norm of the parameters under some keys, without buffers and integer keys."""
    return _joint_norm(
        (reference[key], masks[key]) for key in keys if reference[key].is_floating_point()
    )


def _differences(
    values: Tensor, start: Tensor, mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields the change and its mask in pieces that stay in the processor's cache."""
    if values.numel() <= CHUNK_VALUES:
        yield values - start, mask
        return
    masks = itertools.repeat(None) if mask is None else mask.reshape(-1).split(CHUNK_VALUES)
    for new, old, part in zip(
        values.reshape(-1).split(CHUNK_VALUES),
        start.reshape(-1).split(CHUNK_VALUES),
        masks,
        strict=False,
    ):
        yield new - old, part


def _floating(update: Mapping[str, Tensor]) -> list[str]:
    return [key for key, tensor in update.items() if tensor.is_floating_point()]


def _joint_norm(parts: Iterable[tuple[Tensor, Tensor | None]]) -> float:
    norms = (_norm(values if mask is None else _masked(values, mask)) for values, mask in parts)
    # fsum: the same bits whatever the order of the keys
    return math.sqrt(math.fsum(norm * norm for norm in norms))


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """Returns zeros where a mask is 0 or False; ones and zeros of the values' type take a seventh of the time of True and False."""
    if mask.dtype != torch.bool:
        masked = values * mask
        if math.isfinite(
            masked.sum()
        ):  # else something masked may be infinite, which times 0 isn't 0
            return masked
    return torch.where(mask.bool(), values, 0)


def _norm(values: Tensor) -> float:
    """Returns the L2 norm, summed in float64 over pieces that are summed as they are, which takes a fifth of the time."""
    flat = values.reshape(-1)
    whole = len(flat) // NORM_PIECE * NORM_PIECE
    pieces = torch.linalg.vector_norm(flat[:whole].view(-1, NORM_PIECE), dim=1)
    norm = math.hypot(
        *(
            float(torch.linalg.vector_norm(part, dtype=torch.float64))
            for part in (pieces, flat[whole:])
        )
    )
    # squares of large numbers overflow in float32 only
    return (
        norm if math.isfinite(norm) else float(torch.linalg.vector_norm(flat, dtype=torch.float64))
    )
