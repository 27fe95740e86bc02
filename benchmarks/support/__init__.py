"""Shared by benchmarks; no claims of their own."""
