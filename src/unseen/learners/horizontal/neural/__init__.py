"""Neural networks of PyTorch as trainers; the only package that imports torch (the extra ``torch`` installs it)."""
