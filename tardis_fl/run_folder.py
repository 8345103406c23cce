"""A run's folder. Its layout is a contract that other programs read."""

from __future__ import annotations

import io
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tardis_fl.atomic import write_bytes, write_json, write_text
from tardis_fl.config.schema import Config
from tardis_fl.errors import ConfigError, RunError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from tardis_fl.data.roles import Shard
    from tardis_fl.early_exit.evaluation import ExitTable
    from tardis_fl.federation.events import Failure, RoundRecord

MARKS = ("rounds.jsonl", "report.json")  # a folder of ours without them holds no complete round, and may be used again
OURS = "environment.json"
PACKAGES = ("tardis_fl", "torch", "torchvision", "flwr", "flwr-datasets", "numpy", "pydantic", "safetensors", "matplotlib")


class RunFolder:
    """Writes into one run's folder; every file is replaced atomically or grows by whole lines.

    Args:
        path: The folder. Made here, with the resolved configuration in it.
        config: The run's configuration.

    Raises:
        ConfigError: The folder holds another run.
        RunError: The folder can't be written.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: can't make this folder ({error.strerror or error}); choose another with --output DIR") from None
        shutil.rmtree(path / "failures", ignore_errors=True)
        write_text(path / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuses a path that is a file or a folder with another run.

        Raises:
            ConfigError: Says what is there and what to do.
        """
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path}: is a file; wanted a folder for the run, see --output")
        if path.is_dir() and any(path.iterdir()) and not (path / OURS).exists() and not any((path / mark).exists() for mark in MARKS):
            raise ConfigError(f"{path}: holds other files, which a run might overwrite; wanted a new or empty folder (--output DIR)")
        if any((path / mark).exists() for mark in MARKS):
            raise ConfigError(
                f"{path}: holds another run{_describe(path)}. Choose another name (--name NAME) or folder (--output DIR), or move it away. "
                "An interrupted run can't be resumed yet; its checkpoint and rounds stay readable."
            )

    def write_environment(self, *, threads: int, precision: str, data_hash: str) -> None:
        """Writes what the run depends on beside its configuration."""
        environment = {**machine_facts(), "threads": threads, "precision": precision, "commit": _commit(), "data_hash": data_hash}
        write_json(self.path / "environment.json", environment)

    def write_partition(self, shards: Sequence[Shard]) -> None:
        """Writes who holds what: sample ids of the training split, with the client and the role of each."""
        import numpy as np

        from tardis_fl.data.roles import Role

        rows = [(shard.client, role.value, shard.indices(role)) for shard in shards for role in (Role.TRAIN, Role.FIT, Role.CALIBRATE)]
        self._write_arrays(
            "partition.npz", sample_ids=np.concatenate([ids for _, _, ids in rows]),
            client_ids=np.concatenate([np.full(len(ids), client) for client, _, ids in rows]), role=np.concatenate([np.full(len(ids), role) for _, role, ids in rows]),
        )  # fmt: skip

    def append_round(self, record: RoundRecord) -> None:
        """Adds a line to `rounds.jsonl`."""
        self._append("rounds.jsonl", record)

    def append_final_epoch(self, record: RoundRecord) -> None:
        """Adds a line to `final_epochs.jsonl`."""
        self._append("final_epochs.jsonl", record)

    def _append(self, name: str, record: RoundRecord) -> None:
        path = self.path / name
        line = json.dumps(record.to_json(), allow_nan=False) + "\n"
        try:
            with open(path, "ab") as file:
                end = file.tell()
                try:
                    file.write(line.encode())
                    file.flush()
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise RunError(f"{path}: can't be written ({error.strerror or error}); the lines before are unchanged") from error

    def write_failure(self, failure: Failure) -> Path:
        """Writes a client's traceback to a file of its own and returns its path."""
        path = self.path / "failures" / f"round_{failure.round:04d}_client_{failure.client:05d}_{failure.stage}.txt"
        path.parent.mkdir(exist_ok=True)
        write_text(path, f"round {failure.round}, client {failure.client}, {failure.stage}\n\n{failure.details.rstrip()}\n")
        return path

    def write_checkpoint(self, round_number: int, state: Mapping[str, Tensor]) -> None:
        """Replaces the checkpoint by the whole network after a complete round."""
        from safetensors.torch import save

        folder = self.path / "checkpoint"
        folder.mkdir(exist_ok=True)
        write_bytes(folder / "network.safetensors", save({name: tensor.contiguous() for name, tensor in state.items()}, {"round": str(round_number)}))

    def write_exit_table(self, tables: Sequence[ExitTable]) -> None:
        """Writes the tables of several roles as one, with the role of each row."""
        import numpy as np

        self._write_arrays(
            "exit_table.npz", logits=np.concatenate([table.logits for table in tables], axis=1),
            labels=np.concatenate([table.labels for table in tables]), sample_ids=np.concatenate([table.sample_ids for table in tables]),
            client_ids=np.concatenate([table.client_ids for table in tables]), role=np.concatenate([np.full(len(table), table.role) for table in tables]),
        )  # fmt: skip

    def _write_arrays(self, name: str, **arrays: npt.NDArray[np.generic]) -> None:
        import numpy as np

        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_bytes(self.path / name, buffer.getvalue())

    def write_reports(self, report: dict[str, Any], markdown: str, html: str) -> None:
        """Writes the three forms of the report."""
        write_json(self.path / "report.json", report)
        write_text(self.path / "report.md", markdown)
        write_text(self.path / "report.html", html)


def machine_facts() -> dict[str, Any]:
    """Returns what a figure measured here depends on: Python, platform, processor and versions."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _describe(path: Path) -> str:
    rounds = path / "rounds.jsonl"
    count = len(rounds.read_text().splitlines()) if rounds.exists() else 0
    state = "finished" if (path / "report.json").exists() else "unfinished"
    return f" ({state}, {count} rounds)"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True, timeout=10, check=True
        )
        tracked = subprocess.run(["git", "-C", str(here), "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if tracked.returncode == 0 else None  # installed inside somebody else's repository


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
