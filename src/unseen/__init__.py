"""Unseen: federated learning between parties that keep their rows to themselves."""
