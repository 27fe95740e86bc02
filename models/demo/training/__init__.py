"""Training of the demo set."""
