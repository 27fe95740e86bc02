"""Make the Python environment: choose a Python and a torch, install the lock. Standard library only."""
