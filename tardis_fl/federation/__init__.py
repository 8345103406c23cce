"""Training over Flower messages: what travels, who trains, how it is averaged."""

import os

# before anything imports Flower: a run calls nobody but its own nodes
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
