"""The Diffie–Hellman family against recorded sessions: what goes over the wire and what comes out.

``psi_ecdh.json`` was recorded from this implementation, so that it shows whether two versions still understand each
other and that a resumed task sends the same bytes again. After a change of the wire format, raise the versions of the
messages and record it again: the result of ``played`` for each case is what stands there.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unseen.codec import encode_bytes, wire_name
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Send, converse
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.psi import ecdh
from unseen.protocols.psi.port import Items, Meeting

RECORD = json.loads((Path(__file__).parents[1] / "vectors" / "psi_ecdh.json").read_text())
CASES = RECORD["cases"]
FORGERIES = RECORD["forgeries"]


def dialogues_of(case: dict[str, Any]) -> dict[PartyId, Dialogue[Any]]:
    parties = [PartyId(name) for name in case["items"]]
    recipients = None if case["recipients"] is None else frozenset(map(PartyId, case["recipients"]))
    dialogues = {}
    for me in parties:
        peers = tuple(party for party in parties if party != me)
        seed = Prg(bytes.fromhex(RECORD["seed"])).derive(me)
        meeting = Meeting(me, peers, seed, bytes.fromhex(RECORD["context"]), recipients)
        scheme = getattr(ecdh, case["variant"])
        if case["variant"] == "total":
            values = case["values"].get(me)
            table = None if values is None else np.array(values, np.int64)
            scheme = partial(scheme, values=table, key_bits=RECORD["key_bits"])
        dialogues[me] = scheme(Items.of(map(bytes.fromhex, case["items"][me])), meeting=meeting)
    return dialogues


def recorded(me: PartyId, dialogue: Dialogue[Any], record: list[list[str]], forgery: Any = None) -> Dialogue[Any]:
    """Run a dialogue, note what it sends, and put the forged frame in the place of a message."""
    answer: Any = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send):
            frame = encode_bytes(effect.message)
            record.append([me, effect.peer, wire_name(type(effect.message)), hashlib.sha256(frame).hexdigest()[:32]])
            if forgery and [me, effect.peer, wire_name(type(effect.message))] == forgery["message"]:
                effect = Send(effect.peer, forged(effect.message, forgery))
        answer = yield effect


def forged(sent: Any, forgery: dict[str, Any]) -> Any:
    """Return a message with some bytes of one of its fields overwritten."""
    value = getattr(sent, forgery["field"])
    if isinstance(value, bytes | int):
        replaced: Any = type(value).fromhex(forgery["bytes"]) if isinstance(value, bytes) else forgery["number"]
    else:
        replaced = value.copy()
        row = replaced.reshape(-1, replaced.shape[-1])[forgery["row"]]
        row[:] = np.frombuffer(bytes.fromhex(forgery["bytes"]).ljust(len(row), b"\0"), np.uint8)
    fields = {name: getattr(sent, name) for name in type(sent).__slots__}
    return type(sent)(**{**fields, forgery["field"]: replaced})


def outcome(result: Any) -> Any:
    for field in ("rows", "totals", "shared"):
        if hasattr(result, field):
            value = getattr(result, field)
            return (
                value.tolist()
                if isinstance(value, np.ndarray)
                else list(value)
                if field == "totals" and value
                else value
            )
    raise AssertionError(result)


def played(case: dict[str, Any]) -> dict[str, Any]:
    record: list[list[str]] = []
    results = converse({me: recorded(me, dialogue, record) for me, dialogue in dialogues_of(case).items()})
    return {"messages": record, "results": {me: outcome(result) for me, result in results.items()}}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_recorded_sessions_are_repeated_to_the_byte(case: dict[str, Any]) -> None:
    assert played(case) == {"messages": case["messages"], "results": case["results"]}


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery["name"])
def test_recorded_forgeries_are_refused(forgery: dict[str, Any]) -> None:
    case = next(case for case in CASES if case["name"] == forgery["case"])
    liar = forgery["message"][0]
    dialogues = {
        me: recorded(me, dialogue, [], forgery if me == liar else None) for me, dialogue in dialogues_of(case).items()
    }
    with pytest.raises(RemoteProtocolError) as caught:
        converse(dialogues)
    assert str(caught.value).startswith(f"{liar}: {forgery['complaint']}")
