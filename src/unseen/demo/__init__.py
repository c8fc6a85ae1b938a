"""The main job on real data: one process per party, on this machine, over mutual TLS."""
