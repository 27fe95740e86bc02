"""Weights: catalog, sources, conversion and the Bento model store."""
