"""Federated and edge simulation of early-exit networks."""

__version__ = "0.1.0"
