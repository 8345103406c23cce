"""The configurations that come with the package, by name: `quickstart` for quickstart.yaml."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# An installed package has them beside its modules, a checkout at its root.
FOLDERS = (PACKAGE / "shipped_configs", PACKAGE.parent / "configs")


def shipped_configs() -> dict[str, Path]:
    """Returns the path of each shipped configuration by name."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_config(path: str | Path) -> Path:
    """Returns a path as it is where a file is there, or that of the shipped configuration named so.

    Args:
        path: Of a YAML file, or the name of a shipped configuration.
    """
    return Path(path) if Path(path).is_file() else shipped_configs().get(str(path), Path(path))
