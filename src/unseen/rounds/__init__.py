"""Runs of horizontal learning: rounds of a process, simulated by worker processes or played by real clients."""
