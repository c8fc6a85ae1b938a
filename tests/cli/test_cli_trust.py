"""``unseen agreement`` and ``unseen audit``, as two parties and an auditor use them on files."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from unseen.component import installed_components
from unseen.ids import PartyId
from unseen.transport.tls import issue, make_authority
from unseen.trust.audit import Event, Trail
from unseen.trust.envelope import Envelope, Signature, read_envelope, seal
from unseen.trust.keys import SIGNING_KEY_FILE, SigningKey
from unseen.trust.store import Lines

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def parties(tmp_path: Path, unseen) -> dict[str, dict[str, str]]:
    """Two identities, and what `unseen agreement key` prints of them."""
    authority = make_authority("test", days=9, now=NOW)
    found = {}
    for name in ("bank", "partner"):
        issue(authority, PartyId(name), days=9, now=NOW).save(tmp_path / name)
        ended = unseen("agreement", "key", tmp_path / name, "--party", name)
        assert ended.code == 0, ended.err
        found[name] = json.loads(ended.out)
    return found


@pytest.fixture
def text(tmp_path: Path, parties: dict[str, dict[str, str]]) -> Path:
    content = {
        "project": "credit",
        "purpose": "one score \u009b\u202e",
        "valid_from": NOW - timedelta(days=1),
        "valid_until": NOW + timedelta(days=30),
        "members": list(parties.values()),
        "initiators": ["bank"],
        "tables": [
            {
                "owner": name,
                "name": "customers",
                "schema_digest": "0" * 64,
                "columns": [{"name": "id", "role": "join-key"}],
            }
            for name in parties
        ],
        "components": [{"name": "psi_join", "version": installed_components()["psi_join"].version}],
    }
    path = tmp_path / "agreement.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def agreement(tmp_path: Path, text: Path, unseen) -> Path:
    ended = unseen("agreement", "new", text, "--out", tmp_path / "agreement.unseen")
    assert ended.code == 0, ended.err
    return tmp_path / "agreement.unseen"


def test_two_parties_sign_and_everybody_can_check(agreement: Path, tmp_path: Path, unseen) -> None:
    ended = unseen("agreement", "check", agreement)
    assert ended.code == 1
    assert "lacks the signature" in ended.err
    ended = unseen("agreement", "sign", agreement, "--identity", tmp_path / "bank")
    assert "signed for bank; 1 of 2" in ended.out
    ended = unseen("agreement", "show", agreement)
    assert '"purpose": "one score \\u009b\\u202e"' in ended.out
    assert "bank: signed" in ended.out
    assert "partner: has not signed" in ended.out
    ended = unseen("agreement", "sign", agreement, "--identity", tmp_path / "bank")
    assert ended.code == 2
    assert "has signed" in ended.err
    unseen("agreement", "sign", agreement, "--identity", tmp_path / "partner")
    ended = unseen("agreement", "check", agreement)
    assert ended.code == 0, ended.err
    assert "is signed by bank, partner and holds until" in ended.out


def test_a_change_follows_what_it_changes(agreement: Path, text: Path, tmp_path: Path, unseen) -> None:
    second = tmp_path / "second.unseen"
    assert unseen("agreement", "new", text, "--out", second, "--after", agreement).code == 0
    for name in ("bank", "partner"):
        for path in (agreement, second):
            assert unseen("agreement", "sign", path, "--identity", tmp_path / name).code == 0
    ended = unseen("agreement", "check", agreement, second)
    assert "agreement credit version 2 is signed" in ended.out
    assert unseen("agreement", "check", second).code == 1


def test_a_member_with_a_new_key_signs_with_the_old_one_too(
    agreement: Path, text: Path, tmp_path: Path, unseen
) -> None:
    def sign(path: Path, name: str, *more: object):
        return unseen("agreement", "sign", path, "--identity", tmp_path / name, *more)

    for name in ("bank", "partner"):
        sign(agreement, name)
    old, second = tmp_path / "old", tmp_path / "second.unseen"
    old.mkdir()
    (tmp_path / "partner" / SIGNING_KEY_FILE).rename(old / SIGNING_KEY_FILE)
    made = json.loads(unseen("agreement", "key", tmp_path / "partner", "--party", "partner").out)
    content = yaml.safe_load(text.read_text())
    text.write_text(yaml.safe_dump({**content, "members": [content["members"][0], made]}))
    assert unseen("agreement", "new", text, "--out", second, "--after", agreement).code == 0
    for name in ("bank", "partner"):
        assert sign(second, name).code == 0
    assert "lacks the signature" in unseen("agreement", "check", agreement, second).err
    ended = sign(second, "old")
    assert ended.code == 3
    assert "a key of the version before: say --after FILE" in ended.err
    assert "is not the one before" in sign(second, "old", "--after", second).err
    assert "signed for partner; 3 of 3 have signed" in sign(second, "old", "--after", agreement).out
    ended = unseen("agreement", "check", agreement, second)
    assert ended.code == 0, ended.err


def test_an_agreement_that_is_over_does_not_hold(text: Path, tmp_path: Path, unseen) -> None:
    content = yaml.safe_load(text.read_text())
    content["valid_until"] = NOW - timedelta(hours=1)
    text.write_text(yaml.safe_dump(content))
    path = tmp_path / "old.unseen"
    unseen("agreement", "new", text, "--out", path)
    for name in ("bank", "partner"):
        unseen("agreement", "sign", path, "--identity", tmp_path / name)
    ended = unseen("agreement", "check", path)
    assert ended.code == 3
    assert "and it is" in ended.err


def test_strangers_and_forgers_do_not_sign(agreement: Path, tmp_path: Path, unseen) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    SigningKey.generate().save(stranger)
    ended = unseen("agreement", "sign", agreement, "--identity", stranger)
    assert ended.code == 3
    assert "is not one of bank, partner" in ended.err
    made = read_envelope(agreement.read_bytes(), sender="test")
    forged = Envelope(made.kind, made.payload, (Signature("0" * 64, bytes(64)),))
    agreement.write_bytes(forged.to_bytes())
    ended = unseen("agreement", "sign", agreement, "--identity", tmp_path / "bank")
    assert ended.code == 1
    assert "not good" in ended.err
    assert agreement.read_bytes() == forged.to_bytes()


def test_the_key_stays_when_it_is_asked_for_again(parties: dict[str, dict[str, str]], tmp_path: Path, unseen) -> None:
    ended = unseen("agreement", "key", tmp_path / "bank", "--party", "bank")
    assert json.loads(ended.out) == parties["bank"]
    ended = unseen("agreement", "key", tmp_path / "nobody", "--party", "bank")
    assert ended.code == 2
    assert "make its certificate first" in ended.err


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[]", "expected a mapping"),
        ("a: [", "is not YAML"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases"),
        ("members:\n- {party: bank, key: '1', key: '2'}", "line 2: 'key' stands twice"),
        ("project: credit\nproject: other", "line 2: 'project' stands twice"),
        ("project: credit", "Field required"),
        ("project: !!binary aGk=", "cannot stand in an agreement"),
    ],
)
def test_texts_that_are_no_agreements_are_refused(content: str, found: str, tmp_path: Path, unseen) -> None:
    (tmp_path / "text.yaml").write_text(content)
    ended = unseen("agreement", "new", tmp_path / "text.yaml", "--out", tmp_path / "out")
    assert ended.code == 2
    assert found in ended.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def trail(tmp_path: Path) -> tuple[Path, SigningKey, Trail]:
    own, state = SigningKey.generate(), Trail()
    with Lines(tmp_path / "trail") as file:
        for event in (Event.OPENED, Event.AGREEMENT, Event.JOB_ENDED):
            line = state.record(event, NOW, party="bank", subject=own.public).payload()
            file.append(line)
            state = state.after(line)
    return tmp_path / "trail", own, state


def test_an_auditor_verifies_a_trail(trail: tuple[Path, SigningKey, Trail], tmp_path: Path, unseen) -> None:
    path, own, state = trail
    head = tmp_path / "head"
    head.write_bytes(seal(state.head(PartyId("bank"), NOW), own).to_bytes())
    ended = unseen("audit", "verify", path)
    assert ended.code == 0, ended.err
    assert "3 records of bank" in ended.out
    assert "nobody vouches for the 3 records at its end" in ended.out
    ended = unseen("audit", "verify", path, "--head", head)
    assert "it passes through 1 heads; others vouch for the first 3 records" in ended.out
    assert "nobody" not in ended.out
    ended = unseen("audit", "verify", path, "--head", head, "--json")
    assert json.loads(ended.out) == {
        "party": "bank", "key": own.public, "records": 3, "last": state.digest, "heads": 1, "vouched": 3,
    }  # fmt: skip
    whole = path.read_bytes().splitlines(keepends=True)
    handed_out = tmp_path / "handed-out"
    plain = [line.partition(b" ")[2] for line in whole]
    handed_out.write_bytes(b"".join(plain))
    assert "vouch for the first 3 records" in unseen("audit", "verify", handed_out, "--head", head).out
    for lost in (plain[1:], [plain[0], plain[2]], [plain[1], plain[0], plain[2]], [plain[0].replace(b"o", b"0")]):
        handed_out.write_bytes(b"".join(lost))
        assert unseen("audit", "verify", handed_out).code == 1
    path.write_bytes(b"".join(whole[:2]))
    ended = unseen("audit", "verify", path, "--head", head)
    assert ended.code == 1
    assert "its end was cut off" in ended.err
    assert unseen("audit", "verify", path, "--head", tmp_path / "none").code == 2
