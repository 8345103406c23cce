"""pfl-research on the setting `pfl`, in an environment of its own: python pfl_side.py USERS.npz, once for each worker.

This file runs where pfl is installed and nothing of ours is. Its processes find each other as pfl's
guide says, by PFL_WORKER_ADDRESSES and PFL_WORKER_RANK; the first of them takes turns with the
other sides. Where its time begins and ends is the end of an iteration, so a turn is a whole
iteration of pfl's own loop, its metrics included.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn

COHORT, BATCH, RATE = 50, 10, 0.1


class FlattenPositions(nn.Module):
    """Flattens as our network does, which copies nothing."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def network(num_classes: int) -> nn.Module:
    """The same layers as our `simple_cnn`, in the same order of memory."""
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        FlattenPositions(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    ).to(memory_format=torch.channels_last)

    def loss(self, images, labels, eval=False):
        self.eval() if eval else self.train()
        return nn.functional.cross_entropy(self(images), labels)

    layers.loss = types.MethodType(loss, layers)
    layers.metrics = types.MethodType(lambda self, images, labels, eval=True: {}, layers)
    return layers


class Turns(TrainingProcessCallback):
    """Waits for its turn after each iteration, and says how long it was."""

    def __init__(self):
        self.began = None

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        if os.environ.get("PFL_WORKER_RANK", "0") == "0":
            if self.began is None:  # the first iteration starts everything
                print(json.dumps({"ready": True}), flush=True)
            else:
                print(json.dumps({"seconds": time.perf_counter() - self.began}), flush=True)
            if not sys.stdin.readline():
                os._exit(0)
            self.began = time.perf_counter()
        return False, Metrics()


def main() -> None:
    torch.set_num_threads(1)
    users = np.load(sys.argv[1])
    images, labels = (
        torch.from_numpy(users["images"]),
        torch.from_numpy(users["labels"]),
    )  # (users, 50, 32, 32, 3) uint8, (users, 50)
    mean, deviation = (
        torch.from_numpy(users["mean"]).view(3, 1, 1),
        torch.from_numpy(users["deviation"]).view(3, 1, 1),
    )

    def make_user(user: str) -> Dataset:
        inputs = (images[int(user)].permute(0, 3, 1, 2).float() / 255 - mean) / deviation
        return Dataset(
            raw_data=[inputs.contiguous(memory_format=torch.channels_last), labels[int(user)]]
        )

    data = FederatedDataset(
        make_user, get_user_sampler("random", [str(user) for user in range(len(images))])
    )
    module = network(10)
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), 1.0),
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=10**6,
            evaluation_frequency=10**9,
            train_cohort_size=COHORT,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=data, val_data=data),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH),
        callbacks=[Turns()],
    )


if __name__ == "__main__":
    main()
