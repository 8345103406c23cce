"""What the server asks of held-out samples: evaluations, exit tables, sums."""
