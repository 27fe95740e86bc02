"""The command line `experimance`."""

from experimance.command.app import app, main

__all__ = ["app", "main"]
