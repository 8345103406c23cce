"""From scores to thresholds."""
