"""Command line `experimance`."""

from experimance.cli.app import app, main

__all__ = ["app", "main"]
