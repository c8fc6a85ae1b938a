"""Letters: each comes back as it was written; whatever else comes is refused, and changes nothing but the trail."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from organisations import (
    ANN,
    BANK,
    BEN,
    CREDIT,
    INSURER,
    NOW,
    agreement_text,
    allied,
    deliver,
    propose,
    register,
    small_flow,
)
from test_node_projects import say

from unseen.codec import encode_bytes
from unseen.errors import RemoteProtocolError, UsageError
from unseen.flow.spec import FlowSpec
from unseen.node.letters import Envelope, JobProposed, TableHeld, TablesHeld, read_letter, write_letter


@cache
def samples(folder) -> tuple[bytes, ...]:
    """Letters of all kinds that a bank has written."""
    bank, _ = nodes = allied(folder, BANK, INSURER)
    found: list[bytes] = []
    job = propose(bank, BANK, INSURER)
    for act in (
        lambda: None,
        lambda: deliver(nodes),
        lambda: bank.jobs.cancel(job, "enough", ANN),
        lambda: bank.projects.draft(agreement_text(BANK, INSURER, purpose="another"), ANN),
        lambda: bank.projects.revoke(CREDIT, "over", BEN),
    ):
        act()
        found += [body for _, body in bank.mailroom.waiting(INSURER)]
    return tuple(dict.fromkeys(found))


def test_a_letter_comes_back_as_it_was_written(tmp_path) -> None:
    for body in samples(tmp_path):
        assert write_letter(read_letter(body, BANK)) == body


def test_no_text_has_a_zero_character() -> None:
    for bad in ("a\0", "\0"):
        table = TableHeld("bank", bad, "0" * 64, 1)
        with pytest.raises(RemoteProtocolError, match="zero character"):
            read_letter(write_letter(TablesHeld("credit", (table,))), BANK)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(["card", "job-proposed", "head-signed", "none", ""]))
def test_no_letter_raises_anything_but_what_it_may(garbage, kind) -> None:
    for body in (garbage, encode_bytes(Envelope(kind, garbage))):
        with pytest.raises(RemoteProtocolError):
            read_letter(body, BANK)


def test_mutated_letters_have_no_effect_but_on_the_trail(tmp_path) -> None:
    bodies = samples(tmp_path)
    (folder := tmp_path / "fresh").mkdir()
    _, insurer = allied(folder, BANK, INSURER)
    draw = random.Random(7)
    for _ in range(80):
        body = bytearray(draw.choice(bodies))
        for _ in range(draw.randint(1, 3)):
            body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
        say(insurer, BANK, bytes(body))
    assert insurer.audit.verify(CREDIT).count == len(insurer.audit.records(CREDIT))
    assert insurer.agreed().current.version == 1
    assert all(job.state.is_over or job.initiator == BANK for job in insurer.jobs.all())


FLOWS: dict[str, dict[str, object]] = {
    "no such component": {"align": {"use": "nothing", "in": {"table": "read.table"}}},
    "no such port": {"align": {"use": "psi_join", "in": {"table": "read.nothing"}}},
    "a circle": {"align": {"use": "psi_join", "in": {"table": "split.train"}}},
    "a look-up without a catalogue": {"align": {"use": "psi_lookup", "in": {"table": "read.table"}}},
    "another reader of tables": {"align": {"use": "psi_join", "in": {"table": "tables.customers"}}},
    "columns that are not there": {
        "read": {
            "use": "read_table",
            "in": {"source": "tables.customers"},
            "params": {"columns": {"insurer": {"nothing": "id"}}},
        }
    },
    "ids of nobody": {"split": {"use": "psi_join", "in": {"table": "align.table"}, "params": {"keys": {"x": ["y"]}}}},
    "a parameter of another kind": {
        "split": {"use": "split", "in": {"table": "align.table"}, "params": {"test": [[[]]] * 50}}
    },
}


@pytest.mark.parametrize("steps", FLOWS.values(), ids=FLOWS)
def test_a_flow_that_cannot_run_is_refused_with_a_reason(allies, steps) -> None:
    _, insurer = allies
    flow = small_flow(BANK, INSURER)
    flow["steps"] = {**flow["steps"], **steps}  # type: ignore[dict-item]  # a mapping
    entry = register(insurer, "second")
    tables = (TableHeld(BANK, "customers", "0" * 64, 5), TableHeld(INSURER, "customers", entry.digest, entry.rows))
    for step in flow["steps"].values():  # type: ignore[union-attr]  # a mapping
        step.setdefault("params", {})
        step.setdefault("in", {})
    text = json.dumps({"unseen": 1, **flow}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    letter = JobProposed(CREDIT, "job-7", text, tables, 5, 0.0, 0.0, "2026-03-02T10:00:00+00:00")
    assert say(insurer, BANK, letter) == []
    (job,) = insurer.jobs.all()
    assert job.state.is_over
    assert job.reason.startswith("refused by insurer")
    assert len(job.reason) > 30
    assert "secret" not in job.reason, "names of columns are not for everybody"


def test_what_is_too_long_for_a_letter_is_told_to_whoever_writes_it(allies) -> None:
    bank, _ = allies
    flow = small_flow(BANK, INSURER)
    flow["name"] = "small"
    params = {"columns": {BANK: {f"column {number} {'x' * 200}": "feature" for number in range(6000)}}}
    flow["steps"]["read"]["params"] = params  # type: ignore[index]  # a mapping
    with pytest.raises(UsageError, match=r"has 1[0-9]{6} bytes, expected 1048576 at most"):
        bank.jobs.propose(CREDIT, FlowSpec.model_validate(flow), {}, 0, 0.0, 0.0, NOW + timedelta(hours=1), ANN)
    assert bank.jobs.all() == ()


@pytest.mark.parametrize("table", [("0" * 63, 5), ("0" * 64, -1), ("0" * 64, 1 << 50)])
def test_tables_that_cannot_be_are_refused(allies, table) -> None:
    _, insurer = allies
    assert say(insurer, BANK, TablesHeld(CREDIT, (TableHeld(BANK, "customers", *table),))) == ["signature"]


def test_a_bad_letter_does_not_cost_reading_the_trail_anew(allies) -> None:
    _, insurer = allies
    with insurer.books.turn() as turn:
        gate = turn.gate(CREDIT)
    for _ in range(3):
        assert say(insurer, BANK, TablesHeld(CREDIT, (TableHeld(INSURER, "customers", "0" * 64, 1),)))
    with insurer.books.turn() as turn:
        assert turn.gate(CREDIT) is gate
