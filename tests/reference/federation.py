"""The slow, obvious forms of what the federation does."""

from __future__ import annotations

import torch

from tardis_fl.data.augmentation import crop_and_flip


def weighted_mean(states, weights):
    """Averages states with all of them in memory; integers take the maximum."""
    mean = {}
    for name in states[0]:
        tensors = [state[name] for state in states]
        if tensors[0].is_floating_point():
            total = sum(
                weight * tensor.double() for weight, tensor in zip(weights, tensors, strict=True)
            )
            mean[name] = (total / sum(weights)).to(tensors[0].dtype)
        else:
            mean[name] = torch.stack(tensors).amax(0)
    return mean


def plain_sgd(
    network,
    images,
    labels,
    *,
    normalisation,
    epochs,
    batch_size,
    learning_rate,
    momentum,
    weight_decay,
    generator,
    augment,
):
    """Trains a whole network with all exits as one would without any federation."""
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(),
        learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=momentum > 0,
    )
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(batch_size):
            batch = crop_and_flip(images[rows], generator) if augment else images[rows]
            logits = network(normalisation(batch))
            loss = torch.zeros(())
            for exit_logits in logits.unbind(1):
                loss = loss + 1.0 * torch.nn.functional.cross_entropy(exit_logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def uneven_round(state, updates):
    """Averages each tensor over those updates that hold it, by samples; what nobody holds stays.

    Args:
        state: Tensors by name before the round.
        updates: Pairs of a client's tensors by name, fewer for shallow clients, and its number of
            samples.
    """
    averaged = dict(state)
    for name in state:
        held = [(update[name], count) for update, count in updates if name in update]
        if held:
            averaged[name] = weighted_mean(
                [{name: tensor} for tensor, _ in held], [count for _, count in held]
            )[name]
    return averaged


def split_step_by_step(network, views, *, depth, weights, learning_rate, momentum, weight_decay):
    """Trains a whole network with all exits as split training with one client should: jointly, on the client's views.

    Args:
        network: Trained in place.
        views: Pairs of input (B, C, H, W) and labels (B,), one a step.
        depth: Where the cut is; client and server each have an optimiser.
        weights: One an exit.
        learning_rate: Of both optimisers.
        momentum, weight_decay: Of both optimisers.
    """
    network.train()
    segments = list(network)
    options = {
        "lr": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "nesterov": momentum > 0,
    }
    parts = [
        [parameter for segment in side for parameter in segment.parameters()]
        for side in (segments[:depth], segments[depth:])
    ]
    optimizers = [torch.optim.SGD(part, **options) for part in parts]
    for x, labels in views:
        loss = torch.zeros(())
        for weight, logits in zip(weights, network(x).unbind(1), strict=True):
            loss = loss + weight * torch.nn.functional.cross_entropy(logits, labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
