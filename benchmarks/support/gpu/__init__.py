"""Sections of the GPU report."""
