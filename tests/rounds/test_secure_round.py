"""A server that cheats gets one sum of a round or none: clients without any network, told what a test wants."""

import re
from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from halls import (
    KEYS,
    MEAN,
    NAMES,
    ROSTER,
    RUN,
    SERVER,
    SIZE,
    kind_of,
)

from unseen.codec import decode, encode_bytes
from unseen.crypto.prg import Prg
from unseen.errors import PeerUnreachable, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.horizontal.process import Update
from unseen.learners.horizontal.sums import Layout
from unseen.protocols.secure_aggregation.secagg_plus import Openings, Survivors
from unseen.rounds.identities import Signer
from unseen.rounds.messages import (
    KeptSum,
    Place,
    server_word,
)
from unseen.rounds.secure_round import ClientSums, ServerSum, SumPlan, cohort_of

MODEL = b"m" * 32


class Table:
    """Clients with an update each, without any network: what a test tells the server to say reaches them as it is."""

    def __init__(self, names=NAMES, mean=MEAN):
        self.mean, self.notes = mean, {name: [] for name in names}
        self.sums = {
            name: ClientSums(
                name, SERVER, mean, Signer(KEYS[name], ROSTER), Prg(bytes(32)), None, self.notes[name].append
            )
            for name in names
        }

    def begin(self, names, attempt=0, models=None, number=0, model=MODEL, refused=(), **changes):
        """Return a server's sum over these clients, and what those say that do not refuse to begin it."""
        plan = SumPlan(Place(RUN, number, attempt), bytes([attempt]) * 16, tuple(names), Layout.of(update()), model)
        opening, said = replace(plan.opening(), **changes), {}
        for name in names:
            with suppress(refused):
                said[name] = self.sums[name].begin(opening, (models or {}).get(name, model), update())
        return ServerSum(plan, self.mean, ROSTER, SERVER), said

    def step(self, taken, said, gone=(), refused=()):
        """Hand in what clients have said, end the phase, and return what those say next that do not refuse."""
        for name, step in said.items():
            if name not in gone:
                taken.take(name, step)
        taken.advance()
        words, said = {name: server_word(b"".join(parts), sender=SERVER) for name, parts in taken._told.items()}, {}
        for name, word in words.items():
            with suppress(refused):
                said[name] = self.sums[name].answer(word)
        return said

    def finish(self, taken, said, gone=()):
        while not taken.over:
            said = self.step(taken, said, gone if kind_of(next(iter(said.values()))) == "masked" else ())
        return taken.aggregate()

    def restart(self):
        """Kill all clients, and start them again with what they have kept."""
        for name, sums in self.sums.items():
            note = self.notes[name][-1] if self.notes[name] else None
            self.sums[name] = replace(sums, note=note, _now=None)


def update(value=1.0):
    vector = np.full(SIZE, value, np.float32)
    return Update(vector, 2.0, {"control": vector}, {"loss": value})


def test_a_table_takes_a_sum():
    table = Table()
    aggregate, clients = table.finish(*table.begin(NAMES), gone=NAMES[:1])
    np.testing.assert_allclose(aggregate.delta, np.ones(SIZE), atol=1e-5)
    assert clients == tuple(NAMES[1:])
    for name in NAMES:
        assert [(note.round, note.assigned) for note in table.notes[name]] == [(0, MODEL)] * (1 + (name in clients))
        assert [note.clients for note in table.notes[name]] == [(), clients][: 1 + (name in clients)]
        assert table.sums[name].note is table.notes[name][-1]


def test_an_update_goes_into_one_sum_only():
    """Two sums that differ by a client would give it away: once with all, then without the first one."""
    table = Table()
    table.finish(*table.begin(NAMES))
    with pytest.raises(PermissionDenied, match=r"may have been added up already.*wait for client-0"):
        table.begin(NAMES[1:], attempt=1)
    # Named, but then left out: they notice before they consent.
    taken, said = table.begin(NAMES, attempt=2)
    said = table.step(taken, table.step(taken, said))
    with pytest.raises(PermissionDenied, match="goes into no other sum"):
        table.step(taken, said, gone=NAMES[:1])
    # The same clients once more are the same sum.
    assert table.finish(*table.begin(NAMES, attempt=3))[1] == tuple(NAMES)


