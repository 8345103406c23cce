"""Writes generated images as the folders of clients."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tardis_fl.data.sources import load_dataset
from tests.conftest import small_config

SIZES = (70, 90, 80)
NATURAL = """
name: natural
seed: 3
data:
  dataset: image_folder
  root: {root}
  partition: {{scheme: natural}}
  fit_fraction: 0.1
  calibration_fraction: 0.2
model: {{width: 4, exit_hidden: 8}}
federation:
  rounds: 1
  num_clients: 3
  client: {{batch_size: 16}}
  server: {{batch_size: 16}}
  final_server_epochs: 1
deployment: {{max_accuracy_drop: 0.05}}
runtime: {{threads: 1, precision: float32}}
"""


def write_client_folders(root: Path) -> Path:
    """Writes root/clients/client_N/CLASS/* of three clients, where the first has no image of the first class, and root/test/CLASS/*."""
    dataset = load_dataset(small_config())
    start = 0
    for client, size in enumerate(SIZES):
        for index in range(start, start + size):
            if client or dataset.train.labels[index]:
                _write(root / "clients" / f"client_{client + 9}", dataset.train, index)
        start += size
    for index in range(len(dataset.test)):
        _write(root / "test", dataset.test, index)
    return root


def _write(folder: Path, split, index: int) -> None:
    path = folder / f"class_{split.labels[index]}" / f"{index:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(split.images[index]).save(path)
