"""Training over Flower messages: what travels, who trains, how it is averaged."""