def test_a_sum_under_ring_lwe_is_over_the_same_clients_once_more_or_none():
    """One sum over all; the server is killed before it has kept it, and one client is away when keys are made again."""
    table = Table(NAMES, replace(MEAN, scheme="rlwe"))
    table.finish(*table.begin(NAMES))
    assert table.sums[NAMES[1]].note.clients == tuple(NAMES)
    taken, said = table.begin(NAMES, attempt=1)
    said = table.step(taken, said, gone=NAMES[:1])
    with pytest.raises(PermissionDenied, match="goes into no other sum: wait for client-0"):
        table.step(taken, said)
    assert table.finish(*table.begin(NAMES, attempt=2))[1] == tuple(NAMES)


def test_a_round_that_has_been_summed_is_not_trained_again_with_another_model():
    sums = Table().sums[NAMES[0]]
    sums.note = KeptSum(3, MODEL, tuple(NAMES))
    sums.check(3, MODEL)
    sums.check(4, b"other")
    for round_number, model in ((2, MODEL), (3, b"other")):
        with pytest.raises(PermissionDenied, match="begin a run with another name"):
            sums.check(round_number, model)


def test_a_sum_that_goes_on_over_another_assignment_of_its_round_ends_that_assignment():
    """The sum of X begins, Y of the same round is assigned, X is finished over all: Y is summed over nobody."""
    table = Table()
    taken, said = table.begin(NAMES, model=b"x")
    for sums in table.sums.values():
        with pytest.raises(PermissionDenied):
            sums.check(0, b"y")
    assert table.finish(taken, said)[1] == tuple(NAMES)
    with pytest.raises(PermissionDenied, match="begin a run with another name"):
        table.begin(NAMES[1:], attempt=1, model=b"y")


ASSIGNMENTS = {"X": (0, b"x"), "Y": (0, b"y"), "Z": (1, b"z")}
SETS = {"a": NAMES[:4], "m": NAMES[1:4]}
POINTLESS = re.compile(r"(.)\1|[fh][XYZ]*[fh]|^[^fh]*f$")
"""Steps that repeat the one before, or finish what nobody has begun, or one sum alone."""


class Plot:
    """A server that lies as it likes to four clients, and which sums it gets: round, model, whose.

    `X`, `Y` (both of round 0) or `Z` (of round 1) is assigned; a sum of what was assigned last begins over `a`, all, or
    `m`, all but one; `f`: those that still go along finish it, then all clients are killed and started again; `h`: the
    same, but the first client is held back from consenting to a sum that it is in.
    """

    def __init__(self):
        self.table = Table(SETS["a"], replace(MEAN, clients=4))
        self.assigned, self.begun, self.sums = {}, None, []

    def play(self, steps):
        for attempt, step in enumerate(steps):
            if step in ASSIGNMENTS:
                for name, client in self.table.sums.items():
                    with suppress(PermissionDenied):
                        client.check(*ASSIGNMENTS[step])
                        self.assigned[name] = ASSIGNMENTS[step]
            elif step in SETS:
                names = SETS[step]
                self.begun = self.table.begin(names, attempt, {}, *self.assigned[names[0]], refused=PermissionDenied)
            else:
                with suppress(PeerUnreachable):
                    self.finish(*self.begun, NAMES[:1] if step == "h" else ())
                self.table.restart()
        return self.sums

    def finish(self, taken, said, held):
        while not taken.over:
            masked = taken.phase == "Masked"
            said = self.table.step(taken, said, refused=(PermissionDenied, RemoteProtocolError))
            said = {name: step for name, step in said.items() if not (masked and name in held)}
        self.sums.append((taken.plan.place.round, taken.plan.model, taken.aggregate()[1]))


