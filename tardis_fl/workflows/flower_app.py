"""The main job as a Flower app: `flwr run .`, or the command `federate`.

The ServerApp does the whole main job on the SuperLink's machine, where the run's folder comes to
lie; the ClientApp is `tardis_fl.federation.client.app:app`. Both are named in pyproject.toml, with
the keys of the run config.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from tardis_fl.config import load_config
from tardis_fl.core.atomic import write_json
from tardis_fl.errors import ConfigError, RunError, TardisError

PROCESS, OUTCOME, SCREEN = "process.json", "outcome.json", "screen.txt"

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains over the nodes of the grid, deploys and reports.

    Keys of the run config: `config`, a YAML's path in the app or on this machine; `set`, overrides
        as KEY=VALUE, separated by blanks as in a shell; `output`, the run's folder; `resume`;
        `follow`, a folder for whoever started this and looks on.
    """
    values = {
        key: context.run_config[key] for key in ("config", "set", "output", "resume", "follow")
    }
    follow = Path(str(values["follow"])) if values["follow"] else None
    if follow is not None:
        write_json(follow / PROCESS, {"pid": os.getpid()})
    try:
        _run(
            grid,
            str(values["config"]),
            shlex.split(str(values["set"])),
            str(values["output"]),
            resume=bool(values["resume"]),
            follow=follow,
        )
    except Exception as error:
        if follow is not None:
            write_json(follow / OUTCOME, _outcome_of(error))
        raise
    if follow is not None:
        write_json(follow / OUTCOME, {"exit_code": 0, "message": ""})


def _outcome_of(error: Exception) -> dict[str, object]:
    """Returns what the command `federate` raises again; call it while the error is handled."""
    if isinstance(error, TardisError):
        return {"exit_code": error.exit_code, "message": str(error)}
    message = f"the server failed:\n{traceback.format_exc()}"
    return {"exit_code": RunError.exit_code, "message": message}


def _run(
    grid: Grid,
    config_path: str,
    overrides: list[str],
    output: str,
    *,
    resume: bool,
    follow: Path | None,
) -> None:
    from rich.console import Console

    from tardis_fl.report.terminal import MIN_COLUMNS, Screen
    from tardis_fl.workflows.experiment import simulate

    found = find_config(config_path)
    config = load_config(found, [*overrides, "runtime.engine=deployment"])
    with ExitStack() as stack:
        file = (
            stack.enter_context(open(follow / SCREEN, "a", buffering=1))
            if follow is not None
            else sys.stdout
        )
        screen = Screen(Console(file=file, highlight=False, width=MIN_COLUMNS))
        if not Path(config_path).is_absolute():
            screen.on_notice(f"the configuration is {found}")
        simulate(
            config,
            Path(output) if output else Path("runs") / config.name,
            screen,
            resume=resume,
            grid=grid,
        )


def find_config(path: str) -> Path:
    """Returns where a configuration lies.

    Either in the app that was submitted, which Flower has unpacked here, or in this process's
    working folder.

    Raises:
        ConfigError: There is no such file.
    """
    # Flower puts the app's folder first.
    apps = (
        Path(place) for place in sys.path if place and (Path(place) / "pyproject.toml").is_file()
    )
    app = next(apps, None)
    places = [folder / path for folder in (app, Path.cwd()) if folder is not None]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(
            f"run config `config`: got {path!r}, no file in the app or on this machine "
            f"(in {Path.cwd()}); wanted a YAML's path"
        )
    return found
