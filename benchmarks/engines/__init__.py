"""What engines cost, side by side: python -m benchmarks.engines."""
