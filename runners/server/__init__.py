"""The runner process: BentoML service, device workers and startup."""
