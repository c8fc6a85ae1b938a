"""Backup, restore and purge as people type them."""

from __future__ import annotations

import pytest

from unseen.node import backup as backups


@pytest.fixture
def phrase(tmp_path, monkeypatch):
    monkeypatch.setattr(backups, "_SCRYPT_N", 1 << 10)
    (tmp_path / "phrase").write_text("correct horse battery\n")
    return tmp_path / "phrase"


def test_a_node_is_copied_put_back_and_cleared(unseen, tmp_path, phrase):
    assert unseen("node", "init", tmp_path / "bank", "--name", "bank").code == 0
    copied = unseen("node", "backup", tmp_path / "copy", tmp_path / "bank", "--passphrase-file", phrase)
    assert (copied.code, "all of bank" in copied.out) == (0, True)
    again = unseen("node", "restore", tmp_path / "copy", tmp_path / "again", "--passphrase-file", phrase)
    assert (again.code, "bank as it was on" in again.out) == (0, True)
    assert unseen("node", "status", tmp_path / "again").code == 0
    assert "gone: 0 jobs" in unseen("node", "purge", tmp_path / "again", "--days", 0).out
    assert "nothing starts with anybody" in unseen("node", "reconcile", tmp_path / "again").out


def test_a_wrong_passphrase_is_told_in_a_line(unseen, tmp_path, phrase):
    unseen("node", "init", tmp_path / "bank", "--name", "bank")
    unseen("node", "backup", tmp_path / "copy", tmp_path / "bank", "--passphrase-file", phrase)
    phrase.write_text("another horse battery\n")
    ended = unseen("node", "restore", tmp_path / "copy", tmp_path / "again", "--passphrase-file", phrase)
    assert (ended.code, "another passphrase made it" in ended.err) == (1, True)
    ended = unseen("node", "backup", tmp_path / "copy2", tmp_path / "bank", "--passphrase-file", tmp_path / "nothing")
    assert (ended.code, "cannot be read" in ended.err) == (2, True)
