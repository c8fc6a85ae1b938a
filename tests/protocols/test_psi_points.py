"""A party evaluates no more items of a peer than it was told: whoever brings more is refused before that."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest

from unseen.component import Role, Source, Task, installed_components
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Send, converse
from unseen.errors import PermissionDenied
from unseen.ids import PartyId, StepId
from unseen.protocols.psi import ecdh, lookup, star, vole
from unseen.protocols.psi.port import Items, Meeting

ANN, BEN = PartyId("ann"), PartyId("ben")
MINE, THEIRS = Items.of([b"a", b"b", b"c"]), Items.of([b"b", b"c", b"d", b"e"])
SCHEMES: Mapping[str, Callable[[Items, Meeting], Dialogue[object]]] = {
    "ecdh": ecdh.intersect,
    "vole": vole.intersect,
    "star": star.intersect,
    "count": ecdh.count,
    "unite": ecdh.unite,
}


def meeting(me: PartyId, points: Mapping[PartyId, int] | None = None) -> Meeting:
    peer = BEN if me == ANN else ANN
    return Meeting(me, (peer,), Prg(bytes(32)).derive(me), b"c", None, points)


def listened(dialogue: Dialogue[object], said: list[str]) -> Dialogue[object]:
    """Run a dialogue and note the kinds of messages that it sends."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send):
            said.append(type(effect.message).__name__)
        answer = yield effect


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("points", [{BEN: 3}, {BEN: 0}, {}], ids=["one too many", "none", "not named"])
def test_a_longer_list_than_allowed_is_refused_once_it_is_announced(scheme, points) -> None:
    said: list[str] = []
    with pytest.raises(PermissionDenied, match=rf"ben brings 4 items, and ann evaluates at most {points.get(BEN, 0)}"):
        converse({ANN: listened(scheme(MINE, meeting(ANN, points)), said), BEN: scheme(THEIRS, meeting(BEN))})
    assert said == ["Opening"]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_list_as_long_as_allowed_is_taken(scheme) -> None:
    limited = {ANN: scheme(MINE, meeting(ANN, {BEN: 4})), BEN: scheme(THEIRS, meeting(BEN, {ANN: 3}))}
    free = {ANN: scheme(MINE, meeting(ANN)), BEN: scheme(THEIRS, meeting(BEN))}
    results, others = converse(limited), converse(free)
    assert results[ANN].sizes == others[ANN].sizes == {ANN: 3, BEN: 4}  # type: ignore[attr-defined]


def test_a_holder_answers_no_more_than_allowed() -> None:
    holder = lookup.publish(MINE, np.empty((3, 0), np.uint8), 100, meeting(BEN))
    kept = converse({ANN: lookup.obtain(meeting(ANN)), BEN: holder})
    ask = partial(lookup.look_up, THEIRS, kept[ANN])
    with pytest.raises(PermissionDenied, match="ann brings 4 items, and ben evaluates at most 3"):
        converse({ANN: ask(meeting(ANN)), BEN: lookup.answer(kept[BEN], meeting(BEN, {ANN: 3}))})
    found = converse({ANN: ask(meeting(ANN)), BEN: lookup.answer(kept[BEN], meeting(BEN, {ANN: 4}))})
    assert len(found[ANN].alignment.rows) == 2


@pytest.mark.parametrize("name", ["psi_join", "psi_count", "psi_union"])
def test_components_pass_the_limit_on(name, tmp_path) -> None:
    component = installed_components()[name]
    read = installed_components()["read_table"].run
    tasks = {}
    for party, points in ((ANN, {BEN: 1}), (BEN, None)):
        path = tmp_path / f"{party}.csv"
        path.write_text("id,age\n1,30\n2,40\n")
        roles = {ANN: Role.ACTIVE, BEN: Role.PASSIVE}
        table = _table(read, party, path, roles)
        prg = Prg(bytes(32)).derive(party)
        params = component.params.model_validate({})
        tasks[party] = Task(party, StepId("step"), roles, params, {"table": table}, prg, points=points)
    with pytest.raises(PermissionDenied, match="ben brings 2 items, and ann evaluates at most 1"):
        converse({party: component.run(task) for party, task in tasks.items()})


def _table(read, party, path, roles):
    params = installed_components()["read_table"].params.model_validate({})
    task = Task(party, StepId("read"), roles, params, {"source": Source(path)}, Prg(bytes(32)))
    return converse({party: read(task)})[party]["table"]
