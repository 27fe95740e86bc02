"""python -m experimance: the command line."""

from experimance.command import main

if __name__ == "__main__":
    main()
