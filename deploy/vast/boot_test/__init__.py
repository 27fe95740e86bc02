"""The boot under supervisor, run in a container that is laid out as vast.ai's base image."""