def test_no_order_of_steps_gives_different_sums_of_one_round():
    """Every order of three steps after a sum of X has begun, and a sum at the end."""
    orders = ("".join(order) for order in product("X", SETS, *["XYZamfh"] * 3, "f"))
    found = {order: Plot().play(order) for order in orders if not POINTLESS.search(order)}
    for order, sums in found.items():
        rounds = [number for number, *_ in sums]
        assert len(set(sums)) == len(set(rounds)), f"{order}: {sums}"
        assert rounds == sorted(rounds)
    assert {number for sums in found.values() for number, *_ in sums} == {0, 1}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"clients": tuple(NAMES[1:])}, "without client-0"),
        ({"clients": tuple(reversed(NAMES))}, "in no order"),
        ({"clients": (NAMES[0], *NAMES[:4])}, "in no order"),
        ({"clients": (*NAMES, "Not A Name")}, "none"),
        ({"clients": tuple(NAMES[:2])}, "4 to 5 are agreed"),
        ({"clients": (*NAMES[:4], PartyId("stranger"))}, "stranger"),
        ({"nonce": b""}, "no order"),
    ],
)
def test_a_cohort_that_is_none_is_refused_by_its_clients(changes, error):
    table = Table()
    with pytest.raises((RemoteProtocolError, UsageError), match=error):
        table.begin(NAMES[:1] and NAMES, **changes)


def test_clients_with_different_models_are_not_added_up():
    table = Table()
    taken, said = table.begin(NAMES, models={NAMES[0]: b"another"})
    with pytest.raises(RemoteProtocolError, match="client-0: its keys are not signed"):
        taken.take(NAMES[0], said[NAMES[0]])
    assert table.finish(taken, {name: said[name] for name in NAMES[1:]})[1] == tuple(NAMES[1:])


def test_a_client_says_each_thing_once_and_nothing_after_an_error():
    table = Table()
    taken, said = table.begin(NAMES)
    for name, step in said.items():
        taken.take(name, step)
    taken.advance()
    word = server_word(b"".join(taken.word_for(NAMES[0])), sender=SERVER)
    client = table.sums[NAMES[0]]
    first = client.answer(word)
    assert client.answer(word) is first
    forged = encode_bytes(Survivors(np.arange(4, dtype="<u4")))
    with pytest.raises(RemoteProtocolError):
        client.answer(replace(word, frame=np.frombuffer(forged, np.uint8)))
    with pytest.raises(RemoteProtocolError, match="does not take part in"):
        client.answer(word)


def test_wrong_shares_give_a_sum_that_is_noticed():
    """Nobody committed to the seeds that are opened, but weights cannot be what a wrong mask makes of them."""
    table = Table()
    taken, said = table.begin(NAMES)
    for _ in range(4):
        said = table.step(taken, said)
    opened = decode(Openings, said[NAMES[0]].frame.data)
    wrong = opened.shares.copy()
    wrong[:, 0] ^= 1
    said[NAMES[0]] = taken.plan.step(replace(opened, shares=wrong))
    table.step(taken, said)
    assert taken.over
    with pytest.raises(RemoteProtocolError, match=r"add up to .* expected 5 to 50: one of them cheats"):
        taken.aggregate()


def test_survivors_below_what_is_agreed_get_no_consent():
    """The server names three of five; four are the quorum."""
    table = Table()
    taken, said = table.begin(NAMES)
    said = table.step(taken, table.step(taken, said))
    forged = encode_bytes(Survivors(np.arange(3, dtype="<u4")))
    step = taken.plan.step(Survivors(np.arange(3, dtype="<u4")))
    assert bytes(step.frame) == forged
    with pytest.raises(RemoteProtocolError, match="at least 4 have to be left"):
        table.sums[NAMES[0]].answer(step)
    assert table.notes[NAMES[0]][-1].clients == ()


def test_whose_sum_is_taken():
    everyone, four = dict.fromkeys(NAMES, ()), tuple(NAMES[:4])
    assert cohort_of(everyone) == tuple(NAMES)
    assert cohort_of(everyone | dict.fromkeys(NAMES[:2], four)) == four
    # Fewer than a third may lie about it.
    assert cohort_of(everyone | {NAMES[0]: tuple(NAMES[:3])}) == tuple(NAMES)
    with pytest.raises(PeerUnreachable, match="wait for client-3, who took part"):
        cohort_of({name: four for name in NAMES if name != NAMES[3]})
