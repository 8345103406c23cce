"""Reading profiles: the shipped ones, and a user's own beside them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tardis_fl.errors import ConfigError
from tardis_fl.profiles.kinds import DeviceProfile, LinkProfile, RadioProfile

SHIPPED = ("devices.yaml", "links.yaml", "radios.yaml")
GIGA = 1e9

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Profile = TypeVar("Profile")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str = "your own profile"


class _Device(_Entry):
    dense_gflop_per_s: Rate
    depthwise_gflop_per_s: Rate | None = None
    idle_w: Amount | None = None
    active_w: Amount | None = None

    def profile(self) -> DeviceProfile:
        return DeviceProfile(
            self.dense_gflop_per_s * GIGA,
            (self.depthwise_gflop_per_s or self.dense_gflop_per_s) * GIGA,
            self.idle_w,
            self.active_w,
            self.source,
        )


class _Link(_Entry):
    up_bit_per_s: Rate
    down_bit_per_s: Rate
    delay_ms: Amount
    max_payload_bytes: Annotated[int, Field(ge=1)] | None = None

    def profile(self) -> LinkProfile:
        return LinkProfile(
            self.up_bit_per_s,
            self.down_bit_per_s,
            self.delay_ms / 1000,
            self.max_payload_bytes,
            self.source,
        )


class _Radio(_Entry):
    transmit_w: Amount
    receive_w: Amount
    idle_w: Amount
    tails: list[tuple[Amount, Amount]] = []

    def profile(self) -> RadioProfile:
        return RadioProfile(
            self.transmit_w, self.receive_w, self.idle_w, tuple(self.tails), self.source
        )


KINDS: dict[str, type[_Device | _Link | _Radio]] = {
    "devices": _Device,
    "links": _Link,
    "radios": _Radio,
}


@dataclass(frozen=True)
class Profiles:
    """All profiles by name."""

    devices: Mapping[str, DeviceProfile]
    links: Mapping[str, LinkProfile]
    radios: Mapping[str, RadioProfile]

    def device(self, name: str) -> DeviceProfile:
        """Returns a machine's profile.

        Raises:
            ConfigError: There is none of this name.
        """
        return _found(self.devices, name, "device")

    def link(self, name: str) -> LinkProfile:
        """Returns a link's profile; raises as `device` does."""
        return _found(self.links, name, "link")

    def radio(self, name: str) -> RadioProfile:
        """Returns a radio's profile; raises as `device` does."""
        return _found(self.radios, name, "radio")


def load_profiles(user_file: str | Path | None = None) -> Profiles:
    """Returns the shipped profiles, with a user's own beside them; of two of one name the user's counts.

    Args:
        user_file: YAML with the keys devices, links, radios, any of them, in the form of the
            shipped files; None: the shipped ones.

    Raises:
        ConfigError: The file can't be read, or an entry lacks a rate, has one of zero, or a key
            that isn't known.
    """
    shipped = _shipped()
    if user_file is None:
        return shipped
    own = _read(Path(user_file))
    return Profiles(*(dict(getattr(shipped, kind)) | own.get(kind, {}) for kind in KINDS))


@lru_cache(maxsize=1)
def _shipped() -> Profiles:
    found: dict[str, dict[str, Any]] = {}
    for name in SHIPPED:
        found |= _read(Path(__file__).parent / name)
    return Profiles(found["devices"], found["links"], found["radios"])


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be read ({error.strerror or error}); wanted a YAML file of profiles"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: this is not YAML ({getattr(error, 'problem', None) or error})"
        ) from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path}: wanted the keys {', '.join(KINDS)}, any of them")
    unknown = [str(key) for key in content if key not in KINDS]
    if unknown:
        raise ConfigError(
            f"{path}: {unknown[0]}: got an unknown key; wanted {', '.join(KINDS)}{_near(unknown[0], KINDS)}"
        )
    return {
        kind: {
            str(name): _entry(path, kind, str(name), entry)
            for name, entry in (content[kind] or {}).items()
        }
        for kind in content
    }


def _entry(
    path: Path, kind: str, name: str, entry: Any
) -> DeviceProfile | LinkProfile | RadioProfile:
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{path}: {kind}.{name}: got {entry!r}; wanted the keys {', '.join(KINDS[kind].model_fields)}"
        )
    try:
        return KINDS[kind].model_validate(entry).profile()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ConfigError(
                f"{path}: {kind}.{name}.{key}: is missing; wanted a number above 0"
            ) from None
        if first["type"] == "extra_forbidden":
            known = KINDS[kind].model_fields
            raise ConfigError(
                f"{path}: {kind}.{name}.{key}: got an unknown key; wanted {', '.join(known)}{_near(key, known)}"
            ) from None
        raise ConfigError(
            f"{path}: {kind}.{name}.{key}: got {first['input']!r}; wanted {first['msg'].replace('Input should be ', '')}"
        ) from None


def _found(profiles: Mapping[str, Profile], name: str, kind: str) -> Profile:
    if name not in profiles:
        raise ConfigError(
            f"{kind}: got {name!r}; wanted one of {', '.join(profiles)}{_near(name, profiles)}"
        )
    return profiles[name]


def _near(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
