"""What is refused before anything trains."""

from __future__ import annotations

import pytest
import torch

from tardis_fl.errors import ConfigError
from tardis_fl.federation.client.resources import new_network
from tardis_fl.federation.server.codec_check import check_codecs
from tests.conftest import small_config


def checked(*overrides, scale=1.0):
    config = small_config(*overrides)
    segments = list(new_network(config, 10))
    with torch.no_grad():
        for parameter in segments[0].body.parameters():
            parameter.mul_(scale)
    check_codecs(
        segments, torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), config
    )


def test_codecs_that_carry_the_features_pass():
    for codec in ("uint8", "float16", "float32"):
        checked(f"federation.feature_codec={codec}", f"deployment.feature_codec={codec}")
    checked(scale=1e5)


def test_a_codec_that_can_not_carry_the_features_is_named_with_its_tier():
    with pytest.raises(
        ConfigError,
        match=r"federation.feature_codec: got 'float16'; for what leaves 'device', features can't be sent as float16: got .*the largest it holds is 65504; wanted another codec, such as uint8 or float32",
    ):
        checked("federation.feature_codec=float16", scale=1e5)
    with pytest.raises(
        ConfigError, match=r"deployment.feature_codec: got 'float16'; for what leaves 'device'"
    ):
        checked("deployment.feature_codec=float16", scale=1e5)
    with pytest.raises(ConfigError, match="not finite"):
        checked(scale=float("inf"))
