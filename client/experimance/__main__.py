"""Entry point of `python -m experimance`."""

from experimance.cli import main

if __name__ == "__main__":
    main()
