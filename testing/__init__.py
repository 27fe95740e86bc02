"""Shared by tests, benchmarks and documentation builds."""
