"""Kinds of weight files for `benchmarks.weight_kinds`, a module for each group of kinds.

A kind belongs to the module of its group; `table.py` lists the groups.
"""
