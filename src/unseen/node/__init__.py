"""One party's own process."""
