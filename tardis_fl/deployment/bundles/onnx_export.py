"""Segments as ONNX files, for runtimes without PyTorch, and their comparison with PyTorch."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tardis_fl.codecs.codec import transfer
from tardis_fl.core.atomic import write_bytes, write_json
from tardis_fl.deployment.bundles.artefacts import MANIFEST, Bundle, load_bundle, sha256
from tardis_fl.early_exit.network import Segment
from tardis_fl.early_exit.scoring.ensemble import ensemble_logits
from tardis_fl.errors import RunError

SCORE_TOLERANCE = 1e-4
"""Backends differ by about 1e-6; nearer to a threshold than this, a sample may take another
exit."""
FEATURE_TOLERANCE = 1e-4
EXAMPLE_BATCH = 2  # a batch of one would be taken for a constant


@dataclass(frozen=True)
class Agreement:
    """How ONNX Runtime's answers compare with PyTorch's.

    Attributes:
        num_samples: Samples that went through both.
        num_near_threshold: Of these, samples with a score within SCORE_TOLERANCE of a threshold
            that they reach, whose exit may differ.
        num_other_exit: Samples that took another exit; all are near a threshold.
        max_difference: Largest difference of a logit, over all exits.
    """

    num_samples: int
    num_near_threshold: int
    num_other_exit: int
    max_difference: float


def export_onnx(path: str | Path, factory: Callable[[], nn.Module] | None = None) -> list[Path]:
    """Writes segment_N.onnx beside each segment of a saved network, and their hashes into its manifest.

    Each takes `x` (batch, ...) and returns `features` and `logits`; the last one returns `logits`.
    The batch may have any size.

    Args:
        path: A folder of `save_bundle`.
        factory: As in `load_bundle`.

    Raises:
        RunError: The extra isn't installed, the folder doesn't say what input the network takes, or
            PyTorch can't export it.
        DataError: The folder isn't whole.
    """
    _need("onnx", "onnxscript")
    folder = Path(path)
    bundle = load_bundle(folder, factory, trust_functions=True)  # no policy is run here
    shape = bundle.manifest["input_shape"]
    if shape is None:
        raise RunError(
            f"{folder}: it doesn't say what input the network takes; save it with input_shape="
        )
    x = torch.randn(EXAMPLE_BATCH, *shape, generator=torch.Generator().manual_seed(0))
    paths, entries = [], []
    for number, segment in enumerate(bundle.network):
        last = number == len(bundle.network) - 1
        exported = _export(
            _Exportable(segment, last).eval(),
            x,
            ["logits"] if last else ["features", "logits"],
            number,
        )
        paths.append(folder / f"segment_{number}.onnx")
        write_bytes(paths[-1], exported)
        entries.append({"file": paths[-1].name, "sha256": sha256(exported)})
        with torch.no_grad():
            x = segment.body(x)
    write_json(folder / MANIFEST, {**bundle.manifest, "onnx": entries})
    return paths


def compare_onnx(
    path: str | Path,
    images: Tensor,
    factory: Callable[[], nn.Module] | None = None,
    *,
    trust_functions: bool = False,
) -> Agreement:
    """Sends samples through a saved network in PyTorch and in ONNX Runtime and compares the decisions.

    Args:
        path: A folder that `export_onnx` wrote to.
        images: (B, ...).
        factory, trust_functions: As in `load_bundle`.

    Raises:
        RunError: The extra isn't installed, the ONNX files aren't there or not those of the
            manifest, or a sample that is not near a threshold takes another exit, or a segment
            hands on other features.
    """
    runtime = _need("onnxruntime")
    folder = Path(path)
    bundle = load_bundle(folder, factory, trust_functions=trust_functions)
    sessions = [_Session(runtime, folder, entry) for entry in _onnx_entries(folder, bundle)]
    expected, got = _logits_of_both(folder, bundle, sessions, images)
    tables = [_scores(bundle, logits) for logits in (expected, got)]
    choices = [
        bundle.rule.thresholds,
        *([bundle.rule.mixed[0]] if bundle.rule.mixed else []),
    ]  # a sample may be decided by either
    near, other = (
        np.logical_or.reduce(found)
        for found in zip(
            *(_near_and_other(tables, np.asarray(choice)[:, None]) for choice in choices),
            strict=True,
        )
    )
    difference = float((expected - got).abs().max())
    if (other & ~near).any():
        raise RunError(
            f"{folder}: {int((other & ~near).sum())} of {len(images)} samples take another exit in ONNX Runtime than in PyTorch, "
            f"with scores more than {SCORE_TOLERANCE:g} away from any threshold (largest difference of a logit: {difference:.3g})"
        )
    return Agreement(len(images), int(near.sum()), int(other.sum()), difference)


class _Exportable(nn.Module):
    """A segment without its features where nothing follows."""

    def __init__(self, segment: Segment, last: bool) -> None:
        super().__init__()
        self.segment = segment
        self.last = last

    def forward(self, x: Tensor) -> Any:
        features, logits = self.segment(x)
        return logits if self.last else (features, logits)


class _Session:
    """An ONNX segment that is called like a PyTorch one."""

    def __init__(self, runtime: ModuleType, folder: Path, entry: dict[str, str]) -> None:
        try:
            blob = (folder / Path(entry["file"]).name).read_bytes()
        except OSError as error:
            raise RunError(
                f"{folder}: {entry['file']} can't be read ({error.strerror}); export it again"
            ) from None
        if sha256(blob) != entry["sha256"]:
            raise RunError(
                f"{folder / entry['file']}: its content isn't what the manifest was written for; export it again"
            )
        self._session = runtime.InferenceSession(blob, providers=["CPUExecutionProvider"])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features and logits; of the last segment, logits twice."""
        outputs = [
            torch.from_numpy(values)
            for values in self._session.run(None, {"x": x.contiguous().numpy()})
        ]
        return outputs[0], outputs[-1]


