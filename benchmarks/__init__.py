"""Benchmarks: each prints one JSON line with medians, core-seconds, and what it is compared with, from the same run."""
