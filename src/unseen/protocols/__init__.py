"""Multi-party protocols as dialogues: no sockets, no threads, no clock, no hidden randomness."""
