"""Quantities as people read them."""

from __future__ import annotations

BYTE_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
TIME_UNITS = (("hours", 3600.0), ("minutes", 60.0))


def bytes_text(count: int) -> str:
    """Return a number of bytes with a decimal unit and three significant digits: ``143 MB``."""
    unit, scale = byte_unit(count)
    return f"{count} B" if scale == 1 else f"{three_digits(count / scale)} {unit}"


def byte_unit(largest: int) -> tuple[str, int]:
    """Return the unit, and the bytes in it, in which ``largest`` reads best."""
    # 999.6 kB would be rounded to 1000 kB
    return next(((unit, scale) for unit, scale in BYTE_UNITS if largest >= 0.9995 * scale), ("B", 1))


def seconds_text(seconds: float) -> str:
    """Return a duration in words: ``0.042 s``, ``12.3 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{three_digits(seconds)} s" if seconds >= 0.0005 else "0 s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def time_unit(largest: float) -> tuple[str, float]:
    """Return the unit in words, and the seconds in it, in which ``largest`` reads best."""
    return next(((unit, scale) for unit, scale in TIME_UNITS if largest >= 2 * scale), ("seconds", 1.0))


def three_digits(value: float) -> str:
    """Return a non-negative number with about three significant digits, without an exponent."""
    if value >= 99.95:
        return f"{value:.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.0995 else f"{value:.3f}"


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, a true minus, and no sign for what is shown as zero."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def count_text(count: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{count:,}"
