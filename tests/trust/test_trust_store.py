"""Lines that were kept stay, whatever write fails; what was not kept is not half there."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import DataError, UsageError
from unseen.trust import store
from unseen.trust.store import Lines, read_lines

TEXTS = [b"one", b"", b'{"two":2}', b"\xff"]


def test_lines_come_back(tmp_path: Path) -> None:
    with Lines(tmp_path / "file") as file:
        assert file.lines == ()
        file.append(*TEXTS)
        file.append(b"more")
        file.append()
        assert file.lines == (*TEXTS, b"more")
    with Lines(tmp_path / "file") as file:
        assert file.lines == (*TEXTS, b"more")
    assert read_lines(tmp_path / "file") == (*TEXTS, b"more")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_one_process_holds_a_file(tmp_path: Path) -> None:
    with Lines(tmp_path / "file"), pytest.raises(UsageError, match="is held by another process"):
        Lines(tmp_path / "file")
    Lines(tmp_path / "file").close()


def test_what_is_read_is_the_file_that_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody puts another one in its place meanwhile: its lines would be followed by ours, in a file without them."""
    for name, text in (("file", b"ours"), ("other", b"theirs")):
        with Lines(tmp_path / name) as file:
            file.append(text)
    hold = Lines._hold

    def held(self: Lines) -> None:
        hold(self)
        (tmp_path / "other").replace(tmp_path / "file")

    monkeypatch.setattr(Lines, "_hold", held)
    with Lines(tmp_path / "file") as file:
        assert file.lines == (b"ours",)


def test_a_file_cut_anywhere_has_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Lines(path) as file:
        file.append(*TEXTS)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        complete = whole[:size].count(b"\n")
        if size and not whole[:size].endswith(b"\n"):
            with pytest.raises(DataError, match="not finished"):
                read_lines(path)
        with Lines(path) as file:
            assert file.lines == tuple(TEXTS[:complete])
            file.append(b"next")
        assert read_lines(path) == (*TEXTS[:complete], b"next")


def test_damage_anywhere_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Lines(path) as file:
        file.append(b"one", b"two")
    whole = path.read_bytes()
    for at in range(len(whole) - 1):
        path.write_bytes(bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]]))
        with pytest.raises(DataError, match="is damaged"):
            Lines(path)
        with pytest.raises(DataError, match="is damaged"):
            read_lines(path)
    for lost in (whole[20:], whole[:20] + b"\n" + whole[20:]):
        path.write_bytes(lost)
        with pytest.raises(DataError, match="is damaged"):
            Lines(path)


class Faults:
    """Fails the n-th call of the system, or stops the process there."""

    def __init__(self, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = at
        for name in ("write", "fsync", "ftruncate"):
            monkeypatch.setattr(store.os, name, self.failing(name, getattr(os, name)))

    def failing(self, name: str, real):
        def call(file: int, *rest: object) -> object:
            self.left -= 1
            if self.left == 0:
                if name == "write":
                    real(file, bytes(rest[0])[: len(rest[0]) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            if name == "write":  # the system may take a part only
                return real(file, bytes(rest[0])[: max(1, len(rest[0]) // 2)])
            return real(file, *rest)

        return call


@pytest.mark.parametrize("at", range(1, 24))
def test_whatever_call_fails_what_was_kept_stays(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept, tried, told = tmp_path / "file", [], [], []
    with monkeypatch.context() as patched:
        Faults(at, patched)
        try:
            with Lines(path) as file:
                for text in TEXTS:
                    tried.append(text)
                    file.append(text)
                    kept.append(text)
        except DataError as error:
            told.append(str(error))
    with Lines(path) as file:
        # What was not said to be kept may be there, whole, or not at all.
        assert list(file.lines) in (kept, tried)
    assert all("No space left" in text for text in told)
    assert bool(told) == (kept != TEXTS)


def test_lines_are_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    with Lines(tmp_path / "file") as file, monkeypatch.context() as patched:
        for name in ("write", "fsync"):
            real = getattr(os, name)
            patched.setattr(
                store.os, name, lambda *args, _real=real, _name=name: (called.append(_name), _real(*args))[1]
            )
        file.append(b"one", b"two")
    assert called == ["write", "fsync"]


def test_after_a_failure_nothing_more_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lines(tmp_path / "file") as file:
        with monkeypatch.context() as patched:
            Faults(1, patched)
            with pytest.raises(DataError, match="cannot be written"):
                file.append(b"half of this line")
        with pytest.raises(DataError, match="open the file anew"):
            file.append(b"next")
        assert file.lines == ()
    assert (tmp_path / "file").read_bytes() != b""
    with Lines(tmp_path / "file") as file:
        assert file.lines == ()
    assert (tmp_path / "file").read_bytes() == b""


def test_a_line_has_no_line_feed(tmp_path: Path) -> None:
    with Lines(tmp_path / "file") as file, pytest.raises(UsageError, match="line feed"):
        file.append(b"one", b"two\nthree")
    assert read_lines(tmp_path / "file") == ()


def test_files_that_cannot_be_opened_are_told(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    for path in (tmp_path, tmp_path / "none" / "file", tmp_path / "link"):
        with pytest.raises(DataError, match="cannot be opened"):
            Lines(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_lines(tmp_path)


def test_the_first_digits_of_the_hash_stand_before_a_line(tmp_path: Path) -> None:
    with Lines(tmp_path / "file") as file:
        file.append(b"one")
    assert (tmp_path / "file").read_bytes() == hashlib.sha256(b"one").hexdigest()[:16].encode() + b" one\n"


@settings(max_examples=20, deadline=None)
@given(st.binary())
def test_other_files_are_refused_or_empty(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("store") / "file"
    path.write_bytes(content)
    try:
        with Lines(path) as file:
            assert file.lines == ()
    except DataError:
        assert b"\n" in content
