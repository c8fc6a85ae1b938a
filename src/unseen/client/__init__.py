"""The Python API of a node, over its HTTP: what the console and the command line do, a program can do as well."""

from unseen.client.client import Client, Json

__all__ = ["Client", "Json"]
