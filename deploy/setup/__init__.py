"""Make the Python environment, with nothing but the standard library: choose, install, explain."""
