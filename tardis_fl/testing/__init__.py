"""Checks for plug-ins of your own, to call from your own tests.

    from tardis_fl.testing import check_partitioner

    def test_my_partitioner():
        check_partitioner("my_package.data:by_region", options={"num_regions": 3})

Each calls the plug-in with small generated inputs, as a run does. If the plug-in breaks its
contract, a `PluginError`, which is an `AssertionError`, says what was got and what was wanted.
A plug-in is given by its name in a configuration, or as the function or class itself.
"""

from tardis_fl.testing.aggregator import check_aggregator
from tardis_fl.testing.codec import check_codec
from tardis_fl.testing.partitioner import check_partitioner
from tardis_fl.testing.policy import check_policy
from tardis_fl.testing.refusals import PluginError

__all__ = [
    "PluginError",
    "check_aggregator",
    "check_codec",
    "check_partitioner",
    "check_policy",
]
