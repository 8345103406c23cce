"""Combinations of keys that can't work together, and options without effect."""
