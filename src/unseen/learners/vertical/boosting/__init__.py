"""Gradient boosting of trees over columns that lie with several parties."""
