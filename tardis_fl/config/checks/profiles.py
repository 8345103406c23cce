"""Names of profiles in a configuration: is there such a machine, link or radio?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tardis_fl.config.problem import Problem
from tardis_fl.errors import ConfigError
from tardis_fl.profiles import Profiles, load_profiles

if TYPE_CHECKING:
    from tardis_fl.config.schema import Config

Named = tuple[str, str, str]
"""Kind (devices, links, radios), path of the key, name."""


def profile_problems(config: Config) -> Iterator[Problem]:
    """Yields the names that no profile has, in the fleet and in the deployment."""
    names = list(_names(config))
    if not names and config.profiles is None:
        return
    try:
        profiles = load_profiles(config.profiles)
    except ConfigError as error:
        yield Problem("profiles", f"the text {config.profiles!r}", str(error))
        return
    yield from _unknown(profiles, names)
    yield from _power(config, profiles)


def _names(config: Config) -> Iterator[Named]:
    for number, group in enumerate(config.federation.fleet or []):
        for kind, key in (("devices", "device"), ("links", "link")):
            name = getattr(group, key)
            if name is not None:
                yield kind, f"federation.fleet.{number}.{key}", name
    hardware = config.deployment.hardware
    if hardware is not None:
        for kind in ("devices", "links"):
            for number, name in enumerate(getattr(hardware, kind)):
                yield kind, f"deployment.hardware.{kind}.{number}", name
        if hardware.radio is not None:
            yield "radios", "deployment.hardware.radio", hardware.radio


def _unknown(profiles: Profiles, names: Iterable[Named]) -> Iterator[Problem]:
    for kind, path, name in names:
        known = getattr(profiles, kind)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield Problem(
                path,
                f"the text {name!r}",
                f"wanted one of {', '.join(known)}, or one in a file of your own (profiles){hint}",
                ("profiles",),
            )


def _power(config: Config, profiles: Profiles) -> Iterator[Problem]:
    deployment = config.deployment
    if (
        deployment.hardware is None
        or not deployment.hardware.devices
        or (deployment.energy_budget_mj is None and deployment.minimise != "energy_mj")
    ):
        return
    name = deployment.hardware.devices[0]
    if name in profiles.devices and None in (
        profiles.devices[name].active_w,
        profiles.devices[name].idle_w,
    ):
        yield Problem(
            "deployment.hardware.devices.0",
            f"the text {name!r}",
            "its profile lacks a power, idle or active, so that energy can't be counted; take another, or one of your own",
            ("deployment.energy_budget_mj", "deployment.minimise"),
        )
