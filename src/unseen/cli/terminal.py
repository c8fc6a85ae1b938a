"""What may be written to a terminal."""


def harmless(text: str) -> str:
    """Return text with everything escaped that a terminal might obey; it may come from a file or a peer."""
    return "".join(char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text)
