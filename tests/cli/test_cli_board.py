"""The live picture of a job, as it follows from the events of one or several parties."""

from io import StringIO

import pytest
from rich.console import Console

from unseen.cli.board import Board, watching
from unseen.dialogue import Event, Usage
from unseen.ids import PartyId, StepId

BANK, PARTNER, TELCO = PartyId("bank"), PartyId("partner"), PartyId("telco")
READ, TRAIN = StepId("read"), StepId("train")


def event(party, what, step=TRAIN, *, sent=0, seconds=0.0, **fields):
    return Event(party, step, what, usage=Usage(bytes_sent=sent, seconds=seconds), **fields)


def state(board, step=TRAIN):
    return board.cells(step)[0]


def drawn(board):
    screen = Console(file=StringIO(), width=100)
    screen.print(board)
    return [line.split() for line in screen.file.getvalue().splitlines()]


@pytest.fixture
def board():
    return Board([READ, TRAIN], parties=3)


def test_a_step_that_nobody_entered_is_blank(board):
    assert board.cells(READ) == ("", "", "", "")
    assert drawn(board) == [["step", "state", "time", "bytes"], ["read"], ["train"]]


def test_a_step_is_done_when_the_last_party_leaves_it_and_not_before(board):
    for party in (BANK, PARTNER, TELCO):
        assert board.hear(event(party, "enter")) is None
        assert state(board) == "…"
    assert board.hear(event(TELCO, "leave")) is None
    assert board.hear(event(BANK, "leave")) is None
    assert board.hear(event(BANK, "leave")) is None, "the same party twice is not two parties"
    assert state(board) == "…"
    assert board.hear(event(PARTNER, "leave")) == TRAIN
    assert state(board) == "done"
    assert state(board, READ) == ""


def test_a_reused_step_says_so(board):
    for party in (BANK, PARTNER):
        assert board.hear(event(party, "leave", note="reused")) is None
    assert board.hear(event(TELCO, "leave", note="reused")) == TRAIN
    assert state(board) == "reused"


def test_progress_is_shown_and_not_lost_to_a_party_that_comes_later(board):
    board.hear(event(BANK, "enter"))
    board.hear(event(BANK, "progress", done=3, total=20, note="loss 0.61"))
    board.hear(event(PARTNER, "enter"))
    assert (state(board), board.cells(TRAIN)[3]) == ("3/20", "loss 0.61")
    board.hear(event(PARTNER, "progress", done=4, total=20, note="loss 0.58"))
    assert (state(board), board.cells(TRAIN)[3]) == ("4/20", "loss 0.58")
    assert drawn(board)[2] == ["train", "4/20", "0", "s", "0", "B", "loss", "0.58"]


def test_bytes_are_those_of_all_parties_and_time_that_of_the_slowest(board):
    board.hear(event(BANK, "progress", sent=700, seconds=1.0))
    board.hear(event(BANK, "progress", sent=1500, seconds=2.0))
    board.hear(event(PARTNER, "progress", sent=2500, seconds=3.5))
    assert board.cells(TRAIN)[1:3] == ("3.50 s", "4.00 kB")
    board.hear(event(BANK, "leave", sent=3000, seconds=2.5))
    assert board.cells(TRAIN)[1:3] == ("3.50 s", "5.50 kB")


def test_what_belongs_to_no_step_of_the_flow_changes_nothing(board):
    assert board.hear(event(BANK, "enter", step=None)) is None
    assert board.hear(event(BANK, "leave", step=StepId("elsewhere"))) is None
    assert drawn(board)[1:] == [["read"], ["train"]]


def test_notes_are_neither_markup_nor_obeyed(board):
    board.hear(event(BANK, "progress", done=1, total=2, note="[red]x[/red] \x1b[2J"))
    screen = Console(file=StringIO(), width=100, force_terminal=True, color_system="truecolor")
    screen.print(board)
    shown = screen.file.getvalue()
    assert r"[red]x[/red] \x1b[2J" in shown
    assert "\x1b[2J" not in shown


# --- watching ----------------------------------------------------------------------------------------------------


def play(observe):
    for party in (BANK, PARTNER):
        observe(event(party, "enter", READ))
        observe(event(party, "progress", READ, done=1, total=2, note="half [b]way\x07"))
        observe(event(party, "leave", READ, sent=50, seconds=0.5))
    observe(event(BANK, "enter"))
    for party in (BANK, PARTNER):
        observe(event(party, "leave", note="reused"))


def test_without_a_terminal_each_finished_step_is_one_line():
    screen = Console(file=StringIO(), width=100)
    with watching(screen, [READ, TRAIN], parties=2) as observe:
        play(observe)
    assert [line.split() for line in screen.file.getvalue().splitlines()] == [
        ["read", "done", "0.50", "s", "100", "B", "half", r"[b]way\x07"],
        ["train", "reused", "0", "s", "0", "B"],
    ]


def test_on_a_terminal_the_last_picture_stays():
    screen = Console(file=StringIO(), width=100, force_terminal=True, color_system=None)
    with watching(screen, [READ, TRAIN], parties=2) as observe:
        play(observe)
    last = screen.file.getvalue().split("step ")[-1].splitlines()
    assert last[1].split()[:3] == ["read", "done", "0.50"]
    assert last[2].split()[:2] == ["train", "reused"]
