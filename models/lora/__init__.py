"""Adapter files: their families, spellings and scales, matched with the layers of a model."""
