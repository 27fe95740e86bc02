"""Modules shared by the benchmarks, without claims of their own."""
