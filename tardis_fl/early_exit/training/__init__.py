"""Trains early-exit networks in one place."""
