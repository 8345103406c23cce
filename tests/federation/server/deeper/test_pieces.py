"""Features of a whole shard in pieces: the same rows, whatever the size of a piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tardis_fl.codecs.codec import codec_of
from tardis_fl.core.randomness import Purpose, torch_generator
from tardis_fl.errors import ConfigError
from tardis_fl.federation.client import local_training
from tardis_fl.federation.client.local_training import training_features
from tardis_fl.federation.client.resources import open_resources
from tardis_fl.federation.server.deeper.feature_buffer import Pieces
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.messages import FeatureBatch
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate
from tests.federation.test_rounds import same_weights


def batch_of(count, seed=0, depth=1):
    features = torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return FeatureBatch(codec_of("uint8").encode(features), torch.arange(count), depth)


def same_rows(a, b):
    return (
        all(
            torch.equal(x, y)
            for x, y in zip(a.tensors().values(), b.tensors().values(), strict=True)
        )
        and a.depth == b.depth
    )


@pytest.mark.parametrize("codec", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("most_bytes", [1, 1500, 10**9])
def test_pieces_of_a_shard_are_its_rows_wherever_they_end(codec, most_bytes, monkeypatch):
    monkeypatch.setattr(local_training, "EVALUATION_BATCH", 7)
    work = open_resources(small_config("data.augment=true").model_dump_json())
    indices = work.partition.shard(0).train[:40]

    def features(**where):
        generator = torch_generator(1, Purpose.FEATURE_VIEW, 1, 0)
        return training_features(
            work.segments[:1],
            work.data,
            indices,
            codec=codec,
            generator=generator,
            precision="float32",
            **where,
        )

    whole, pieces, first = features(), Pieces(), 0
    while first < len(whole):
        piece = features(first=first, most_bytes=most_bytes)
        assert len(piece) == 1 or piece.features.nbytes <= most_bytes
        pieces.add(4, piece, first, len(whole))
        first += len(piece)
    (together,) = pieces.of([4])
    assert same_rows(together, whole)
    assert np.array_equal(together.labels, work.dataset.train.labels[indices])


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("federation.feature_timing=stale", "federation.server_epochs=1"),
        (
            "federation.feature_fraction=0.6",
            "federation.server_epochs=1",
            "federation.feature_noise=0.2",
        ),
        (
            "federation.fleet=[{name: a, share: 0.34, depth: 1}, {name: b, share: 0.66, depth: 2}]",
            "federation.server_epochs=1",
        ),
        (
            "federation.fleet=[{name: a, share: 0.34, depth: 1}, {name: b, share: 0.66, depth: 3}]",
            "model.exit_weighting=serving_rate",
            "federation.server_segments=deeper",
        ),
    ],
    ids=["final epochs", "stale", "a noisy share", "two depths", "some hold all"],
)
def test_a_run_does_not_depend_on_the_size_of_pieces(overrides):
    whole, cut = (
        federate(small_config(*overrides)),
        federate(small_config(*overrides, "federation.piece_bytes=3000")),
    )
    assert same_weights(whole, cut)
    assert [record.validation for record in whole.rounds] == [
        record.validation for record in cut.rounds
    ]
    for one, other in ((whole.fit, cut.fit), (whole.calibrate, cut.calibrate)):
        assert np.array_equal(one.logits, other.logits)
        assert [one.labels.tolist(), one.sample_ids.tolist(), one.client_ids.tolist()] == [
            other.labels.tolist(),
            other.sample_ids.tolist(),
            other.client_ids.tolist(),
        ]
    up = [trained.ledger.up for trained in (whole, cut)]
    assert (
        up[0][messages.FEATURES_KIND]
        < up[1][messages.FEATURES_KIND]
        < 1.6 * up[0][messages.FEATURES_KIND]
    )  # each piece has headers of its own


def test_clients_go_on_from_where_each_of_them_is():
    pieces, shallow, deep = Pieces(), batch_of(10), batch_of(6, depth=2)
    pieces.add(0, shallow.piece(0, 4 * 20), 0, 10)
    pieces.add(1, deep.piece(0, 2 * 20), 0, 6)
    pieces.add(2, batch_of(3), 0, 3)
    assert pieces.wanted([0, 1, 2]) == (2, [1])
    pieces.add(1, deep.piece(2, 10**6), 2, 6)
    assert pieces.wanted([0, 1, 2]) == (4, [0])
    assert pieces.wanted([1, 2]) == (0, [])
    pieces.add(0, shallow.piece(4, 10**6), 4, 10)
    assert [len(batch) for batch in pieces.of([0, 2])] == [10, 3]
    assert same_rows(pieces.of([1])[0], deep)


@pytest.mark.parametrize(
    ("first", "rows", "count"), [(0, 4, 10), (5, 2, 10), (4, 7, 10), (4, 0, 10), (4, 2, 9)]
)
def test_rows_that_were_not_asked_for_are_refused(first, rows, count):
    pieces = Pieces()
    pieces.add(0, batch_of(10).piece(0, 4 * 20), 0, 10)
    with pytest.raises(
        ValueError,
        match=f"sent the rows {first} to {first + rows} of {count} features, of which 4 have come",
    ):
        pieces.add(
            0,
            FeatureBatch(batch_of(rows).features, torch.arange(rows), 1)
            if rows
            else batch_of(1).piece(1, 1),
            first,
            count,
        )


def test_a_client_that_is_lost_between_pieces_has_failed_and_its_features_are_left_out(monkeypatch):
    from tardis_fl.federation.client import request

    original = request.training_features

    def lose(segments, data, indices, *, first=0, **options):
        if first and indices[0] in set(samples_of_the_victim):
            raise ConnectionError("gone")
        return original(segments, data, indices, first=first, **options)

    config = small_config("federation.piece_bytes=3000", "federation.max_failed_fraction=0.4")
    samples_of_the_victim = open_resources(config.model_dump_json()).partition.shard(1).train
    monkeypatch.setattr(request, "training_features", lose)
    recorder = Recorder()
    federate(config, recorder)
    assert {(failure.client, failure.stage, failure.kind) for failure in recorder.failures} == {
        (1, "features", "error")
    }
    assert recorder.epochs[-1].server.num_samples < recorder.rounds[-1].train.num_samples


def test_a_client_that_is_lost_between_pieces_of_its_hold_outs_counts_nowhere(monkeypatch):
    from tardis_fl.federation.client import request

    original = request.Request.piece

    def lose(self, batch):
        if self.shard.client == 1 and not self.is_first:
            raise ConnectionError("gone")
        return original(self, batch)

    monkeypatch.setattr(request.Request, "piece", lose)
    recorder = Recorder()
    config = small_config("federation.piece_bytes=3000", "federation.max_failed_fraction=0.4")
    trained = federate(config, recorder)
    assert {(failure.client, failure.stage) for failure in recorder.failures} == {
        (1, "evaluate"),
        (1, "tables"),
    }
    assert (
        set(trained.fit.client_ids.tolist()) == set(trained.calibrate.client_ids.tolist()) == {0, 2}
    )
    shards = open_resources(config.model_dump_json()).partition.shards()
    assert trained.rounds[-1].validation.num_samples == len(shards[0].fit) + len(shards[2].fit)


def test_a_piece_of_less_than_a_kilobyte_is_refused():
    with pytest.raises(ConfigError, match=r"federation.piece_bytes"):
        small_config("federation.piece_bytes=10")
