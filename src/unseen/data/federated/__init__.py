"""Federated data sets: many clients with examples of their own, read lazily, and ways to make them of a pooled set."""
