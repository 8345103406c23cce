"""What can be known before anything trains: do features travel in the configured codecs?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tardis_fl.codecs.checking import try_codec
from tardis_fl.codecs.codec import codec_of
from tardis_fl.config.schema import Config
from tardis_fl.early_exit.network import Segment
from tardis_fl.errors import ConfigError, RunError


def check_codecs(segments: Sequence[Segment], images: Tensor, config: Config) -> None:
    """Sends the features of some images over every boundary that they may cross.

    Args:
        segments: All segments, untrained; they are left in evaluation mode.
        images: Normalised (B, C, H, W).
        config: The codecs of training and deployment, and who holds what.

    Raises:
        ConfigError: A codec can't carry features of some boundary.
    """
    senders = (
        {min(group.depth, config.server_start) for group in config.groups}
        if config.server_start < config.num_segments
        else set()
    )
    x = images
    for number, segment in enumerate(segments[:-1], start=1):
        with torch.no_grad():
            x = segment.eval().body(x)
        keys = {"deployment.feature_codec": config.deployment.feature_codec}
        if number in senders:
            keys["federation.feature_codec"] = config.federation.feature_codec
        for key, codec in keys.items():
            try:
                try_codec(codec_of(codec, key=key), x)
            except RunError as error:
                name = config.tiers[number - 1].name
                raise ConfigError(
                    f"{key}: got {codec!r}; for what leaves {name!r}, {error}; "
                    "wanted another codec, such as uint8 or float32, or another network"
                ) from None
