"""Linear and logistic regression on tables whose rows lie at different clients."""
