"""Privacy: what has been told about people, counted and bounded.

Guards against enumeration (``enumeration``, with facts, limits and decisions that a node enforces) and differential
privacy (``events``, ``accounting``, ``epsilon``, ``mechanisms``).
"""
