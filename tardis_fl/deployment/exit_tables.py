"""Exit tables as they come from a file, and whether the roles of several fit together."""

from __future__ import annotations

import zipfile
from itertools import combinations
from pathlib import Path

import numpy as np

from tardis_fl.early_exit.evaluation import CalibrationTable, ExitTable, FitTable, TestTable
from tardis_fl.errors import DataError

ROLES: dict[str, type[ExitTable]] = {
    kind.role: kind for kind in (FitTable, CalibrationTable, TestTable)
}
KEYS = ("logits", "labels", "sample_ids", "client_ids", "role")


def check_roles(*tables: ExitTable) -> None:
    """Checks that tables of several roles share no samples and come from one network.

    Raises:
        DataError: Sample ids of two roles overlap, an id occurs twice within a role, or exits or
            classes differ.
    """
    for table in tables:
        twice = len(table) - len(np.unique(table.sample_ids))
        if twice:
            raise DataError(
                f"the role {table.role!r} holds {twice} of its {len(table)} samples twice; wanted each sample id once"
            )
    for one, other in combinations(tables, 2):
        both = len(np.intersect1d(one.sample_ids, other.sample_ids))
        if both:
            raise DataError(
                f"the roles {one.role!r} and {other.role!r} share {both} samples; wanted none: what is chosen or promised on one must be tried on others"
            )
        for what, axis in (("exits", 0), ("classes", 2)):
            sizes = one.logits.shape[axis], other.logits.shape[axis]
            if sizes[0] != sizes[1]:
                raise DataError(
                    f"the role {one.role!r} has {sizes[0]} {what}, {other.role!r} has {sizes[1]}; wanted tables of one network"
                )


def read_exit_table(path: Path) -> dict[str, ExitTable]:
    """Reads the exit tables of a run by role, as `RunFolder.write_exit_table` left them.

    Raises:
        DataError: The file is missing or damaged, an array is missing or has another number of
            rows, a role is unknown or logits are not finite; or the roles don't fit together (see
            `check_roles`).
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; wanted a run's exit_table.npz") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read as an exit table ({error})") from None
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise DataError(
            f"{path}: got the arrays {', '.join(arrays) or 'none'}; {', '.join(missing)} is missing"
        )
    logits, columns = arrays["logits"], {key: arrays[key] for key in KEYS[1:]}
    if logits.ndim != 3 or not np.issubdtype(logits.dtype, np.floating):
        raise DataError(
            f"{path}: logits are {logits.dtype} of the shape {logits.shape}; wanted floats (exits, samples, classes)"
        )
    lengths = {
        "logits": logits.shape[1],
        **{key: array.shape for key, array in columns.items() if array.shape != (logits.shape[1],)},
    }
    if len(lengths) > 1:
        raise DataError(
            f"{path}: rows don't match: {', '.join(f'{key} {length}' for key, length in lengths.items())}; wanted one row a sample in each"
        )
    unknown = sorted(set(columns["role"].astype(str).tolist()) - set(ROLES))
    if unknown:
        raise DataError(
            f"{path}: got the role {', '.join(map(repr, unknown))}; wanted {', '.join(ROLES)}"
        )
    broken = int((~np.isfinite(logits)).any(axis=(0, 2)).sum())
    if broken:
        raise DataError(
            f"{path}: the logits of {broken} of {logits.shape[1]} samples hold NaN or infinity"
        )
    wrong = [key for key in KEYS[1:-1] if not np.issubdtype(columns[key].dtype, np.integer)]
    if wrong:
        raise DataError(
            f"{path}: {', '.join(wrong)}: got {columns[wrong[0]].dtype}; wanted integers"
        )
    tables = {}
    for role, kind in ROLES.items():
        rows = columns["role"].astype(str) == role
        if rows.any():
            tables[role] = kind(
                logits[:, rows].astype(np.float32),
                *(columns[key][rows].astype(np.int64) for key in KEYS[1:-1]),
            )
    check_roles(*tables.values())
    return tables
