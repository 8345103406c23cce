"""The bare PyTorch loop, without messages: python -m benchmarks.engines.bare SETTING PROCESSES.

One process with as many threads as there are cores, or processes of one thread each, which share
the clients of a round, have the images mapped, and leave their sums in shared memory.
"""

from __future__ import annotations

import sys

import torch
import torch.multiprocessing
from torch import Tensor, nn

from benchmarks.engines.settings import configuration, take_turns
from tardis_fl.core.compute import num_cores, training_arithmetic
from tardis_fl.data.augmentation import crop_and_flip
from tardis_fl.federation.client.resources import ClientResources, new_network, open_resources
from tardis_fl.federation.conditions.population import Population


class Trainer:
    """One process's network and images.

    Args:
        setting: A name of `SETTINGS`.
        seed: Of the order of images.
    """

    def __init__(self, setting: str, seed: int) -> None:
        self.trivial, config = setting == "trivial", configuration(setting)
        self.work: ClientResources = open_resources(config.model_dump_json())
        self.network = new_network(config, self.work.dataset.num_classes)
        self.generator = torch.Generator().manual_seed(seed)
        self.exit_weights = (
            [0.0] * (config.num_segments - 1) + [1.0]
            if config.federation.client_exits == "last"
            else config.exit_weights
        )

    def start(self) -> Tensor:
        """Returns all parameters and buffers of floats, flat."""
        return torch.cat(
            [
                tensor.reshape(-1)
                for tensor in self.network.state_dict().values()
                if tensor.is_floating_point()
            ]
        )

    def load(self, flat: Tensor) -> None:
        """Takes over what `start` returned."""
        tensors = [
            tensor for tensor in self.network.state_dict().values() if tensor.is_floating_point()
        ]
        for tensor, part in zip(
            tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))

    def train(self, clients: list[int], start: Tensor, total: Tensor) -> int:
        """Adds the weights after each client's training, times its images, to a sum in float64; returns the images."""
        images = 0
        for client in clients:
            own = torch.from_numpy(self.work.partition.shard(client).train)
            self.load(start)
            if not self.trivial:
                self._train_one(own)
            total.add_(self.start(), alpha=len(own))
            images += len(own)
        return images

    def _train_one(self, own: Tensor) -> None:
        work, settings = self.work, self.work.config.federation.client
        self.network.train()
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        for rows in torch.randperm(len(own), generator=self.generator).split(settings.batch_size):
            images, labels = work.data.images[own[rows]], work.data.labels[own[rows]]
            if work.data.augment:
                images = crop_and_flip(images, self.generator)
            with training_arithmetic(work.precision, work.device):
                logits = self.network(work.data.normalisation(images)).unbind(1)
                loss = sum(
                    weight * nn.functional.cross_entropy(row.float(), labels)
                    for weight, row in zip(self.exit_weights, logits, strict=True)
                    if weight
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _population(setting: str) -> Population:
    config = configuration(setting)
    return Population(config.federation.population, config.seed)


def in_one_process(setting: str) -> None:
    trainer, population = Trainer(setting, 0), _population(setting)
    torch.set_num_threads(num_cores())
    weights = trainer.start()

    def run_round(number: int) -> int:
        total = torch.zeros(weights.shape, dtype=torch.float64)
        images = trainer.train(population.choose(number), weights, total)
        weights.copy_(total / images)
        return images

    take_turns(run_round)


def _work(setting: str, place: int, weights: Tensor, totals: Tensor, orders, answers) -> None:
    trainer = Trainer(setting, place)
    torch.set_num_threads(1)
    while (clients := orders.get()) is not None:
        answers.put(trainer.train(clients, weights, totals[place].zero_()))


def in_processes(setting: str, count: int) -> None:
    context, population = (
        torch.multiprocessing.get_context("spawn"),
        _population(setting),
    )
    weights = Trainer(setting, 0).start().share_memory_()
    totals = torch.zeros(count, len(weights), dtype=torch.float64).share_memory_()
    orders, answers = [context.SimpleQueue() for _ in range(count)], context.SimpleQueue()
    processes = [
        context.Process(
            target=_work,
            args=(setting, place, weights, totals, orders[place], answers),
            daemon=True,
        )
        for place in range(count)
    ]
    for process in processes:
        process.start()

    def run_round(number: int) -> int:
        clients = population.choose(number)
        for place in range(count):
            orders[place].put(clients[place::count])
        images = sum(answers.get() for _ in range(count))
        weights.copy_(totals.sum(0) / images)
        return images

    take_turns(run_round)
    for queue in orders:
        queue.put(None)


if __name__ == "__main__":
    if sys.argv[2] == "1":
        in_one_process(sys.argv[1])
    else:
        in_processes(sys.argv[1], int(sys.argv[2]))
