"""Plug-ins as a user writes them: one of each kind, each with a configuration that names it."""
