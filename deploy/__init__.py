"""Where the service runs, and proofs that it does."""
