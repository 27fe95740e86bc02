"""Entry point of `python -m experimance.load`."""

from __future__ import annotations

import typer

from experimance.load.cli import load


def main() -> None:
    """Run the command with the arguments of this process."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(load)
    app(prog_name="python -m experimance.load")


if __name__ == "__main__":
    main()
