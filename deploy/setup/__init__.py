"""Setup of the Python environment, with the standard library alone."""
