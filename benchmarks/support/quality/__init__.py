"""Judged quality of generated images."""
