"""Simulation of fleets under load."""
