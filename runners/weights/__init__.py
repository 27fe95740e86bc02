"""Weights on the device: cache, VRAM budget and background loading."""
