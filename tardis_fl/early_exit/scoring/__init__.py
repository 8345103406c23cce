"""Confidence scores of exits, ensembles of exits, and sums over scored samples."""
