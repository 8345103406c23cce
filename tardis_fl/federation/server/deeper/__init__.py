"""How the server trains the segments that clients do not."""
