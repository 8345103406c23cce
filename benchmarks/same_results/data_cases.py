"""Cases of the data and of the networks."""

from __future__ import annotations

from benchmarks.same_results.training_cases import trained

DATA = (
    trained("partition-dirichlet", "data.partition={scheme: dirichlet, alpha: 0.3}"),
    trained(
        "partition-pathological", "data.partition={scheme: pathological, classes_per_client: 4}"
    ),
    trained("partition-shard", "data.partition={scheme: shard, shards_per_client: 3}"),
    trained("data-limited", "data.max_train_samples=150", "data.max_test_samples=60"),
    trained("data-not-augmented", "data.augment=false", "data.synthetic.hard_fraction=0.1"),
    trained(
        "data-image-folder",
        "data={dataset: image_folder, root: pictures, image_size: 32, partition: {scheme: iid}, "
        "fit_fraction: 0.2, calibration_fraction: 0.2}",
        pictures="classes",
    ),
    trained(
        "data-image-folder-resized",
        "data={dataset: image_folder, root: pictures, image_size: 24, partition: {scheme: iid}, "
        "fit_fraction: 0.2, calibration_fraction: 0.2}",
        pictures="classes",
    ),
    trained(
        "data-natural",
        "data={dataset: image_folder, root: pictures, image_size: 32, partition: {scheme: natural, "
        "min_samples: 10}, fit_fraction: 0.2, calibration_fraction: 0.2}",
        pictures="clients",
    ),
)

FEW = (
    "data.synthetic={num_train: 90, num_test: 30}",
    "federation.rounds=1",
)
NETWORKS = (
    trained("network-two-tiers", "tiers=[{name: device}, {name: cloud}]"),
    trained(
        "network-four-tiers",
        "tiers=[{name: a}, {name: b}, {name: c}, {name: d}]",
        "federation.client_depth=2",
    ),
    trained("network-linear-exits", "model.exit_hidden=0"),
    trained("network-resnet8", *FEW, "model={backbone: resnet8}"),
    trained("network-resnet20-cut", *FEW, "model={backbone: resnet20, cuts: [stage1, stage2]}"),
    trained("network-vgg11-bn", *FEW, "model={backbone: vgg11_bn}", "federation.client_depth=2"),
    trained("network-mobilenet", *FEW, "model={backbone: mobilenet_v2}"),
    trained("network-vit", *FEW, "model={backbone: vit_tiny}", "federation.client_depth=3"),
    trained("network-alexnet", *FEW, "model={backbone: b_alexnet}"),
    trained("network-simple-cnn", *FEW, "model={backbone: simple_cnn}"),
)

DATA_AND_NETWORKS = (*DATA, *NETWORKS)
