"""Keys of `data`: the images, and who holds which."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tardis_fl.config.plugin_names import PluginName
from tardis_fl.config.section import ADDED, Fraction, Options, PositiveFloat, PositiveInt, Section
from tardis_fl.data.partitioners import PARTITIONERS

DATASETS = ("cifar10", "synthetic", "image_folder")


class PartitionConfig(Section):
    """How the training samples are divided among the clients."""

    scheme: Annotated[str, Field(json_schema_extra=PARTITIONERS.json_schema())] = "dirichlet"
    """iid: equal shards at random; dirichlet: label skew by alpha; pathological: few classes a
    client; shard: sorted by label, cut into pieces; natural: each client has a folder of its own
    (dataset image_folder), with the engine deployment on its node's disk; or MODULE:FUNCTION, a
    partitioner of your own."""
    alpha: PositiveFloat = 1.0
    """Concentration of the Dirichlet distribution; smaller is more skewed (scheme dirichlet)."""
    classes_per_client: PositiveInt = 2
    """Number of classes each client sees (scheme pathological)."""
    shards_per_client: PositiveInt = 2
    """Number of label-sorted pieces each client gets (scheme shard)."""
    min_samples: PositiveInt = 20
    """Smallest shard to accept, in samples, held-out ones included."""
    options: Annotated[Options, ADDED] = Field(default={})
    """Options of a partitioner of your own, by the names of its parameters."""


class SyntheticConfig(Section):
    """Size and difficulty of the generated images."""

    num_train: PositiveInt = 4000
    """Training images."""
    num_test: PositiveInt = 1000
    """Test images."""
    hard_fraction: Fraction = 0.5
    """Share of samples that lack the easy cue and need the deeper segments."""


class DataConfig(Section):
    """The data set, and which client holds which part of it."""

    dataset: Annotated[str, PluginName(lambda: DATASETS)] = "cifar10"
    """cifar10: files under root, downloaded there if it is empty; synthetic: generated, needs no
    file; image_folder: root/test/CLASS/*, and root/train/CLASS/* or, with the scheme natural,
    root/clients/NAME/CLASS/*; or MODULE:FUNCTION, a data set of your own."""
    options: Annotated[Options, ADDED] = Field(default={})
    """Options of a data set of your own, by the names of its parameters."""
    root: str = "data/cifar10"
    """Folder with the data set; the environment variable TARDIS_FL_DATA takes precedence."""
    on_missing: Literal["error", "synthetic"] = "error"
    """What to do when the data is neither there nor can be downloaded. error: stop with exit code
    3; synthetic: use generated images, which every report says."""
    image_size: Annotated[int, Field(ge=8, le=512)] = 32
    """Side in pixels of the square images that image_folder resizes to."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """Names of all classes, in order (scheme natural, where no client need have all of them); null:
    the folders in root/test."""
    max_train_samples: PositiveInt | None = None
    """Use only this many training samples, drawn by the seed; null: all."""
    max_test_samples: PositiveInt | None = None
    """Use only this many test samples, drawn by the seed; null: all."""
    partition: PartitionConfig = PartitionConfig()
    """How the training samples are divided among the clients."""
    fit_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of each shard held out to follow the training and to fit temperatures."""
    calibration_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of each shard held out to choose thresholds."""
    augment: bool = True
    """Random crops (4 pixels of padding) and horizontal flips of training images."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Size and difficulty of the generated images."""
