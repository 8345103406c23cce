"""From a trained network and its exit tables to a measured deployment."""
