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
            total = sum(weight * tensor.double() for weight, tensor in zip(weights, tensors, strict=True))
            mean[name] = (total / sum(weights)).to(tensors[0].dtype)
        else:
            mean[name] = torch.stack(tensors).amax(0)
    return mean


def plain_sgd(network, images, labels, *, normalisation, epochs, batch_size, learning_rate, momentum, weight_decay, generator, augment):
    """Trains a whole network with all exits as one would without any federation."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0)
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
