"""Loading images: from parquet, torchvision's files and folders; what happens when they are missing or damaged."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tardis_fl.core.torchvision_guard import import_torchvision
from tardis_fl.data import cache
from tardis_fl.data.datasets.cifar10 import load_cifar10
from tardis_fl.data.sources import load_dataset
from tardis_fl.errors import DataError
from tests.conftest import small_config


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(
    folder: Path, *, rows: int = 30, damage: dict[int, bytes] | None = None
) -> np.ndarray:
    """Writes both splits as Hugging Face does and returns the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        images = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        blobs = [png(image) for image in images]
        for row, blob in (damage or {}).items():
            blobs[row] = blob
        table = pa.table(
            {
                "img": [{"bytes": blob, "path": None} for blob in blobs],
                "label": [i % 10 for i in range(rows)],
            }
        )
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
        if split == "train":
            first = images
    return first


def test_parquet_is_decoded_once_and_memory_mapped_afterwards(tmp_path, monkeypatch):
    images = write_parquet(tmp_path / "data" / "plain_text")
    dataset = load_cifar10(tmp_path / "data", tmp_path / "cache")
    assert np.array_equal(dataset.train.images, images)
    assert dataset.train.labels.tolist() == [i % 10 for i in range(30)]
    monkeypatch.setattr(
        "tardis_fl.data.datasets.cifar10.decode_images",
        lambda *_, **__: pytest.fail("decoded twice"),
    )
    again = load_cifar10(tmp_path / "data", tmp_path / "cache")
    assert isinstance(again.train.images, np.memmap)
    assert np.array_equal(again.train.images, images)


def test_other_content_in_the_same_place_is_another_cache_entry(tmp_path):
    write_parquet(tmp_path / "data", rows=20)
    assert len(load_cifar10(tmp_path / "data", tmp_path / "cache").train) == 20
    write_parquet(tmp_path / "data", rows=30)
    assert len(load_cifar10(tmp_path / "data", tmp_path / "cache").train) == 30
    assert len(cache.entries(tmp_path / "cache")) == 2
    assert cache.clear(tmp_path / "cache")[0] == 2
    assert cache.entries(tmp_path / "cache") == []


def test_a_damaged_image_is_named_by_file_and_row_and_leaves_no_cache_entry(tmp_path):
    write_parquet(tmp_path / "data", damage={7: b"no image", 9: b""})
    with pytest.raises(
        DataError, match=r"train-00000-of-00001.parquet, row 9: there are no image bytes"
    ):
        load_cifar10(tmp_path / "data", tmp_path / "cache")
    write_parquet(tmp_path / "data", damage={7: b"no image"})
    with pytest.raises(
        DataError, match=r"train-00000-of-00001.parquet, row 7: not a readable image"
    ) as caught:
        load_cifar10(tmp_path / "data", tmp_path / "cache")
    assert caught.value.exit_code == 3
    assert cache.entries(tmp_path / "cache") == []


def test_a_truncated_parquet_file_is_named(tmp_path):
    write_parquet(tmp_path / "data")
    path = tmp_path / "data" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(
        DataError, match=r"test-00000-of-00001.parquet: not a readable parquet file"
    ):
        load_cifar10(tmp_path / "data", tmp_path / "cache")


def test_a_split_without_the_other_is_refused(tmp_path):
    write_parquet(tmp_path / "data")
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"there is no test-\*.parquet beside the other split"):
        load_cifar10(tmp_path / "data", tmp_path / "cache")


def write_torchvision(root: Path, monkeypatch) -> np.ndarray:
    """Writes tiny batches in torchvision's layout, and makes torchvision accept their checksums."""
    datasets = import_torchvision("torchvision.datasets")
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    batch = {"data": images.transpose(0, 3, 1, 2).reshape(4, -1), "labels": [0, 1, 2, 3]}
    for name, content in (
        ("data_batch_1", batch),
        ("test_batch", batch),
        ("batches.meta", {"label_names": list("abcdefghij")}),
    ):
        (folder / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None}
    )
    return images


def test_torchvision_files_are_read(tmp_path, monkeypatch):
    images = write_torchvision(tmp_path, monkeypatch)
    dataset = load_cifar10(tmp_path, tmp_path / "cache")
    assert np.array_equal(dataset.train.images, images)
    assert dataset.test.labels.tolist() == [0, 1, 2, 3]


