"""What an auditor takes away as files, and checks without any node."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from unseen.ids import PartyId
from unseen.trust.audit import Event, Record, Trail
from unseen.trust.envelope import seal
from unseen.trust.keys import SigningKey

BANK, NOW = PartyId("bank"), datetime(2026, 3, 2, tzinfo=UTC)
KEY = SigningKey.generate()


def written(count: int, trail: Trail, name: str = "1") -> tuple[list[bytes], Trail]:
    lines: list[bytes] = []
    for _ in range(count):
        event, subject = (Event.GRANT_ISSUED, name * 64) if trail.count else (Event.OPENED, KEY.public)
        at = NOW + timedelta(seconds=trail.count)
        lines.append(trail.record(event, at, party=BANK, subject=subject).payload())
        trail = trail.after(lines[-1])
    return lines, trail


LINES, END = written(9, Trail())
FORK = [*LINES[:5], *written(4, written(5, Trail())[1], "2")[0]]
TAMPERINGS = {
    "edit": [*LINES[:3], Record.model_validate_json(LINES[3]).model_copy(update={"count": 1}).payload(), *LINES[4:]],
    "delete": [*LINES[:3], *LINES[4:]],
    "insert": [*LINES[:3], LINES[3], *LINES[3:]],
    "reorder": [*LINES[:3], LINES[4], LINES[3], *LINES[5:]],
    "tail truncation": LINES[:8],
    "fork": FORK,
    "rollback": LINES[:2],
}


class Insurer:
    """The insurer's node, which holds the bank's head; and the bank's, to take its trail from."""

    def __init__(self, party: str = BANK) -> None:
        self.party = party

    def __enter__(self) -> Insurer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def audit(self, _: str) -> bytes:
        return b"".join(line + b"\n" for line in LINES)

    def trail(self, _: str) -> dict[str, object]:
        frame = seal(END.head(BANK, NOW), KEY).to_bytes()
        return {"heads": [{"party": self.party, "count": END.count, "frame": b64encode(frame).decode()}]}


@pytest.fixture
def taken(tmp_path, monkeypatch, unseen) -> tuple[Path, Path]:
    monkeypatch.setattr("unseen.cli.remote.session", Insurer)
    trail, heads = tmp_path / "trail", tmp_path / "heads"
    made = unseen("project", "trail", "credit", "--out", trail, "--heads", heads)
    assert made.code == 0, made.err
    assert [path.name for path in heads.iterdir()] == ["bank.head"]
    return trail, heads / "bank.head"


def test_a_trail_and_the_heads_that_partners_hold_are_checked_from_files(taken, unseen) -> None:
    trail, head = taken
    checked = unseen("audit", "verify", trail, "--head", head)
    assert checked.code == 0, checked.err
    assert "others vouch for the first 9 records" in checked.out
    again = unseen("project", "trail", "credit", "--out", trail.with_name("other"), "--heads", head.parent)
    assert (again.code, "is there already" in again.err) == (2, True)
    assert not trail.with_name("other").exists()


@pytest.mark.parametrize("how", TAMPERINGS)
def test_no_tampering_passes_the_head_of_a_partner(taken, unseen, how) -> None:
    trail, head = taken
    trail.write_bytes(b"".join(line + b"\n" for line in TAMPERINGS[how]))
    assert unseen("audit", "verify", trail, "--head", head).code != 0


def test_a_node_does_not_choose_where_heads_are_written(tmp_path, monkeypatch, unseen) -> None:
    monkeypatch.setattr("unseen.cli.remote.session", lambda: Insurer("../elsewhere"))
    made = unseen("project", "trail", "credit", "--out", tmp_path / "trail", "--heads", tmp_path / "heads")
    assert made.code != 0
    assert not list(tmp_path.glob("elsewhere*"))
