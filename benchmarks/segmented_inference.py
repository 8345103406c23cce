"""Segmented inference in batches, beside the seed's way of one sample at a time, and beside its own share of the work.

    python -m benchmarks.segmented_inference --output benchmarks/results/segmented_inference.json

First part: `test_networks` on 10,000 images against the loop of TARDIS Early Exit
(tests/reference/deployment.py) on the same network. The decisions have to be the same for every
sample; the seed's loop takes a few hundred images a turn, since its time a sample doesn't depend on
how many there are.

Second part: a pass in which half of the samples leave at the first exit and none at the second,
against the whole network without early exits, in turns. It is divided by the share of
multiply-accumulates that such a pass needs. Since segments don't all multiply at the same speed, it
stands beside the same segments on as many samples without any decision, too.

Real CIFAR-10 test images where TARDIS_FL_DATA names them, else generated ones; weights are
untrained, with batch statistics of these images, and thresholds are quantiles of the scores. So it
says nothing about accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tardis_fl.config.loading import parse_config
from tardis_fl.core.torchvision_guard import import_torchvision
from tardis_fl.data.sources import load_dataset
from tardis_fl.early_exit import (
    EarlyExitNetwork,
    build_network,
    convert,
    escalate,
    separate_networks,
    test_networks,
)
from tardis_fl.early_exit.counting import segment_costs
from tardis_fl.early_exit.scoring.confidence import NEVER_EXIT
from tardis_fl.runs.folder import machine_facts
from tests.reference.deployment import seed_test_networks

LARGE = (
    "seed's vgg19",
)  # networks that take a tenth of the images, since their time a sample hides any overhead


def lenet() -> EarlyExitNetwork:
    """LeNet-5 for CIFAR-10, as small devices run it."""
    layers = [
        ("conv1", nn.Conv2d(3, 6, 5)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(6, 16, 5)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(400, 120)),
        ("relu3", nn.ReLU()),
        ("fc2", nn.Linear(120, 84)),
        ("relu4", nn.ReLU()),
        ("fc3", nn.Linear(84, 10)),
    ]
    return convert(
        nn.Sequential(OrderedDict(layers)),
        torch.zeros(1, 3, 32, 32),
        cuts=["pool1", "pool2"],
        seed=0,
    )


def seeds_vgg19() -> EarlyExitNetwork:
    """VGG19 with the cuts and the flattening exits of the seed's README."""
    features = import_torchvision("torchvision.models").vgg19(weights=None, num_classes=10).features
    exits = [
        nn.Sequential(nn.Flatten(), nn.Linear(size, 512), nn.Linear(512, 10))
        for size in (128 * 16 * 16, 256 * 8 * 8)
    ]
    return EarlyExitNetwork(
        [
            features[:7],
            features[7:17],
            nn.Sequential(features[17:], nn.Flatten(), nn.Linear(512, 10)),
        ],
        exits,
    )


NETWORKS: dict[str, Callable[[], EarlyExitNetwork]] = {
    "lenet": lenet,
    "small_resnet width 4": lambda: build_network("small_resnet", num_classes=10, width=4, seed=0),
    "small_resnet width 8": lambda: build_network("small_resnet", num_classes=10, width=8, seed=0),
    "small_resnet": lambda: build_network("small_resnet", num_classes=10, seed=0),
    "resnet20": lambda: build_network("resnet20", num_classes=10, seed=0),
    "seed's vgg19": seeds_vgg19,
}


def prepared(name: str, images: Tensor) -> EarlyExitNetwork:
    """Builds a network and gives its batch norms the statistics of these images."""
    torch.manual_seed(0)
    network = NETWORKS[name]().train()
    with torch.no_grad():
        for batch in images[:1000].split(250):
            network(batch)
    return network.eval()


def halves(network: EarlyExitNetwork, images: Tensor, leave_at_second: bool) -> list[float]:
    """Chooses thresholds between two scores: half of the samples leave at the first exit, and half of the rest, or none, at the second."""
    with torch.no_grad():
        scores = torch.cat(
            [network(batch).double().softmax(-1).amax(-1) for batch in images.split(250)]
        )
    first = middle(scores[:, 0])
    return [first, middle(scores[scores[:, 0] < first, 1]) if leave_at_second else NEVER_EXIT]


def middle(scores: Tensor) -> float:
    """Returns the middle of the widest gap between two scores among the central hundredth, so that rounding decides for no sample."""
    ordered = scores.sort().values
    centre, reach = len(ordered) // 2, max(1, len(ordered) // 200)
    near = ordered[centre - reach : centre + reach + 1]
    widest = int(near.diff().argmax())
    return float(near[widest : widest + 2].mean())


def against_the_seed(name: str, images: Tensor, labels: Tensor, repeats: int, turn: int) -> dict:
    """Times both ways in turns, and compares every decision."""
    network = prepared(name, images)
    networks = separate_networks(network, halves(network, images, leave_at_second=True))
    data = TensorDataset(images, labels)
    test_networks(networks, data, "cpu")  # warm
    seed_test_networks(networks, TensorDataset(images[:50], labels[:50]))
    ours, theirs = [], []
    for repeat in range(repeats):
        start = time.perf_counter()
        test_networks(networks, data, "cpu")
        ours.append((time.perf_counter() - start) / len(images))
        some = slice(repeat * turn, (repeat + 1) * turn)
        start = time.perf_counter()
        seed_test_networks(networks, TensorDataset(images[some], labels[some]))
        theirs.append((time.perf_counter() - start) / turn)
    _, _, expected = seed_test_networks(networks, data)
    got = torch.cat([escalate(networks, batch)[1] for batch in images.split(250)])
    other = (got != torch.tensor(expected)).nonzero().squeeze(1)
    with torch.no_grad():
        distance = [
            min(
                abs(float(s) - n.threshold)
                for s, n in zip(
                    network(images[i : i + 1])[0].double().softmax(-1).amax(-1),
                    networks[:-1],
                    strict=False,
                )
            )
            for i in other
        ]
    macs = sum(cost.macs for cost in segment_costs(network, images.shape[1:]))
    return {
        "network": name,
        "macs": macs,
        "num_images": len(images),
        "thresholds": [n.threshold for n in networks[:-1]],
        "exit_counts": torch.bincount(got, minlength=3).tolist(),
        "num_other_exit": len(other),
        "largest_distance_of_these_to_a_threshold": max(distance, default=0.0),
        "seed_ms_per_sample": [1e3 * value for value in theirs],
        "ours_ms_per_sample": [1e3 * value for value in ours],
        "ratio": summary([b / a for a, b in zip(ours, theirs, strict=True)]),
    }


