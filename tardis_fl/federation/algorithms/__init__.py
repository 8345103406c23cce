"""Federated algorithms, one a file, each with its client half and its server half."""
