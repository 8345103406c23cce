"""Commands that turn saved models into other forms: export-onnx, import-seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tardis_fl.cli.options import errors_for_people

app = typer.Typer()


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
            help="Random images on which to compare the decisions of ONNX Runtime and PyTorch.",
        ),
    ] = 256,
    factory: Annotated[
        str | None,
        typer.Option(
            "--factory",
            metavar="MODULE:FUNCTION",
            help="Function that builds the model, where it is a converted one.",
        ),
    ] = None,
    trust_functions: Annotated[
        bool,
        typer.Option(
            "--trust-functions",
            help="Import and run the model's policy where that is a function of a user's.",
        ),
    ] = False,
) -> None:
    """Write each segment of a saved model as ONNX, and check that its decisions are the same."""
    with errors_for_people():
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
        same = found.num_samples - found.num_other_exit
        print(
            f"{found.num_samples} random images: {same} leave at the same exit in ONNX Runtime and "
            f"PyTorch ({found.num_near_threshold} lie at a threshold); largest difference of a "
            f"logit {found.max_difference:.1g}"
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
    with errors_for_people():
        from tardis_fl.deployment.bundles.artefacts import save_bundle
        from tardis_fl.deployment.bundles.seed_models import import_seed_models

        network, thresholds = import_seed_models(files, trust_pickle=trust_pickle)
        save_bundle(output, network, thresholds)
        print(
            f"{output}: {len(network)} segments; load it with load_bundle({str(output)!r}, "
            "factory=...), whose factory builds an EarlyExitNetwork of these layers"
        )
