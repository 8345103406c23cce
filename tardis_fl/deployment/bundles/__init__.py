"""Deployed networks as files."""