def no_download(monkeypatch) -> None:
    def refuse(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(import_torchvision("torchvision.datasets").CIFAR10, "download", refuse)


def test_a_damaged_cache_entry_says_how_to_mend_it(tmp_path):
    write_parquet(tmp_path / "data")
    load_cifar10(tmp_path / "data", tmp_path / "cache")
    images = next((tmp_path / "cache").glob("*/train_images.npy"))
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"a damaged cache entry .* run the command 'cache clear'"):
        load_cifar10(tmp_path / "data", tmp_path / "cache")
    (tmp_path / "cache" / ".making-killed").mkdir()
    assert cache.clear(tmp_path / "cache")[0] == 2
    assert len(load_cifar10(tmp_path / "data", tmp_path / "cache").train) == 30


def test_missing_data_says_what_to_put_where(tmp_path, monkeypatch):
    no_download(monkeypatch)
    with pytest.raises(DataError) as caught:
        load_dataset(
            small_config(
                "data.dataset=cifar10", f"data.root={tmp_path / 'none'}", "data.synthetic={}"
            )
        )
    message = str(caught.value)
    assert caught.value.exit_code == 3
    for part in (
        str(tmp_path / "none"),
        "no network here",
        "cifar-10-batches-py",
        "train-*.parquet",
        "TARDIS_FL_DATA",
        "on_missing: synthetic",
    ):
        assert part in message
    assert not (tmp_path / "none").exists()


def test_synthetic_instead_of_missing_data_is_said_loudly(tmp_path, monkeypatch):
    no_download(monkeypatch)
    dataset = load_dataset(
        small_config(
            "data.dataset=cifar10", f"data.root={tmp_path / 'none'}", "data.on_missing=synthetic"
        )
    )
    assert dataset.synthetic
    assert dataset.warnings[0].startswith("SYNTHETIC DATA, not cifar10:")


def test_the_environment_variable_wins_over_the_configured_root(tmp_path, monkeypatch):
    write_parquet(tmp_path / "here")
    monkeypatch.setenv("TARDIS_FL_DATA", str(tmp_path / "here"))
    dataset = load_dataset(
        small_config("data.dataset=cifar10", "data.root=/nowhere", "data.synthetic={}")
    )
    assert len(dataset.train) == 30


def test_image_folders_are_scaled_and_labelled_by_folder(tmp_path):
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (50, 40), (label * 255, 0, 0)).save(tmp_path / split / name / "a.png")
    dataset = load_dataset(
        small_config(
            "data.dataset=image_folder",
            f"data.root={tmp_path}",
            "data.image_size=16",
            "model.backbone=small_resnet",
            "data.synthetic={}",
        )
    )
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.images.shape == (2, 16, 16, 3)
    assert dataset.train.images[:, 0, 0, 0].tolist() == [0, 255]
    (tmp_path / "test" / "dog" / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"test/dog/a.png: not a readable image"):
        load_dataset(
            small_config("data.dataset=image_folder", f"data.root={tmp_path}", "data.synthetic={}")
        )


def test_a_limited_training_set_follows_the_seed():
    first, again = (load_dataset(small_config("data.max_train_samples=50")) for _ in range(2))
    other = load_dataset(small_config("data.max_train_samples=50", "seed=4"))
    assert len(first.train) == 50
    assert np.array_equal(first.train.images, again.train.images)
    assert not np.array_equal(first.train.images, other.train.images)


def test_synthetic_images_are_the_same_every_time_with_all_classes():
    from tardis_fl.data.datasets.synthetic import draw

    (images, labels), (again, _) = (draw(100, 0.5, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(images, again)
    assert images.shape == (100, 32, 32, 3)
    assert np.bincount(labels).tolist() == [10] * 10


def test_real_cifar10_is_complete_and_not_decoded_again(real_data, tmp_path, monkeypatch):
    dataset = load_cifar10(real_data, tmp_path)
    monkeypatch.setattr(
        "tardis_fl.data.datasets.cifar10.decode_images",
        lambda *_, **__: pytest.fail("decoded twice"),
    )
    again = load_cifar10(real_data, tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    assert isinstance(again.train.images, np.memmap)
    assert np.bincount(again.test.labels).tolist() == [1000] * 10
