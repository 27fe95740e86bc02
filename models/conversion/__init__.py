"""Conversion of published weights to canonical components."""
