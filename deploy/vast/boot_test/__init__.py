"""Boot test: the image's boot under supervisor, in a container like vast.ai's base image."""
