"""Commands.

PyTorch and everything else heavy is imported inside them, so that help answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from tardis_fl.errors import ConfigError, RunError, TardisError

Engine = Literal["inline", "ray", "deployment"]
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
WIDE_TABLE = 180  # columns, for output that goes to a file

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated training and tiered deployment of early-exit networks.",
)
simulate_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
cache_app = typer.Typer(no_args_is_help=True, help="Decoded images kept on this machine.")
app.add_typer(cache_app, name="cache")

ConfigPath = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="YAML file, such as configs/quickstart.yaml.", show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, such as federation.rounds=3; repeatable.",
    ),
]


@contextmanager
def _errors_for_people() -> Iterator[None]:
    try:
        yield
    except TardisError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


@contextmanager
def _stoppable(folder: Path, goes_on: str) -> Iterator[None]:
    """Turns Ctrl-C into a line that says where what was complete is and how it goes on, and an exit code of its own."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            f"; what was complete is in {folder}, and {goes_on} goes on with it"
            if folder.exists()
            else ""
        )
        print(f"\nstopped{kept}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@app.command()
@simulate_app.command()
def simulate(
    config_path: ConfigPath,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder for this run.", show_default="runs/NAME"
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Name of the run, instead of the configuration's."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the interrupted run in this folder, after its last complete round.",
        ),
    ] = False,
) -> None:
    """Train an early-exit network across clients and measure its deployment."""
    from tardis_fl.config import load_config

    with _errors_for_people():
        config = load_config(
            config_path,
            [*(overrides or []), *([f"name={json.dumps(name)}"] if name is not None else [])],
        )
        folder = output or Path("runs") / config.name
        with _stoppable(folder, "--resume"):
            from tardis_fl.report.terminal import Screen
            from tardis_fl.workflows.experiment import simulate as run

            run(config, folder, Screen(), resume=resume)


@app.command()
def federate(
    config_path: ConfigPath,
    overrides: Overrides = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            "--engine",
            help="Where the apps run: inline, ray or deployment.",
            show_default="the configuration's",
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes",
            min=1,
            help="SuperNodes (engine deployment).",
            show_default="one for each client",
        ),
    ] = None,
    secure: Annotated[
        bool,
        typer.Option(
            "--secure",
            help="Use TLS and node authentication, with a CA and keys made for this run.",
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="Port of the SuperLink.", show_default="a free one"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder for this run.", show_default="runs/NAME"
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Name of the run, instead of the configuration's."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the interrupted run in this folder, after its last complete round.",
        ),
    ] = False,
) -> None:
    """Do the main job on any engine; with the engine deployment on a SuperLink and SuperNodes that are started for it."""
    from tardis_fl.config import load_config

    with _errors_for_people():
        settings = [
            *(overrides or []),
            *([f"name={json.dumps(name)}"] if name is not None else []),
            *([f"runtime.engine={engine}"] if engine else []),
        ]
        config = load_config(config_path, settings)
        folder = output or Path("runs") / config.name
        real = config.runtime.engine == "deployment"
        given = [
            option
            for option, value in (("--nodes", nodes), ("--secure", secure), ("--port", port))
            if value
        ]
        if given and not real:
            raise ConfigError(
                f"{given[0]}: has no effect on the engine {config.runtime.engine}; wanted --engine deployment, or leave it out"
            )
        with _stoppable(folder, "--resume"):
            if real:
                from tardis_fl.workflows.federate import federate as run_nodes

                run_nodes(config, folder, num_nodes=nodes, secure=secure, port=port, resume=resume)
            else:
                from tardis_fl.report.terminal import Screen
                from tardis_fl.workflows.experiment import simulate as run

                run(config, folder, Screen(), resume=resume)


