"""A SuperLink and SuperNodes as processes on this machine, started and stopped together."""
