"""Runs a matrix of small configurations at another commit and here, and compares the results."""