@app.command()
def sweep(
    config_path: ConfigPath,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=V1,V2,...",
            help="Values of a key, such as data.partition.alpha=0.1,1.0; repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            min=1,
            help="Repeats of each point: the configuration's seed and those that follow it.",
        ),
    ] = 3,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder for all runs.", show_default="runs/NAME-sweep"
        ),
    ] = None,
) -> None:
    """Run every combination of values over several seeds, and compare them; what is finished isn't run again."""
    with _errors_for_people():
        from tardis_fl.workflows.sweep.grid import plan_sweep

        grid = plan_sweep(config_path, settings or [], num_seeds=seeds)
        folder = output or Path("runs") / f"{grid.name}-sweep"
        with _stoppable(folder, "the same command"):
            from rich.console import Console

            from tardis_fl.workflows.sweep.runs import run_sweep

            console = Console(highlight=False)
            failed = run_sweep(
                grid,
                folder,
                console if console.is_terminal else Console(highlight=False, width=WIDE_TABLE),
            ).failed
        if failed:
            raise RunError(
                f"{len(failed)} of {len(grid.points) * seeds} runs failed; the others are in {folder / 'sweep.md'}"
            )


@app.command()
def baselines(
    config_path: ConfigPath,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder of the run.", show_default="runs/NAME"
        ),
    ] = None,
    clients: Annotated[
        int,
        typer.Option(
            "--clients",
            min=1,
            help="Clients that train alone, drawn by the seed; all where there are fewer.",
        ),
    ] = 10,
) -> None:
    """Train the same data and budget otherwise (centralised, each client alone, FedAvg, device only), into the run's report."""
    from tardis_fl.config import load_config

    with _errors_for_people():
        config = load_config(config_path, overrides or [])
        folder = output or Path("runs") / config.name
        with _stoppable(folder, "the same command"):
            from tardis_fl.report.terminal import Screen
            from tardis_fl.workflows.reference_trainings.command import add_reference_rows

            add_reference_rows(config, folder, Screen(), num_clients=clients)


RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of a finished run, such as runs/quickstart.", show_default=False
    ),
]
DeploymentOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the deployment, such as deployment.policy=margin; repeatable.",
    ),
]


@app.command()
def deploy(
    run: RunPath,
    overrides: DeploymentOverrides = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Of the folder under RUN/deployments.",
            show_default="the next number",
        ),
    ] = None,
) -> None:
    """Deploy a finished run again, with another policy, target, codec, hardware, load or faults; without training."""
    with _errors_for_people():
        from tardis_fl.report.terminal import Screen
        from tardis_fl.workflows.redeploy import redeploy

        redeploy(run, overrides or [], Screen(), name=name)


@app.command()
def frontier(
    run: RunPath,
    overrides: DeploymentOverrides = None,
    axis: Annotated[
        str,
        typer.Option(
            "--axis", help="The cost to show: offload_rate, bytes, macs, latency_ms or energy_mj."
        ),
    ] = "offload_rate",
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Of the folder under RUN/frontiers.",
            show_default="the next number",
        ),
    ] = None,
) -> None:
    """Find the exact frontier of accuracy against every cost of a finished run, over the thresholds of all exits."""
    with _errors_for_people():
        from tardis_fl.report.terminal import Screen
        from tardis_fl.workflows.frontier import write_frontier

        write_frontier(run, overrides or [], Screen(), axis=axis, name=name)


