"""What others may learn from a party's tables: facts that are only ever added to, limits, and decisions over both.

``facts`` says what happened in sessions of private set intersection, ``limits`` what their owner allows, ``ledger``
what of it is spent, ``differencing`` when two sessions are too much alike, and ``enumeration`` decides. Everything here
is a pure function of its arguments: no file, clock, randomness or party's secret. A node stores the facts, asks before
it evaluates a partner's points and again before it lets a result go, and does what the answer says.
"""
