"""`python -m experimance.load`: the command by itself."""

from __future__ import annotations

import typer

from experimance.load.command import load


def main() -> None:
    """Run the command on this process's arguments."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(load)
    app(prog_name="python -m experimance.load")


if __name__ == "__main__":
    main()