@app.command()
def validate(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Check a configuration and report everything that is wrong with it."""
    from tardis_fl.config import load_config

    with _errors_for_people():
        config = load_config(config_path, overrides or [])
        print(
            f"{config_path}: valid ({config.name}: {config.federation.num_clients} clients, {config.federation.rounds} rounds, {len(config.tiers)} tiers)"
        )


@app.command()
def describe(
    config_path: ConfigPath,
    overrides: Overrides = None,
    cuts: Annotated[
        bool,
        typer.Option(
            "--cuts",
            help="List every place where model.cuts may cut the backbone, with what crosses there.",
        ),
    ] = False,
) -> None:
    """Show what the configured network costs: parameters, multiply-accumulates and bytes, a segment at a time."""
    from tardis_fl.config import load_config

    with _errors_for_people():
        config = load_config(config_path, overrides or [])
        from tardis_fl.workflows.describe import describe as show

        show(config, cuts=cuts)


@app.command("export-onnx")
def export_onnx(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a saved model, such as runs/NAME/model.",
            show_default=False,
        ),
    ],
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            min=1,
            help="Random images to compare the decisions of ONNX Runtime and PyTorch on.",
        ),
    ] = 256,
    factory: Annotated[
        str | None,
        typer.Option(
            "--factory",
            metavar="MODULE:FUNCTION",
            help="Builds the model, where it is a converted one.",
        ),
    ] = None,
    trust_functions: Annotated[
        bool,
        typer.Option(
            "--trust-functions",
            help="Import and run a policy of the model that is somebody's function.",
        ),
    ] = False,
) -> None:
    """Write each segment of a saved model as ONNX, and check that ONNX Runtime decides like PyTorch."""
    with _errors_for_people():
        import torch

        from tardis_fl.core.importing import import_callable
        from tardis_fl.deployment.bundles.artefacts import read_manifest
        from tardis_fl.deployment.bundles.onnx_export import compare_onnx
        from tardis_fl.deployment.bundles.onnx_export import export_onnx as export

        build = import_callable(factory, "--factory") if factory else None
        for path in export(folder, build):
            print(path)
        images = torch.randn(
            samples,
            *read_manifest(folder)["input_shape"],
            generator=torch.Generator().manual_seed(0),
        )
        found = compare_onnx(folder, images, build, trust_functions=trust_functions)
        print(
            f"{found.num_samples} random images: {found.num_samples - found.num_other_exit} leave at the same exit in ONNX Runtime and PyTorch "
            f"({found.num_near_threshold} lie at a threshold); largest difference of a logit {found.max_difference:.1g}"
        )


@app.command("import-seed")
def import_seed(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL_0 MODEL_1 ...",
            help="Files of TARDIS Early Exit, in order.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", metavar="DIR", help="Folder for the saved model.", show_default=False
        ),
    ],
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Open these pickles, which can run any code.")
    ] = False,
) -> None:
    """Turn models that TARDIS Early Exit saved with torch.save into a folder without pickle."""
    with _errors_for_people():
        from tardis_fl.deployment.bundles.artefacts import save_bundle
        from tardis_fl.deployment.bundles.seed_models import import_seed_models

        network, thresholds = import_seed_models(files, trust_pickle=trust_pickle)
        save_bundle(output, network, thresholds)
        print(
            f"{output}: {len(network)} segments; load it with load_bundle({str(output)!r}, factory=...), whose factory builds an EarlyExitNetwork of these layers"
        )


@app.command()
def schema() -> None:
    """Print the configuration's JSON schema, for editors."""
    from tardis_fl.config import Config

    print(json.dumps(Config.model_json_schema(), indent=2))


CacheFolder = Annotated[
    str | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="The folder, where runtime.cache_dir names another than the user's.",
        show_default=False,
    ),
]


@cache_app.command("show")
def cache_show(folder_name: CacheFolder = None) -> None:
    """List what the cache holds."""
    from tardis_fl.data.cache import cache_folder, entries
    from tardis_fl.report.text import bytes_text

    folder = Path(folder_name) if folder_name else cache_folder()
    found = entries(folder)
    for path, size in found:
        print(f"{bytes_text(size):>10}  {path.name}")
    print(f"{len(found)} entries, {bytes_text(sum(size for _, size in found))} in {folder}")


@cache_app.command("clear")
def cache_clear(folder_name: CacheFolder = None) -> None:
    """Remove everything the cache holds; it is made again when needed."""
    from tardis_fl.data.cache import cache_folder, clear
    from tardis_fl.report.text import bytes_text

    folder = Path(folder_name) if folder_name else cache_folder()
    count, size = clear(folder)
    print(f"removed {count} entries, {bytes_text(size)}, from {folder}")
