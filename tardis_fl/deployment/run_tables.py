"""What a deployment is chosen from and measured on: exit tables of the three roles, and the bytes each sample would send."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.codecs.metering import Meter
from tardis_fl.codecs.names import has_fixed_size
from tardis_fl.core.atomic import write_bytes
from tardis_fl.data.images import Dataset
from tardis_fl.deployment.exit_tables import read_exit_table
from tardis_fl.deployment.png import png_bytes
from tardis_fl.early_exit.evaluation import (
    CalibrationTable,
    FitTable,
    TestTable,
    evaluate_batches,
    exit_logits,
)
from tardis_fl.early_exit.network import Segment
from tardis_fl.errors import ConfigError, DataError

CROSSINGS = "crossings.npz"


@dataclass(frozen=True)
class Passed:
    """What samples give that pass through all segments, with a codec between them.

    Attributes:
        logits: (exits, N, classes) float32.
        bytes: (boundaries, N) int64 that each sample's features take on the wire.
    """

    logits: npt.NDArray[np.float32]
    bytes: npt.NDArray[np.int64]


def pass_all(
    segments: list[Segment], inputs: Callable[[slice], Tensor], count: int, codec: str
) -> Passed:
    """Sends samples through all segments; deeper ones see features as they arrive.

    Args:
        segments: Left in evaluation mode.
        inputs: Gives the images (B, C, H, W) for a range of samples.
        count: Number of samples.
        codec: Of the features.
    """
    meter = Meter([codec])
    batches = evaluate_batches(segments, inputs, count, transfer=meter)
    logits = torch.cat([rows for rows, _ in batches], dim=1).cpu().numpy()
    return Passed(logits, meter.crossing_bytes(codec, len(segments) - 1))


def inputs_of(dataset: Dataset, images: npt.NDArray[np.uint8]) -> Callable[[slice], Tensor]:
    """Returns what gives a range of images (N, H, W, C) as normalised tensors (B, C, H, W)."""
    return lambda rows: dataset.normalisation(torch.from_numpy(images[rows]))


@dataclass(frozen=True)
class RunTables:
    """All that thresholds are chosen from and the deployment is measured on, without the network.

    Attributes:
        codec: That the tables' features went through.
        fit: For temperatures and learned scores; None where clients sent sums only.
        calibrate: For thresholds and certificates; None where clients sent sums only.
        test: For the report.
        raw_image: The test samples where the picture itself travels, so that nothing is quantised.
        calibrate_bytes: (boundaries, N) that each calibrate sample's features take on the wire; as
            `test_bytes` where there is no such table.
        test_bytes: The same of the test samples.
        png_bytes: (N,) of each test picture as PNG.
    """

    codec: str
    fit: FitTable | None
    calibrate: CalibrationTable | None
    test: TestTable
    raw_image: TestTable
    calibrate_bytes: npt.NDArray[np.int64]
    test_bytes: npt.NDArray[np.int64]
    png_bytes: npt.NDArray[np.int64]

    def ensembled(self) -> Self:
        """Returns the tables where every exit answers by the geometric mean of itself and the shallower ones."""
        return replace(
            self,
            test=self.test.ensembled(),
            raw_image=self.raw_image.ensembled(),
            fit=self.fit.ensembled() if self.fit is not None else None,
            calibrate=self.calibrate.ensembled() if self.calibrate is not None else None,
        )

    @classmethod
    def gather(
        cls,
        segments: list[Segment],
        dataset: Dataset,
        codec: str,
        *,
        fit: FitTable | None,
        calibrate: CalibrationTable | None,
    ) -> Self:
        """Sends the test pictures through a trained network.

        Args:
            segments: Left in evaluation mode.
            dataset: Its test split, and for a codec that compresses the training split, of which
                the calibrate role is a part.
            codec: That the tables of the other roles went through too.
            fit, calibrate: As in the class.
        """
        test, count = (
            pass_all(segments, inputs_of(dataset, dataset.test.images), len(dataset.test), codec),
            len(dataset.test),
        )
        labels = np.asarray(dataset.test.labels)
        columns = labels, len(dataset.train) + np.arange(count), np.full(count, -1)
        raw_image = exit_logits(segments, inputs_of(dataset, dataset.test.images), count)
        calibrate_bytes = test.bytes
        if calibrate is not None and not has_fixed_size(codec):
            calibrate_bytes = pass_all(
                segments,
                inputs_of(dataset, dataset.train.images[calibrate.sample_ids]),
                len(calibrate),
                codec,
            ).bytes
        return cls(
            codec,
            fit,
            calibrate,
            TestTable(test.logits, *columns),
            TestTable(raw_image, *columns),
            calibrate_bytes,
            test.bytes,
            png_bytes(dataset.test.images),
        )

    def through(self, segments: list[Segment], dataset: Dataset, codec: str) -> Self:
        """Returns the tables of the same samples with another codec between the segments.

        Raises:
            ConfigError: The data set holds other test pictures.
        """
        self.check_same(dataset)
        test = pass_all(segments, inputs_of(dataset, dataset.test.images), len(self.test), codec)
        held_out = {
            table.role: pass_all(
                segments,
                inputs_of(dataset, dataset.train.images[table.sample_ids]),
                len(table),
                codec,
            )
            for table in (self.fit, self.calibrate)
            if table is not None
        }
        return replace(
            self,
            codec=codec,
            test=replace(self.test, logits=test.logits),
            test_bytes=test.bytes,
            calibrate_bytes=held_out.get("calibrate", test).bytes,
            fit=replace(self.fit, logits=held_out["fit"].logits) if self.fit is not None else None,
            calibrate=replace(self.calibrate, logits=held_out["calibrate"].logits)
            if self.calibrate is not None
            else None,
        )

    def check_same(self, dataset: Dataset) -> None:
        """Refuses a data set whose test pictures have other labels.

        Raises:
            ConfigError: They have.
        """
        if not np.array_equal(np.asarray(dataset.test.labels), self.test.labels):
            raise ConfigError(
                "data.root: these are other test pictures than those of the run; wanted the same data set"
            )

    @property
    def exit_tables(self) -> list[FitTable | CalibrationTable | TestTable]:
        """The tables that there are, as they go into `exit_table.npz`."""
        return [table for table in (self.fit, self.calibrate, self.test) if table is not None]

    def save_crossings(self, folder: Path) -> None:
        """Writes what `exit_table.npz` doesn't hold, so that `read` can put all together again."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            codec=np.array(self.codec),
            raw_image_logits=self.raw_image.logits,
            calibrate_bytes=self.calibrate_bytes.astype(np.int32),
            test_bytes=self.test_bytes.astype(np.int32),
            png_bytes=self.png_bytes.astype(np.int32),
        )
        write_bytes(folder / CROSSINGS, buffer.getvalue())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the tables of a finished run.

        Raises:
            DataError: The run's tables are missing, damaged, or don't belong together.
        """
        tables = read_exit_table(folder / "exit_table.npz")
        if "test" not in tables:
            raise DataError(
                f"{folder / 'exit_table.npz'}: holds the roles {', '.join(sorted(tables))}; wanted test among them"
            )
        path = folder / CROSSINGS
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {
                    name: file[name]
                    for name in (
                        "codec",
                        "raw_image_logits",
                        "calibrate_bytes",
                        "test_bytes",
                        "png_bytes",
                    )
                }
        except FileNotFoundError:
            raise DataError(
                f"{path}: is missing; the run was made by an earlier version, so run simulate again"
            ) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: can't be read ({error}); restore the file, or run simulate again"
            ) from None
        test = tables["test"]
        if (
            arrays["test_bytes"].shape != (test.num_exits - 1, len(test))
            or arrays["raw_image_logits"].shape != test.logits.shape
        ):
            raise DataError(
                f"{path}: its rows aren't those of exit_table.npz; restore both files from the same run"
            )
        return cls(
            str(arrays["codec"]),
            tables.get("fit"),
            tables.get("calibrate"),
            test,
            replace(test, logits=arrays["raw_image_logits"]),
            arrays["calibrate_bytes"].astype(np.int64),
            arrays["test_bytes"].astype(np.int64),
            arrays["png_bytes"].astype(np.int64),
        )
