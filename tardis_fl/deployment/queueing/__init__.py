"""Requests over time: devices, links and tiers as a network of queues.

Knows neither configuration nor PyTorch.
"""
