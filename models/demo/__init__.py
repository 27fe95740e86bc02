"""Embedded demo set: small networks with SDXL's architecture, and their training code."""
