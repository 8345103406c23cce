"""Networks as lists of segments, their costs, and their tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tardis_fl.early_exit.backbones import build_network
from tardis_fl.early_exit.counting import oversized, segment_costs
from tardis_fl.early_exit.evaluation import CalibrationTable, exit_logits
from tardis_fl.early_exit.exits import adaptive_exit, pooled_exit
from tardis_fl.early_exit.network import EarlyExitNetwork


@pytest.fixture(scope="module", params=["small_resnet", "vit_tiny"])
def network(request):
    return build_network(request.param, num_classes=7, width=8, exit_hidden=16, seed=1)


def test_a_chosen_exit_equals_that_row_of_all_and_computes_nothing_deeper(network):
    network.eval()
    x = torch.randn(2, 3, 32, 32)
    calls = []
    hooks = [
        segment.body.register_forward_hook(lambda *_, k=k: calls.append(k))
        for k, segment in enumerate(network)
    ]
    with torch.no_grad():
        chosen = network(x, exit_chosen=1)
    assert calls == [0, 1]
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        torch.testing.assert_close(chosen, network(x)[:, 1])
    with pytest.raises(ValueError, match="exit_chosen: got 3, the network has the exits 0 to 2"):
        network(x, exit_chosen=3)


def test_features_outlive_the_exit_and_the_next_segment(network):
    network.eval()
    with torch.no_grad():
        features, _ = network.segments[0](torch.randn(2, 3, 32, 32))
        before = features.clone()
        network.segments[1](features)
    assert torch.equal(features, before)


def test_bodies_and_exits_must_fit():
    bodies = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="got 2 bodies and 0 exits"):
        EarlyExitNetwork(bodies, nn.ModuleList())
    network = EarlyExitNetwork(
        bodies, nn.ModuleList([nn.Linear(4, 3)])
    )  # the last body ends in logits, as in the seed
    assert network(torch.zeros(2, 4)).shape == (2, 2, 3)


def test_costs_agree_with_a_count_by_hand():
    bodies = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 4, 1, bias=False)
    )
    network = EarlyExitNetwork(
        bodies, nn.ModuleList([pooled_exit(8, 10), pooled_exit(4, 10, hidden=6)])
    )
    first, second = segment_costs(network, (3, 16, 16))
    assert (first.macs, second.macs) == (3 * 8 * 9 * 256 + 8 * 10, 8 * 4 * 256 + 4 * 6 + 6 * 10)
    assert (first.num_parameters, first.num_exit_parameters) == (216 + 90, 90)
    assert first.feature_shape == (8, 16, 16)
    assert not first.exit_outweighs_body
    assert second.exit_outweighs_body
    assert list(oversized([first, second], ["device", "cloud"], 768)) == [
        "features leaving device (8x16x16) are 2,048 bytes as uint8, more than the raw image's 768",
        "exit 1 (cloud) has 100 parameters, more than the 32 of the segment it sits on",
    ]


def test_exit_logits_do_not_depend_on_the_batch_size(network):
    x = torch.randn(9, 3, 32, 32)
    whole, parts = (
        exit_logits(list(network), lambda rows: x[rows], 9, batch_size=size) for size in (9, 4)
    )
    assert whole.shape == (3, 9, 7)
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)


def test_a_table_with_columns_of_different_length_is_refused():
    with pytest.raises(ValueError, match="one row a sample"):
        CalibrationTable(
            np.zeros((2, 3, 4), np.float32),
            np.zeros(3, np.int64),
            np.zeros(2, np.int64),
            np.zeros(3, np.int64),
        )


def test_attention_is_counted_in_evaluation_mode_too():
    """PyTorch's fused attention for inference would count as nothing."""
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = EarlyExitNetwork([block], [adaptive_exit((5, 8), 3)])
    (cost,) = segment_costs(network, (5, 8))
    projections, attention, feed_forward = 5 * 8 * 8 * 4, 2 * 5 * 5 * 8, 2 * 5 * 8 * 16
    assert cost.macs - cost.exit_macs == projections + attention + feed_forward
    assert cost.exit_macs == 8 * 3