def against_its_share(name: str, images: Tensor, repeats: int, batch_size: int) -> dict:
    """Times a pass at 50 % exits and the network without early exits in turns."""
    network = prepared(name, images)
    networks = separate_networks(network, halves(network, images, leave_at_second=False))
    costs = segment_costs(network, images.shape[1:])
    whole = [cost.macs - cost.exit_macs for cost in costs[:-1]] + [costs[-1].macs]
    batches = images.split(batch_size)

    def monolithic() -> None:
        with torch.no_grad():
            for batch in batches:
                network(batch, exit_chosen=len(network) - 1)

    def segmented() -> int:
        return sum(int((escalate(networks, batch)[1] > 0).sum()) for batch in batches)

    def parts() -> None:
        """The same segments on as many samples, without any decision."""
        with torch.no_grad():
            for batch in batches:
                x, _ = network.segments[0](batch)
                x = x[: round(len(batch) * escalated)]
                for segment in list(network)[1:]:
                    x, _ = segment(x)

    monolithic()
    escalated = segmented() / len(images)
    share = (costs[0].macs + escalated * sum(cost.macs for cost in costs[1:])) / sum(whole)
    ratios, over_parts = [], []
    for repeat in range(repeats):
        passes = [("whole", monolithic), ("segmented", segmented), ("parts", parts)]
        taken = {}
        for key, run in passes[repeat % 3 :] + passes[: repeat % 3]:
            start = time.perf_counter()
            run()
            taken[key] = time.perf_counter() - start
        ratios.append(taken["segmented"] / taken["whole"])
        over_parts.append(taken["segmented"] / taken["parts"])
    return {
        "network": name,
        "num_images": len(images),
        "batch_size": batch_size,
        "escalated": escalated,
        "macs_share": share,
        "time_share": summary(ratios),
        "time_share_over_macs_share": summary([ratio / share for ratio in ratios]),
        "time_over_the_same_segments_without_decisions": summary(over_parts),
    }


def summary(values: Sequence[float]) -> dict:
    """Median and extremes."""
    return {
        "n": len(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def cifar10_or_generated(count: int) -> tuple[Tensor, Tensor, str]:
    """Returns normalised test images (N, 3, 32, 32), labels (N,), and where they are from."""
    kind = "cifar10" if os.environ.get("TARDIS_FL_DATA") else "synthetic"
    synthetic = f", synthetic: {{num_test: {count}}}" if kind == "synthetic" else ""
    dataset = load_dataset(
        parse_config(
            f"name: benchmark\ndata: {{dataset: {kind}{synthetic}}}\ndeployment: {{max_accuracy_drop: 0.01}}\n"
        )
    )
    images = dataset.normalisation(torch.from_numpy(dataset.test.images[:count]))
    return (
        images.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(dataset.test.labels[:count].copy()),
        dataset.name,
    )


def main() -> None:
    """Runs both parts and prints and writes what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--turn", type=int, default=300, help="images that the seed's way takes in a turn"
    )
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    images, labels, source = cifar10_or_generated(options.images)
    result: dict = {
        "machine": machine_facts(),
        "threads": torch.get_num_threads(),
        "images": source,
        "against_the_seed": [],
        "against_its_share": [],
    }
    for name in options.networks:
        count = len(images) if name not in LARGE else len(images) // 10
        row = against_the_seed(
            name,
            images[:count],
            labels[:count],
            options.repeats,
            min(options.turn, count // options.repeats),
        )
        result["against_the_seed"].append(row)
        ratio = row["ratio"]
        print(
            f"{name:22} {row['macs'] / 1e6:7.2f} M MACs: {statistics.median(row['seed_ms_per_sample']):.3f} ms a sample one at a time, "
            f"{statistics.median(row['ours_ms_per_sample']):.4f} in batches: {ratio['median']:.1f} times ({ratio['min']:.1f} to {ratio['max']:.1f}, n = {ratio['n']}); "
            f"{row['num_other_exit']} of {row['num_images']:,} at another exit",
            flush=True,
        )
    for name in options.networks:
        row = against_its_share(
            name, images[: max(2000, 2 * options.batch_size)], options.repeats, options.batch_size
        )
        result["against_its_share"].append(row)
        over, parts = (
            row["time_share_over_macs_share"],
            row["time_over_the_same_segments_without_decisions"],
        )
        print(
            f"{name:22} {row['escalated']:.0%} escalate: {row['macs_share']:.3f} of the MACs, {row['time_share']['median']:.3f} of the time: "
            f"{over['median']:.3f} times its share ({over['min']:.3f} to {over['max']:.3f}, n = {over['n']}); {parts['median']:.3f} times the same segments without decisions",
            flush=True,
        )
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
