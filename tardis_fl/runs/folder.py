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
from filelock import FileLock, Timeout

from tardis_fl.config.schema import Config
from tardis_fl.core.atomic import write_bytes, write_json, write_text
from tardis_fl.errors import ConfigError, RunError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tardis_fl.data.roles import Shard
    from tardis_fl.early_exit.evaluation import ExitTable
    from tardis_fl.federation.engines.parallelism import Parallelism
    from tardis_fl.federation.records import Failure, RoundRecord, Snapshot
    from tardis_fl.federation.rounds import Interrupted

MARKS = (
    "rounds.jsonl",
    "report.json",
)  # a folder of ours without them holds no complete round, and may be used again
OURS = "environment.json"
LOCK = ".lock"
REPORTS = ("report.json", "report.md", "report.html")
ROUND_CHECKPOINT = Path("checkpoint") / "round.safetensors"
EPOCH_CHECKPOINT = Path("checkpoint") / "final_epoch.safetensors"
PACKAGES = (
    "tardis_fl",
    "torch",
    "torchvision",
    "flwr",
    "flwr-datasets",
    "numpy",
    "pydantic",
    "safetensors",
    "matplotlib",
)


class RunFolder:
    """Writes into one run's folder; every file is replaced atomically or grows by whole lines.

    As a context manager it keeps other processes out until its end.

    Args:
        path: The folder. Made here.
        config: The run's configuration.
        resume: Whether it may hold an unfinished run, which goes on.

    Attributes:
        past: Where that run goes on; None where no round is complete.

    Raises:
        ConfigError: The folder holds another run, or a checkpoint of another configuration, or
            another process writes into it.
        RunError: The folder can't be written or locked, or what a run goes on from is damaged.
    """

    def __init__(self, path: Path, config: Config, *, resume: bool = False) -> None:
        self.path, self._config = path, config
        self.check_free(path, resume=resume)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{path}: can't make this folder ({error.strerror or error}); choose another with --output DIR"
            ) from None
        self._lock = _locked(path)
        try:
            self._check_content(path, resume=resume)  # another run may have begun and ended since
            if not resume:
                shutil.rmtree(path / "failures", ignore_errors=True)
            self.past = self._read_past() if resume else None
            self._sittings = (
                self._read_sittings() if self.past or (resume and (path / OURS).exists()) else []
            )
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    @staticmethod
    def check_free(path: Path, *, resume: bool = False) -> None:
        """Refuses a path that is a file, a folder with another run, or one that another process writes into.

        Raises:
            ConfigError: Says what is there and what to do.
            RunError: The folder can't be locked.
        """
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path}: is a file; wanted a folder for the run, see --output")
        if (path / LOCK).exists():
            _locked(path).release()
        RunFolder._check_content(path, resume=resume)

    @staticmethod
    def _check_content(path: Path, *, resume: bool) -> None:
        if (
            path.is_dir()
            and any(item.name != LOCK for item in path.iterdir())
            and not RunFolder.holds_run(path)
        ):
            raise ConfigError(
                f"{path}: holds other files, which a run might overwrite; wanted a new or empty folder (--output DIR)"
            )
        if any((path / mark).exists() for mark in MARKS) and not resume:
            raise ConfigError(
                f"{path}: holds another run{_describe(path)}. Go on with it (--resume), choose another name (--name NAME) or folder (--output DIR), or move it away."
            )

    @staticmethod
    def holds_run(path: Path) -> bool:
        """Whether a run has begun in a folder."""
        return any((path / name).exists() for name in (OURS, *MARKS))

    def _read_past(self) -> Interrupted | None:
        """Returns where an interrupted run goes on; None where no round is complete.

        Lines after the checkpoint, written by a run that was killed between the two, are cut off.

        Raises:
            RunError: The checkpoint or the records are damaged.
            ConfigError: The checkpoint is of another configuration.
        """
        from tardis_fl.federation.rounds import Interrupted
        from tardis_fl.runs.checkpoint import read_checkpoint

        round_path, epoch_path = self.path / ROUND_CHECKPOINT, self.path / EPOCH_CHECKPOINT
        if not round_path.exists():
            for name in ("rounds.jsonl", "final_epochs.jsonl"):
                (self.path / name).unlink(missing_ok=True)
            return None
        snapshot = read_checkpoint(round_path, self._config)
        if epoch_path.exists():
            later = read_checkpoint(epoch_path, self._config)
            if later.facts["round"] == self._config.federation.rounds or (
                later.facts.get("stopped") and later.facts["round"] == snapshot.facts["round"]
            ):
                snapshot = later
            else:
                epoch_path.unlink()  # more rounds than before: the final epochs come anew
        rounds = self._read_records("rounds.jsonl", snapshot.facts["round"])
        return Interrupted(
            snapshot,
            rounds,
            self._read_records("final_epochs.jsonl", snapshot.facts["final_epoch"]),
        )

    def _read_records(self, name: str, count: int) -> list[RoundRecord]:
        from tardis_fl.federation.records import RoundRecord

        path = self.path / name
        lines = path.read_bytes().splitlines(keepends=True)[:count] if path.exists() else []
        if len(lines) < count:
            raise RunError(
                f"{path}: holds {len(lines)} lines, the checkpoint is of {count}; begin a new run with another --name"
            )
        try:
            records = [RoundRecord.from_json(json.loads(line)) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}: a line can't be read ({error!r}); begin a new run with another --name"
            ) from None
        if path.exists():
            write_bytes(path, b"".join(lines))
        return records

    def describe_environment(
        self, *, threads: int, parallelism: Parallelism, precision: str, device: str, data_hash: str
    ) -> dict[str, Any]:
        """Returns what the run depends on beside its configuration."""
        return {
            **machine_facts(),
            "threads": threads,
            "workers": parallelism.workers,
            "client_threads": parallelism.client_threads,
            "precision": precision,
            "device": device,
            "commit": _commit(),
            "data_hash": data_hash,
            "rounds_before": self._rounds_before,
        }

    @property
    def begun_rounds(self) -> list[int]:
        """Rounds that earlier sittings may have begun and did not complete, one for each of these sittings."""
        return [
            done + 1
            for done in self._rounds_after_sittings
            if done < self._config.federation.rounds
        ]

    @property
    def _rounds_before(self) -> int:
        return len(self.past.rounds) if self.past else 0

    @property
    def _rounds_after_sittings(self) -> list[int]:
        """How many rounds were complete after each earlier sitting."""
        return (
            [
                *(sitting.get("rounds_before", 0) for sitting in self._sittings[1:]),
                self._rounds_before,
            ]
            if self._sittings
            else []
        )

    def compare_environment(self, environment: Mapping[str, Any]) -> list[str]:
        """Returns warnings about what differs between this sitting and those before, where a resumed run goes on.

        Raises:
            ConfigError: The data are others.
        """
        sittings = [
            sitting
            for sitting, done in zip(self._sittings, self._rounds_after_sittings, strict=True)
            if done
        ]  # the others left nothing
        if any(before.get("data_hash") != environment["data_hash"] for before in sittings):
            raise ConfigError(
                f"data.root: these are other images than those that the run in {self.path} began with; begin a new run with another --name"
            )
        keys = (
            "threads",
            "client_threads",
            "precision",
            "device",
            "versions",
            "processor",
            "commit",
        )
        changed = [
            key for key in keys if any(before.get(key) != environment[key] for before in sittings)
        ]
        if not changed:
            return []
        return [
            f"this run was interrupted and went on with other {', '.join(changed)}: its last digits may not be those of a run without interruption"
        ]

    def begin(self, environment: Mapping[str, Any]) -> None:
        """Writes the resolved configuration and what `describe_environment` returned; reports of an earlier sitting go."""
        for name in REPORTS:
            (self.path / name).unlink(missing_ok=True)
        write_text(
            self.path / "config.yaml",
            yaml.safe_dump(
                self._config.model_dump(mode="json"), sort_keys=False, allow_unicode=True
            ),
        )
        write_json(self.path / OURS, {**environment, "earlier_sittings": self._sittings})

    def _read_sittings(self) -> list[dict[str, Any]]:
        path = self.path / OURS
        try:
            last = json.loads(path.read_text())
            return [*last.pop("earlier_sittings", []), last]
        except (OSError, ValueError, AttributeError) as error:
            raise RunError(
                f"{path}: can't be read ({error}); begin a new run with another --name"
            ) from None

    def write_partition(self, shards: Sequence[Shard]) -> None:
        """Writes who holds what: sample ids of the training split, with the client and the role of each."""
        import numpy as np

        from tardis_fl.data.roles import Role

        rows = [
            (shard.client, role.value, shard.indices(role))
            for shard in shards
            for role in (Role.TRAIN, Role.FIT, Role.CALIBRATE)
        ]
        self._write_arrays(
            "partition.npz",
            sample_ids=np.concatenate([ids for _, _, ids in rows]),
            client_ids=np.concatenate([np.full(len(ids), client) for client, _, ids in rows]),
            role=np.concatenate([np.full(len(ids), role) for _, role, ids in rows]),
        )

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
            raise RunError(
                f"{path}: can't be written ({error.strerror or error}); the lines before are unchanged"
            ) from error

    def write_failure(self, failure: Failure) -> Path:
        """Writes a client's traceback to a file of its own and returns its path."""
        path = (
            self.path
            / "failures"
            / f"round_{failure.round:04d}_client_{failure.client:05d}_{failure.stage}.txt"
        )
        path.parent.mkdir(exist_ok=True)
        write_text(
            path,
            f"round {failure.round}, client {failure.client}, {failure.stage}\n\n{failure.details.rstrip()}\n",
        )
        return path

    def write_round_checkpoint(self, snapshot: Snapshot) -> None:
        """Replaces the checkpoint of the last complete round."""
        from tardis_fl.runs.checkpoint import write_checkpoint

        write_checkpoint(self.path / ROUND_CHECKPOINT, snapshot, self._config)

    def write_epoch_checkpoint(self, snapshot: Snapshot) -> None:
        """Replaces the checkpoint of the last complete final epoch; that of the last round stays, for runs that go on with more rounds."""
        from tardis_fl.runs.checkpoint import write_checkpoint

        write_checkpoint(self.path / EPOCH_CHECKPOINT, snapshot, self._config)

    def write_exit_table(self, tables: Sequence[ExitTable]) -> None:
        """Writes the tables of several roles as one, with the role of each row."""
        import numpy as np

        self._write_arrays(
            "exit_table.npz",
            logits=np.concatenate([table.logits for table in tables], axis=1),
            labels=np.concatenate([table.labels for table in tables]),
            sample_ids=np.concatenate([table.sample_ids for table in tables]),
            client_ids=np.concatenate([table.client_ids for table in tables]),
            role=np.concatenate([np.full(len(table), table.role) for table in tables]),
        )

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


def _locked(path: Path) -> FileLock:
    """Takes a folder's lock, which ends with its process, however that ends; its file stays.

    Raises:
        ConfigError: Another process has it.
        RunError: It can't be locked.
    """
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{path}: another run is writing into it now. Wait until that one has ended, or choose another name (--name NAME) or folder (--output DIR)."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise RunError(
            f"{path}: can't lock this folder ({getattr(error, 'strerror', None) or error}); choose another with --output DIR"
        ) from None
    return lock


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
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return (
        found.stdout.strip() if tracked.returncode == 0 else None
    )  # installed inside somebody else's repository


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None
    )
