"""Uploaded images: structure checks and decoding in separate processes."""
