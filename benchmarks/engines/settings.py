"""The settings that all sides run, and the way they take turns."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from tardis_fl.config import Config, parse_config

HELD_OUT = 2  # one image each for fit and calibrate

COMMON = """
  evaluate_every: 0
  final_server_epochs: 0
deployment: {max_accuracy_drop: 0.01}
"""

# 100 clients with 128 images each, the whole network on each of them
HUNDRED = f"""
name: engines_hundred
data:
  dataset: synthetic
  synthetic: {{num_train: {100 * (128 + HELD_OUT)}, num_test: 100}}
  partition: {{scheme: iid, min_samples: 4}}
  fit_fraction: 0.005
  calibration_fraction: 0.005
model: {{width: 16, exit_hidden: 32}}
federation:
  rounds: 100000
  num_clients: 100
  client_depth: 3
  client: {{batch_size: 32, schedule: constant}}
{COMMON}
"""

# pfl-research's benchmark on CIFAR-10: 1,000 clients with 50 images, 50 of them a round, batches of
# 10, one epoch, SGD 0.1;
# an exit that isn't trained sits beside the network's own, where the other one is trained
PFL = f"""
name: engines_pfl
data:
  dataset: synthetic
  augment: false
  synthetic: {{num_train: {1000 * (50 + HELD_OUT)}, num_test: 100}}
  partition: {{scheme: iid, min_samples: 4}}
  fit_fraction: 0.01
  calibration_fraction: 0.01
model: {{backbone: simple_cnn, cuts: [fc]}}
tiers: [{{name: device}}, {{name: cloud}}]
federation:
  rounds: 100000
  num_clients: 1000
  client_fraction: 0.05
  client_depth: 2
  client_exits: last
  client: {{batch_size: 10, learning_rate: 0.1, momentum: 0.0, weight_decay: 0.0, schedule: constant}}
{COMMON}
runtime: {{precision: float32}}
"""

SETTINGS = {"real": HUNDRED, "trivial": HUNDRED, "pfl": PFL}
CLIENT_APPS = {
    "real": "tardis_fl.federation.client.app:app",
    "trivial": "benchmarks.engines.trivial:app",
    "pfl": "tardis_fl.federation.client.app:app",
}


def configuration(setting: str, *overrides: str) -> Config:
    """Returns the configuration of a setting."""
    return parse_config(SETTINGS[setting], overrides=overrides)


def take_turns(run_round: Callable[[int], int]) -> None:
    """Runs a round for each line that comes in, and says in a line how long it took and how many images were trained on.

    Args:
        run_round: Runs the round of this number, from 1; returns the images trained on.
    """
    print(json.dumps({"ready": True}), flush=True)
    for number, _ in enumerate(sys.stdin, start=1):
        began = time.perf_counter()
        images = run_round(number)
        print(json.dumps({"seconds": time.perf_counter() - began, "images": images}), flush=True)