def _onnx_entries(folder: Path, bundle: Bundle) -> list[dict[str, str]]:
    if "onnx" not in bundle.manifest:
        raise RunError(f"{folder}: there are no ONNX files; export them first")
    return bundle.manifest["onnx"]


def _export(module: nn.Module, x: Tensor, outputs: list[str], number: int) -> bytes:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                module,
                (x,),
                input_names=["x"],
                output_names=outputs,
                dynamo=True,
                dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except Exception as error:
        raise RunError(
            f"segment {number}: PyTorch can't export it to ONNX ({str(error).strip().splitlines()[0]})"
        ) from error
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto.SerializeToString()


def _logits_of_both(
    folder: Path, bundle: Bundle, sessions: list[_Session], images: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns PyTorch's logits and ONNX Runtime's, each (exits, B, classes), and checks that they hand on the same features.

    Every segment gets the same input on both sides, since a difference in the last bit can move a
    feature by a whole step of a lossy codec.
    """
    through, x, rows = transfer(bundle.rule.codec), images, []
    with torch.no_grad():
        for number, (segment, session) in enumerate(zip(bundle.network, sessions, strict=True)):
            x = through(x) if number else x
            their_features, their_logits = session(x)
            x, logits = segment(x)
            rows.append((logits, their_logits))
            if number < len(sessions) - 1 and not torch.allclose(
                x,
                their_features,
                rtol=FEATURE_TOLERANCE,
                atol=FEATURE_TOLERANCE * float(x.abs().max()),
            ):
                difference = float((x - their_features).abs().max())
                raise RunError(
                    f"{folder}: segment {number} hands on other features in ONNX Runtime than in PyTorch; they differ by up to {difference:.3g}"
                )
    return torch.stack([logits for logits, _ in rows]), torch.stack([logits for _, logits in rows])


def _scores(bundle: Bundle, logits: Tensor) -> npt.NDArray[np.float64]:
    rule = bundle.rule
    if rule.ensemble:
        logits = ensemble_logits(logits)
    return rule.scoring.scores(logits)


def _near_and_other(
    tables: list[npt.NDArray[np.float64]], thresholds: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Returns which samples (B,) come near a threshold (exits - 1, 1) before they leave, and which leave elsewhere by the other side's scores."""
    always = np.ones((1, tables[0].shape[1]), dtype=bool)
    exits = [np.concatenate([scores >= thresholds, always]).argmax(axis=0) for scores in tables]
    reached = np.arange(len(thresholds))[:, None] <= np.minimum(*exits)
    return ((np.abs(tables[0] - thresholds) <= SCORE_TOLERANCE) & reached).any(axis=0), exits[
        0
    ] != exits[1]


def _need(*names: str) -> ModuleType:
    """Imports the extra's packages; returns the first."""
    try:
        modules = [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise RunError(
            f"ONNX needs packages that aren't installed ({error.name}): pip install 'tardis_fl[onnx]'"
        ) from None
    return modules[0]
