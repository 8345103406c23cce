"""The two sides: a work tree of another commit with a cache of its results, and this checkout."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parents[2]
# A new number makes all cached results void: after a change of what a case means or what is kept.
FORMAT = 1
LIBRARIES = ("torch", "flwr", "numpy", "scipy", "zstandard", "pillow")
UNUSED_BY_COMPARISON = ("*.html", "*.md", "checkpoint", "__pycache__")


class UnknownCommitError(Exception):
    """A name that git doesn't know."""


def commit_of(ref: str) -> str:
    """Returns the hash of a commit.

    Raises:
        UnknownCommitError: Says what git says.
    """
    asked = git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
    if asked.returncode:
        raise UnknownCommitError(
            f"REF: got {ref!r}; wanted a commit, tag or branch of the repository {HERE}"
        )
    return asked.stdout.strip()


def git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs git in this checkout."""
    return subprocess.run(
        ["git", "-C", str(HERE), *arguments], check=check, capture_output=True, text=True
    )


@contextmanager
def work_tree(commit: str) -> Iterator[Path]:
    """Makes a work tree of a commit, and removes it whatever happens."""
    parent = Path(tempfile.mkdtemp(prefix="tardis_fl_same_results_"))
    tree = parent / commit[:12]
    try:
        git("worktree", "add", "--detach", str(tree), commit)
        yield tree
    finally:
        git("worktree", "remove", "--force", str(tree), check=False)
        shutil.rmtree(parent, ignore_errors=True)
        git("worktree", "prune", check=False)


def machine() -> str:
    """Returns what results depend on beside the code: the processor and versions of libraries."""
    versions = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    return "\n".join([platform.python_version(), platform.machine(), _processor(), *versions])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


@dataclass(frozen=True)
class Cache:
    """Results of one commit, kept under the system's temporary folder.

    Attributes:
        folder: Holds one folder a case.
    """

    folder: Path

    @classmethod
    def of(cls, commit: str) -> Cache:
        """Returns the cache of a commit; users don't share one."""
        top = Path(tempfile.gettempdir()) / f"tardis_fl_same_results_cache_{os.getuid()}"
        return cls(top / commit)

    def path(self, description: str) -> Path:
        """Returns where the results of a case are, or would be.

        Args:
            description: Everything that the results follow from, beside the commit and `machine`.
        """
        key = f"{FORMAT}\n{machine()}\n{description}".encode()
        return self.folder / hashlib.sha256(key).hexdigest()[:24]

    def keep(self, folder: Path, description: str) -> None:
        """Copies a case's results into the cache; whoever is first wins."""
        self.folder.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(dir=self.folder, prefix="new_"))
        unused = shutil.ignore_patterns(*UNUSED_BY_COMPARISON)
        shutil.copytree(folder, copy, ignore=unused, dirs_exist_ok=True)
        try:
            copy.rename(self.path(description))
        except OSError:  # another process was faster
            shutil.rmtree(copy)
