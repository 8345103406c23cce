"""One page a command: each runs the arrows of the design in order."""
