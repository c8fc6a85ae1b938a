import pytest

from unseen.report.units import bytes_text, seconds_text, signed, time_unit


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (96_400, "96.4 kB"),
        (999_499, "999 kB"),
        (999_700, "1.00 MB"),
        (142_600_000, "143 MB"),
        (3_210_000_000_000, "3210 GB"),
    ],
)
def test_bytes(count: int, text: str):
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0421, "0.042 s"),
        (1.0, "1.00 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3720, "1 h 02 min"),
    ],
)
def test_seconds(seconds: float, text: str):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("seconds", "unit"), [(0, "seconds"), (119, "seconds"), (121, "minutes"), (7200, "hours")])
def test_time_unit(seconds: float, unit: str):
    assert time_unit(seconds)[0] == unit


@pytest.mark.parametrize(("value", "text"), [(0.0791, "+0.079"), (-0.0791, "−0.079"), (-0.0001, "0.000")])
def test_signed(value: float, text: str):
    assert signed(value, 3) == text
