"""What devices compute, links carry and radios use: figures with their sources, for clocks and batteries that aren't this machine's."""

from tardis_fl.profiles.kinds import DeviceProfile, LinkProfile, RadioProfile
from tardis_fl.profiles.reading import Profiles, load_profiles

__all__ = ["DeviceProfile", "LinkProfile", "Profiles", "RadioProfile", "load_profiles"]
