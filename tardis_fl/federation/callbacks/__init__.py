"""Callbacks: what a run calls as it goes on, ours and the user's."""
