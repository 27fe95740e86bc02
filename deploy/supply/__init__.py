"""Which packages the image is made of: pinned by hash, checked against the registry, listed."""
