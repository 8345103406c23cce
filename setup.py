"""Puts the shipped configurations into the wheel; everything else is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = "configs"
SHIPPED = Path("tardis_fl") / "shipped_configs"  # as tardis_fl.config.shipped looks for them


class BuildWithConfigs(build_py):
    """Copies configs/*.yaml beside the modules, so that `tardis-fl simulate quickstart` works."""

    def run(self) -> None:
        """Builds the modules, then copies; an editable install reads the checkout's own files."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / SHIPPED
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(Path(CONFIGS).glob("*.yaml")):
            self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": BuildWithConfigs})
