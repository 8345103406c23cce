"""One configuration over a grid of values and several seeds: `grid` (which runs), `running`, `summary` (means and intervals)."""
