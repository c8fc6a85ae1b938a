"""Differential privacy as parts of a process: clipping, noise at the server, at the clients, or spread over them."""
