"""Imports in a process of their own: the same as here, with limits; what ends the process is an error of the file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import polars as pl
import pytest

from unseen.data.schema import Kind, Role
from unseen.errors import DataError, LocalProtocolError, UsageError
from unseen.node import importing
from unseen.node.importing import Apart, Task, import_here
from unseen.node.processes import bare_environment

CSV = "phone,income,bad\n0123,1,0\n0456,2.5,1\n0789,,1\n0123,4,1\n0999,5,0\n"


def task(tmp_path, text=CSV, **said):
    source = tmp_path / "upload"
    source.write_text(text)
    usual = {"roles": {"phone": Role.ID, "bad": Role.LABEL}, "kinds": {"phone": Kind.TEXT}}
    return Task(**{"source": source, "target": tmp_path / "table.parquet", **usual, **said})


def test_apart_makes_the_same_as_here_bad_rows_and_all(tmp_path):
    wanted = task(tmp_path, quarantine=tmp_path / "quarantine.csv", only=("phone", "bad"))
    here = import_here(wanted)
    left = {path.name: path.read_bytes() for path in (wanted.target, wanted.quarantine)}
    wanted.target.unlink()
    apart = Apart()(wanted)
    assert apart == here
    assert {path.name: path.read_bytes() for path in (wanted.target, wanted.quarantine)} == left
    assert (apart.rows, apart.schema.names, apart.report.problems[0].count) == (3, ("phone", "bad"), 2)


def test_errors_of_the_file_and_of_the_wish_come_as_they_are(tmp_path):
    for wrong, kind, words in (
        (task(tmp_path), DataError, "duplicate id"),
        (task(tmp_path, roles={"rent": Role.ID}), UsageError, "there is no column rent"),
    ):
        with pytest.raises(kind, match=words) as apart:
            Apart()(wrong)
        with pytest.raises(kind) as here:
            import_here(wrong)
        assert str(apart.value) == str(here.value)


def test_a_file_that_fills_the_memory_ends_its_process_alone(tmp_path, monkeypatch):
    """A column of one value takes next to nothing in a file; here two million rows are enough for a small limit."""
    source = tmp_path / "bomb.parquet"
    pl.LazyFrame().select(id=pl.int_range(0, 2_000_000), same=pl.repeat(7, 2_000_000)).sink_parquet(source)
    monkeypatch.setattr(importing, "_LEAST_BYTES", 1)
    with pytest.raises(DataError, match=r"needs more than the 0\.1 GiB of memory that it may have"):
        Apart(96 << 20)(Task(source=source, target=tmp_path / "table.parquet", roles={}, kinds={}))
    assert not (tmp_path / "table.parquet").exists()


def test_an_import_that_takes_too_long_is_killed(tmp_path):
    """A pipe that nobody writes to is a file that never ends."""
    endless = tmp_path / "endless"
    os.mkfifo(endless)
    with pytest.raises(DataError, match="importing needs more than 0 s"):
        Apart(seconds=0.2)(task(tmp_path).model_copy(update={"source": endless}))


@pytest.mark.parametrize("line", ["{}\n", "nonsense\n", '{"error": "SystemExit", "text": "x"}\n'])
def test_a_process_that_was_taken_over_says_nothing_that_is_believed(tmp_path, line):
    with pytest.raises(LocalProtocolError):
        importing._understood(line, 0, task(tmp_path), 1 << 30)


def test_it_ends_with_its_node_and_knows_no_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    assert "hunter2" not in bare_environment().values()
    command = (sys.executable, "-P", "-m", "unseen.node.importing")
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=bare_environment())
    assert ended.returncode not in {0, -signal.SIGKILL}
    assert ended.stdout == b""
