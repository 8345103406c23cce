"""One configuration over a grid of values and several seeds.

`grid` says which runs there are, `runs` does them, `summary` has means and intervals.
"""
