"""From exit tables to scores: policies and temperatures."""
