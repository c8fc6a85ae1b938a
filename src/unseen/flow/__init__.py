"""Flows: graphs of steps, validated before anything runs; they reuse what is there and resume where they stopped."""
