"""Packages of the image: pinned by hash, checked against the registry, listed in an SBOM."""
