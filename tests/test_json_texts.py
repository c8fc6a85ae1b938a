"""Whatever reads JSON from a peer or a file answers nonsense with an error of its own, however deep or long it is."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unseen
from unseen.cli.run import NOTE, resume
from unseen.codec import encode_bytes, read_json
from unseen.data import table
from unseen.data.federated import leaf
from unseen.data.schema import Schema
from unseen.demo import processes
from unseen.errors import UnseenError
from unseen.flow.spec import parse_flow
from unseen.ids import PartyId
from unseen.learners.horizontal.neural import warm_start
from unseen.node import partners
from unseen.node.app import PartyConfig
from unseen.node.folder import Node
from unseen.privacy.limits import read_limits
from unseen.rounds.checkpoint import Checkpoints, KeptState
from unseen.rounds.program import Program
from unseen.transport.tls import issue, make_authority
from unseen.transport.vouchers import vouched
from unseen.trust.agreement import Agreement
from unseen.trust.audit import Trail
from unseen.trust.budgets import read_entry
from unseen.trust.envelope import Envelope, read_statement
from unseen.trust.grant import Grant, Proof, read_mark
from unseen.trust.journal import read_record

DEEP = 2_000
NOW = datetime(2026, 5, 1, tzinfo=UTC)
SELF = issue(make_authority("Test", days=9, now=NOW), PartyId("self"), days=9, now=NOW)


def of_text(read):
    return lambda content, _folder: read(content.decode("utf-8", "replace"))


def of_bytes(read):
    return lambda content, _folder: read(content)


def of_file(name, read):
    def run(content, folder):
        (folder / name).write_bytes(content)
        return read(folder)

    return run


def statement(kind):
    return of_bytes(lambda content: read_statement(Envelope(kind.kind, content, ()), kind, sender="a peer"))


def kept_history(content, folder):
    state = KeptState(1, np.zeros(2), (), content.decode("utf-8", "replace"))
    (folder / "state.bin").write_bytes(encode_bytes(state))
    return Checkpoints(folder).load()


READERS = {
    "a voucher": of_bytes(lambda content: vouched(content, SELF, NOW)),
    "an agreement": statement(Agreement),
    "a grant": statement(Grant),
    "a proof": statement(Proof),
    "a trail": of_bytes(lambda content: Trail().after(content)),
    "a ledger": of_bytes(lambda content: read_entry(content, "here")),
    "marks": of_bytes(lambda content: read_mark(content, "here")),
    "a journal": of_bytes(lambda content: read_record(content, "here")),
    "limits": of_bytes(lambda content: read_limits(content, "here")),
    "a partner list": of_file(partners.PARTNERS_FILE, lambda folder: partners.Partners(folder).all()),
    "a node": of_file("node.yaml", Node),
    "a party": of_file("party.yaml", lambda folder: PartyConfig.read(folder / "party.yaml")),
    "a flow": of_text(parse_flow),
    "a program": of_text(Program.parse),
    "a schema": of_bytes(Schema.from_json),
    "a table's note": of_text(lambda text: table._parse_note(Path("t"), text)),
    "LEAF": of_file("leaf.json", lambda folder: leaf._content(folder / "leaf.json")),
    "weights": of_bytes(lambda text: warm_start._safetensors(Path("w"), len(text).to_bytes(8, "little") + text)),
    "a run": of_file("run.json", lambda folder: Checkpoints(folder).begin({})),
    "a history": kept_history,
    "a demo's process": of_text(processes._said),
    "a run to resume": of_file(NOTE, resume),
}

TEXTS = {
    "lists": b"[" * DEEP + b"]" * DEEP,
    "inside": b'{"columns":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "long-number": b'{"version":' + b"9" * 5000 + b"}",
    "half-a-pair": b'{"a":"\\ud800"}',
    "no-utf-8": b'{"a":"\xff"}',
    "not-finite": b'{"epsilon":NaN,"number":1e999}',
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("reader", READERS)
def test_nonsense_is_refused_and_breaks_nothing(tmp_path, reader, text):
    refuse_or_read(READERS[reader], TEXTS[text], tmp_path)


def refuse_or_read(read, content, folder):
    """What is read may happen to be fine; anything but a declared error may not."""
    with suppress(UnseenError):
        read(content, folder)


NAMES = st.sampled_from(
    ["columns", "certificate", "key", "record", "entry", "event", "users", "flow", "format", "error"]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), NAMES)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4))


@settings(max_examples=15, deadline=None)
@given(value=VALUES)
def test_any_value_of_json_is_refused_or_read(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("texts")
    for read in READERS.values():
        refuse_or_read(read, json.dumps(value).encode(), folder)


def test_json_is_read_in_one_place_that_bounds_its_depth():
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(TEXTS["lists"])
    source = Path(unseen.__file__).parent
    users = [path for path in source.rglob("*.py") if re.search(r"\bjson\.loads?\(", path.read_text(encoding="utf-8"))]
    assert users == [source / "codec.py"]
