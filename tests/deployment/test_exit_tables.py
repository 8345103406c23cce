"""Exit tables from files, and roles that must not overlap."""

from __future__ import annotations

import numpy as np
import pytest

from tardis_fl.deployment.exit_tables import check_roles, read_exit_table
from tardis_fl.early_exit.evaluation import CalibrationTable, FitTable, TestTable
from tardis_fl.errors import DataError
from tardis_fl.runs.folder import RunFolder
from tests.conftest import small_config
from tests.deployment.made_tables import random_case, table_of


def three_roles():
    return [
        table_of(random_case(k, 10 + k)[0], kind, first_id=100 * k)
        for k, kind in enumerate((FitTable, CalibrationTable, TestTable))
    ]


@pytest.fixture
def written(tmp_path):
    """The path of an exit table as a run writes it, and its arrays."""
    RunFolder(tmp_path / "run", small_config()).write_exit_table(three_roles())
    path = tmp_path / "run" / "exit_table.npz"
    with np.load(path) as file:
        return path, dict(file)


def test_what_a_run_writes_is_read_again(written):
    read = read_exit_table(written[0])
    assert list(read) == ["fit", "calibrate", "test"]
    for table in three_roles():
        again = read[table.role]
        assert type(again) is type(table)
        for name in ("logits", "labels", "sample_ids", "client_ids"):
            assert (getattr(again, name) == getattr(table, name)).all() and getattr(
                again, name
            ).dtype == getattr(table, name).dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("client_ids"), "client_ids is missing"),
        (
            lambda a: a.update(labels=a["labels"][:-1]),
            r"rows don't match: logits 33, labels \(32,\); wanted one row a sample in each",
        ),
        (
            lambda a: a.update(role=np.where(a["role"] == "fit", "train", a["role"])),
            "got the role 'train'; wanted fit, calibrate, test",
        ),
        (
            lambda a: a["logits"].__setitem__((1, slice(2), 0), np.nan),
            "the logits of 2 of 33 samples hold NaN or infinity",
        ),
        (lambda a: a.update(labels=a["labels"] + 0.5), "labels: got float64; wanted integers"),
        (lambda a: a.update(logits=a["logits"][0]), r"wanted floats \(exits, samples, classes\)"),
        (
            lambda a: a["sample_ids"].__setitem__(0, 100),
            "the roles 'fit' and 'calibrate' share 1 samples; wanted none",
        ),
    ],
)
def test_each_fault_of_a_file_has_its_message(written, change, message):
    path, arrays = written
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        read_exit_table(path)


def test_a_file_that_is_missing_or_no_table_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no such file; wanted a run's exit_table\.npz"):
        read_exit_table(tmp_path / "none.npz")
    for content in (b"", b"no archive", b"PK\x03\x04cut off"):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.npz: can't be read as an exit table"):
            read_exit_table(tmp_path / "broken.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="can't be read as an exit table"):
        read_exit_table(tmp_path / "one.npy")


def test_roles_that_overlap_or_differ_are_refused():
    fit, calibrate, test = three_roles()
    check_roles(fit, calibrate, test)
    with pytest.raises(DataError, match="the roles 'calibrate' and 'test' share 3 samples"):
        check_roles(fit, calibrate, table_of(random_case(0, 8)[0], TestTable, first_id=108))
    twice = CalibrationTable(
        calibrate.logits, calibrate.labels, np.full(11, 5), calibrate.client_ids
    )
    with pytest.raises(DataError, match="the role 'calibrate' holds 10 of its 11 samples twice"):
        check_roles(twice)
    with pytest.raises(
        DataError, match="the role 'fit' has 3 exits, 'test' has 2; wanted tables of one network"
    ):
        check_roles(fit, table_of(random_case(0, 8, num_exits=2)[0], TestTable, first_id=900))
    with pytest.raises(DataError, match="the role 'fit' has 2 classes, 'test' has 5"):
        check_roles(
            fit,
            TestTable(
                np.zeros((3, 4, 5), np.float32),
                np.zeros(4, np.int64),
                900 + np.arange(4),
                np.zeros(4, np.int64),
            ),
        )
