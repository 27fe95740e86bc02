"""Networks of the demo set."""
