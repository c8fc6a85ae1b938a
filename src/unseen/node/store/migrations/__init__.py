"""How a database becomes one of this version."""
