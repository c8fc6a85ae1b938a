"""Gradient boosted trees on tables whose rows lie at different clients."""
