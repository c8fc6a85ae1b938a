"""Privacy: what has been told about people, counted and bounded: guards against enumeration, differential privacy."""
