"""Early-exit networks: build, train, measure and deploy in segments. Knows neither Flower nor files."""
