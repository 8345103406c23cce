"""Images that belong to their clients: the same result whether one process has all of them or each node its own."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tardis_fl.config import parse_config
from tardis_fl.data.partition import load_partition
from tardis_fl.data.sources import count_classes, load_dataset
from tardis_fl.errors import ConfigError, DataError, RunError
from tardis_fl.federation.client import app as client_app
from tardis_fl.federation.client.resources import open_resources
from tardis_fl.federation.engines import check_engine
from tardis_fl.federation.engines.inline import InlineGrid
from tardis_fl.federation.server.app import meet_nodes
from tardis_fl.federation.transport import messages
from tardis_fl.report.terminal import Screen
from tardis_fl.workflows.experiment import simulate
from tardis_fl.workflows.redeploy import redeploy
from tests.conftest import small_config
from tests.data.client_folders import NATURAL, write_client_folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_client_folders(tmp_path_factory.mktemp("natural"))


def natural(root, *overrides):
    return parse_config(NATURAL.format(root=root), overrides=overrides)


@pytest.fixture(scope="module")
def runs(folders, tmp_path_factory):
    """The same experiment with all images in one process, and with a node for each client that has only its own."""
    out = tmp_path_factory.mktemp("runs")
    simulate(natural(folders), out / "inline", Screen())
    simulate(
        natural(folders, "runtime.engine=deployment"),
        out / "nodes",
        Screen(),
        grid=InlineGrid(client_app.app, 3),
    )
    return out


def test_nodes_with_their_own_images_end_like_one_process_with_all(runs):
    for number in range(3):
        name = f"model/segment_{number}.safetensors"
        assert (runs / "nodes" / name).read_bytes() == (runs / "inline" / name).read_bytes()
    inline, nodes = (
        json.loads((runs / side / "report.json").read_text()) for side in ("inline", "nodes")
    )
    for key in ("operating_point", "calibration", "exits"):
        assert nodes[key] == inline[key]
    assert nodes["clients"] == inline["clients"]  # of images that the server never saw
    for name in ("exit_table.npz", "partition.npz"):
        arrays = [np.load(runs / side / name) for side in ("inline", "nodes")]
        assert arrays[0].files == arrays[1].files
        for key in arrays[0].files:
            assert np.array_equal(arrays[0][key], arrays[1][key]), (name, key)


def test_the_report_says_what_the_server_was_told_of_images_it_does_not_have(runs):
    assert (
        "how many images of each class each client has"
        in (runs / "nodes" / "report.md").read_text()
    )
    assert (
        "how many images of each class each client has"
        not in (runs / "inline" / "report.md").read_text()
    )
    assert "each client's images on its node" in (runs / "nodes" / "report.md").read_text()


def test_a_run_whose_images_stayed_on_the_nodes_is_deployed_again_without_them(runs, tmp_path):
    shutil.copytree(runs / "nodes", tmp_path / "run")
    report, _ = redeploy(tmp_path / "run", ["deployment.max_accuracy_drop=0.3"], Screen())
    assert report.operating_point.accuracy > 0
    with pytest.raises(
        ConfigError,
        match=r"deployment.feature_codec: got 'float32', through which the held-out images .* stayed on the nodes; wanted 'uint8'",
    ):
        redeploy(tmp_path / "run", ["deployment.feature_codec=float32"], Screen())


def test_clients_are_sorted_by_number_and_one_may_lack_a_class(folders):
    dataset = load_dataset(natural(folders))
    partition = load_partition(natural(folders), dataset)
    assert dataset.client_sizes == tuple(
        len(list((folders / "clients" / f"client_{number}").rglob("*.png")))
        for number in (9, 10, 11)
    )
    assert 0 not in dataset.train.labels[: dataset.client_sizes[0]]
    assert 0 in dataset.train.labels[dataset.client_sizes[0] :]
    shards = partition.shards()
    held = np.concatenate(
        [np.concatenate([shard.train, shard.fit, shard.calibrate]) for shard in shards]
    )
    assert sorted(held.tolist()) == list(range(len(dataset.train)))
    assert count_classes(natural(folders).data) == dataset.num_classes == 10


def test_a_node_reads_its_own_folder_and_nothing_else(folders, tmp_path):
    config = natural(folders, "runtime.engine=deployment")
    alone = tmp_path / "disk"
    shutil.copytree(folders / "clients" / "client_10", alone)
    here = config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"root": "/nowhere", "classes": [f"class_{number}" for number in range(10)]}
            )
        }
    )
    own = open_resources(here.model_dump_json(), str(alone), 1)
    everything = open_resources(natural(folders).model_dump_json())
    first = everything.dataset.client_sizes[0]
    shard, all_shard = own.partition.shard(1), everything.partition.shard(1)
    assert np.array_equal(shard.train + first, all_shard.train)
    assert np.array_equal(
        own.dataset.train.images[shard.fit], everything.dataset.train.images[all_shard.fit]
    )
    assert len(own.dataset.test) == 0


def test_what_the_server_has_is_the_test_split(folders, tmp_path):
    shutil.copytree(folders / "test", tmp_path / "test")
    dataset = load_dataset(natural(tmp_path, "runtime.engine=deployment"))
    assert dataset.train.images.shape == (0, 32, 32, 3)
    assert len(dataset.test) == 90


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda root: (root / "clients" / "client_9").rename(root / "client_9"),
            r"clients: got 2 folders of clients; wanted 3, one for each of federation.num_clients",
        ),
        (
            lambda root: (root / "clients" / "client_9" / "zebra").mkdir(),
            r"client_9/zebra: no class of this name; wanted class_0, .*\(data.classes\)",
        ),
        (
            lambda root: shutil.rmtree(root / "clients"),
            r"clients: there is no such folder; wanted clients/NAME/CLASS/\* with images below data.root",
        ),
        (
            lambda root: shutil.rmtree(root / "test"),
            r"test: there is no such folder; wanted test/CLASS/\*",
        ),
        (lambda root: shutil.rmtree(root / "clients" / "client_11" / "class_1"), None),
    ],
)
def test_what_is_wrong_with_folders_is_named(folders, tmp_path, change, text):
    root = tmp_path / "copy"
    shutil.copytree(folders, root)
    change(root)
    if text is None:
        assert len(load_dataset(natural(root)).train) > 0
        return
    with pytest.raises(DataError, match=text):
        load_dataset(natural(root))


def test_a_client_with_too_few_images_is_named(folders):
    config = natural(folders, "data.partition.min_samples=85")
    with pytest.raises(
        DataError,
        match=r"client 0: its own \d+ images are fewer than data.partition.min_samples = 85; give this client more images",
    ):
        load_partition(config, load_dataset(config))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "data.dataset=cifar10",
            "data.partition.scheme: got natural; each client has a folder of its own: wanted data.dataset: image_folder",
        ),
        (
            "data.max_train_samples=10",
            "data.max_train_samples: got 10; clients have what is in their folders",
        ),
        (
            "federation.server_training=proxy",
            "the server has no training images with the scheme 'natural'",
        ),
        ("data.classes=[a, a]", "wanted every name once"),
        ("runtime.min_nodes=2", "with the scheme 'natural' all clients tell first what they hold"),
        ("data.on_missing=synthetic", "generated images belong to no client"),
    ],
)
def test_what_does_not_go_with_own_images_is_refused(folders, override, text):
    extra = ["federation.proxy_fraction=0.1"] if "proxy" in override else []
    with pytest.raises(ConfigError) as caught:
        natural(folders, override, *extra)
    assert text in str(caught.value)


def test_a_codec_that_compresses_needs_images_that_the_server_lacks(folders):
    with pytest.raises(ConfigError, match=r"the server has none of those that the nodes keep"):
        check_engine(
            natural(folders, "runtime.engine=deployment", "deployment.feature_codec=uint8+zlib"),
            resume=False,
            has_nodes=True,
        )


def test_a_node_with_another_copy_of_the_data_is_refused():
    """Both sides must have the same data set, else shards would overlap and accuracies be of other images."""
    shared = small_config("runtime.engine=deployment")
    dataset = load_dataset(shared)

    class OtherFiles(InlineGrid):
        def pull_messages(self, message_ids):
            replies = list(super().pull_messages(message_ids))
            for reply in replies:
                if (
                    messages.IDENTITY in reply.content.config_records
                    and reply.content.config_records[messages.IDENTITY]["client"] == 1
                ):
                    reply.content.config_records[messages.IDENTITY]["content_hash"] = "other"
            return replies

    with pytest.raises(
        RunError,
        match=r"node 2 can't take part.*: it has another data set than the server, as client 1; give every host the same files",
    ):
        meet_nodes(OtherFiles(client_app.app, 3), shared, dataset, print)
    assert meet_nodes(InlineGrid(client_app.app, 3), shared, dataset, print).total_train > 0
