"""What reaches a terminal, and what comes from one: harmless text, and Ctrl-C."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen.cli.interrupt import SIGNALS, cancel_on_signal
from unseen.cli.terminal import harmless

# --- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b[1;1H", r"\x1b[2J\x1b[1;1H"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("invoice\u202egnp.exe", r"invoice\u202egnp.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("kept\roverwritten", r"kept\roverwritten"),
        ("gone\b\x7f", r"gone\x08\x7f"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert harmless(text) == shown


@pytest.mark.parametrize("text", ["", "two\nlines", "café, 数据, √2 · Ω", r"a \x1b that is text", "🔒"])
def test_ordinary_text_stays_as_it_is(text):
    assert harmless(text) == text


@given(st.text(st.characters()))
def test_nothing_but_printable_characters_and_line_ends_is_left(text):
    shown = harmless(text)
    assert shown.replace("\n", "").isprintable()
    assert shown.count("\n") == text.count("\n")
    assert harmless(shown) == shown


# --- signals -----------------------------------------------------------------------------------------------------


@pytest.fixture
def earlier():
    """Handlers of somebody else, which note what they get."""
    got = []
    before = {number: signal.signal(number, lambda number, _: got.append(number)) for number in SIGNALS}
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_politely_and_the_second_acts_as_before(earlier, number):
    before = handlers()
    with cancel_on_signal() as cancel:
        assert not cancel.is_set()
        signal.raise_signal(number)
        assert cancel.is_set()
        assert earlier == []
        signal.raise_signal(number)
        assert earlier == [number]
    assert handlers() == before


def test_the_second_may_be_another_one(earlier):
    with cancel_on_signal() as cancel:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert cancel.is_set()
    assert earlier == [signal.SIGINT]


def test_a_second_ctrl_c_interrupts_at_once(earlier):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with cancel_on_signal():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert earlier == []


def test_handlers_come_back_also_after_an_error(earlier):
    before = handlers()
    during = []

    def work():
        with cancel_on_signal():
            during.extend(handlers())
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert not {*during} & {*before}
    assert handlers() == before
    signal.raise_signal(signal.SIGTERM)
    assert earlier == [signal.SIGTERM]
