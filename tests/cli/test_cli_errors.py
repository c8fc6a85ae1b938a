"""Every kind of error has its exit code; what programs do not raise on purpose is not hidden."""

import sys

import pytest

from unseen import errors
from unseen.cli import main as cli

CASES = [
    (errors.UsageError, 2),
    (errors.PermissionDenied, 3),
    (errors.TransportError, 4),
    (errors.PeerUnreachable, 4),
    (errors.HandshakeRefused, 4),
    (errors.DeadlineExceeded, 4),
    (errors.DataError, 1),
    (errors.RemoteProtocolError, 1),
    (errors.LocalProtocolError, 1),
    (errors.Deadlock, 1),
    (errors.PeerFailed, 1),
    (errors.Cancelled, 1),
]


@pytest.fixture
def failing(monkeypatch):
    def make(error):
        def fail():
            raise error

        monkeypatch.setattr(cli, "app", fail)
        monkeypatch.setenv("COLUMNS", "60")

    return make


@pytest.mark.parametrize(("kind", "code"), CASES)
def test_every_error_has_its_exit_code(failing, capsys, kind, code):
    error = kind("went wrong [red]here[/red]")
    error.add_note("at party bank, step train")
    failing(error)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["Error: went wrong [red]here[/red]", "  at party bank, step train"]
    assert printed.out == ""


def test_every_error_class_is_covered():
    def below(kind):
        return {kind}.union(*(below(sub) for sub in kind.__subclasses__()))

    ours = {kind for kind in below(errors.UnseenError) if kind.__module__ == "unseen.errors"}
    assert ours - {errors.UnseenError} == {kind for kind, _ in CASES}


def test_a_bug_is_not_hidden(failing):
    failing(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main()
    assert "unseen.cli" in sys.modules
