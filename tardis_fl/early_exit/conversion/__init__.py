"""Turns any model into segments: trace, find cuts, cut."""
