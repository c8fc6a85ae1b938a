"""Learners for parties that hold different columns of the same people."""
