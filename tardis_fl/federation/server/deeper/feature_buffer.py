"""Features that the server keeps over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tardis_fl.federation.transport.messages import FeatureBatch


class FeatureBuffer:
    """A ring over rounds: features enter with the round they were computed in, and leave when they are too old.

    Args:
        num_rounds: Rounds that are kept; 1 is the present one only.
    """

    def __init__(self, num_rounds: int) -> None:
        self._num_rounds = num_rounds
        self._entries: dict[int, list[FeatureBatch]] = {}

    def add(self, round_number: int, parts: Sequence[FeatureBatch]) -> None:
        """Takes a round's features, and lets go of those that are too old."""
        self._entries = {
            number: kept
            for number, kept in self._entries.items()
            if number > round_number - self._num_rounds
        }
        if parts:
            self._entries[round_number] = by_depth(parts)

    def batches(self) -> list[FeatureBatch]:
        """Returns all features, one batch a depth."""
        return by_depth([part for parts in self._entries.values() for part in parts])

    def ages(self, round_number: int) -> dict[int, int]:
        """Returns how many samples are how many rounds old."""
        return {
            round_number - number: sum(len(part) for part in parts)
            for number, parts in sorted(self._entries.items(), reverse=True)
        }

    def state(self) -> dict[str, Tensor]:
        """Returns everything as tensors, for a checkpoint; nothing where only the present round is kept."""
        if self._num_rounds == 1:
            return {}
        return {
            name: tensor
            for number, parts in self._entries.items()
            for part in parts
            for name, tensor in part.tensors(f"{number}.{part.depth}.").items()
        }

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Takes back what `state` returned, onto a device."""
        keys = dict.fromkeys(tuple(map(int, name.split(".")[:2])) for name in state)
        for number, depth in sorted(keys):
            self._entries.setdefault(number, []).append(
                FeatureBatch.from_tensors(state, depth, f"{number}.{depth}.").to(device)
            )


class Pieces:
    """Puts together what several clients send in pieces, each into its place in memory that is taken once."""

    def __init__(self) -> None:
        self._whole: dict[int, FeatureBatch] = {}
        self._come: dict[int, int] = {}

    def add(self, client: int, piece: FeatureBatch, first: int, count: int) -> None:
        """Takes the rows from `first` on of a client's `count`.

        Raises:
            ValueError: They aren't the ones that were missing.
        """
        come, whole = self._come.get(client, 0), self._whole.get(client)
        if (
            first != come
            or not len(piece)
            or first + len(piece) > count
            or (whole is not None and len(whole) != count)
        ):
            raise ValueError(
                f"sent the rows {first} to {first + len(piece)} of {count} features, of which {come} have come"
            )
        if len(piece) == count:
            self._whole[client] = piece
        else:
            self._whole.setdefault(client, piece.room(count)).put(first, piece)
        self._come[client] = first + len(piece)

    def has_all(self, client: int) -> bool:
        """Whether everything of a client has come."""
        return client in self._whole and self._come[client] == len(self._whole[client])

    def take(self, client: int) -> FeatureBatch:
        """Returns what a client sent, and lets go of it."""
        self._come.pop(client)
        return self._whole.pop(client)

    def wanted(self, clients: Sequence[int]) -> tuple[int, list[int]]:
        """Returns from which row on some of these clients are to send more, and which; nobody where all is there."""
        open_at = {
            client: come
            for client in clients
            if (come := self._come.get(client, 0)) and come < len(self._whole[client])
        }
        first = min(open_at.values(), default=0)
        return first, [client for client, come in open_at.items() if come == first]

    def of(self, clients: Sequence[int]) -> list[FeatureBatch]:
        """Returns what these clients sent, in their order."""
        return [self._whole[client] for client in sorted(clients) if client in self._whole]


def by_depth(parts: Sequence[FeatureBatch]) -> list[FeatureBatch]:
    """Joins the batches of each depth, shallow first."""
    joined = []
    for depth in sorted({part.depth for part in parts}):
        same = [part for part in parts if part.depth == depth]
        joined.append(same[0] if len(same) == 1 else FeatureBatch.concatenate(same))
    return joined
