"""Private training next to a peer that sends wrong numbers, and on data that fixed-point numbers hardly carry."""

import dataclasses

import numpy as np
import pytest

from unseen import codec
from unseen.crypto.prg import Prg
from unseen.dialogue import MemoryCheckpoints, Send, converse
from unseen.errors import Deadlock, RemoteProtocolError
from unseen.ids import PartyId
from unseen.learners.vertical import glm, own_model, quasi_newton
from unseen.learners.vertical.glm_params import GlmParams
from unseen.learners.vertical.quadratic import Decision, Shares, settle
from unseen.learners.vertical.setting import Setting
from unseen.protocols.linear_map.plain import Plain

BANK, TELCO = PARTIES = (PartyId("bank"), PartyId("telco"))


def dialogues(own, theirs, labels, params):
    bank, telco = (Setting(me, BANK, (TELCO,), Prg(bytes(32)), Plain(simulation=True)) for me in PARTIES)
    return {BANK: glm.train_active(own, labels, params, bank), TELCO: glm.train_passive(theirs, params, telco)}


def binary(rows, width):
    rng = np.random.default_rng(1)
    own = rng.normal(size=(rows, width))
    theirs = 0.5 * own + rng.normal(size=(rows, width))
    chance = 1 / (1 + np.exp(1 - own.sum(axis=1) / 2 - theirs.sum(axis=1) / 3))
    return own, theirs, (rng.uniform(size=rows) < chance).astype(float)


class Liar:
    """Changes one message of a kind, the first one being number 0."""

    def __init__(self, kind, number, change):
        self.kind, self.left, self.change = kind, number, change

    def __call__(self, dialogue):
        answer = None
        while True:
            try:
                effect = dialogue.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(effect, Send) and isinstance(effect.message, self.kind):
                self.left -= 1
                if self.left == -1:
                    values = self.change(effect.message.values)
                    effect = Send(effect.peer, dataclasses.replace(effect.message, values=values))
            answer = yield effect


@pytest.mark.parametrize("value", [0.0, -1.0, 2.0**99])
@pytest.mark.parametrize("number", [1, 3, 9])
@pytest.mark.parametrize("l1", [0.0, 0.01])
@pytest.mark.parametrize(("party", "kind"), [(TELCO, Shares), (BANK, Decision)])
def test_numbers_that_are_possible_but_wrong_are_at_worst_a_peers_fault(party, kind, l1, number, value):
    talks = dialogues(*binary(100, 2), GlmParams(max_iterations=3, l1=l1))
    talks[party] = Liar(kind, number, lambda values: np.full_like(values, value))(talks[party])
    fault, parts = "", {}
    try:
        parts = converse(talks)
    except RemoteProtocolError as error:
        fault = str(error)
    except Deadlock:
        # One that was told to go on waits for one that has ended: over a network, the connection closes.
        assert kind is Decision
    # Where the active party lies, it may be the first to complain, about an answer to what it said.
    assert not fault or fault.startswith(("bank: ", "telco: ") if kind is Decision else "telco: ")
    assert all(np.isfinite(part.coef_).all() for part in parts.values())


@pytest.mark.parametrize(
    ("party", "kind", "number", "change", "says"),
    [
        (TELCO, Shares, 3, lambda values: values + 2.0**99, "^telco: "),
        (TELCO, Shares, 1, lambda values: values - 1e40, "^telco: the inner products holds 1e.40, .* raise l2"),
        (BANK, Decision, 1, lambda values: values - 1e40, "^bank: a decision holds 1e.40, .* raise l2"),
    ],
)
def test_what_follows_from_wrong_numbers_is_the_peers_fault(party, kind, number, change, says):
    talks = dialogues(*binary(200, 3), GlmParams())
    talks[party] = Liar(kind, number, change)(talks[party])
    with pytest.raises(RemoteProtocolError, match=says):
        converse(talks)


def test_divisors_of_zero_are_the_peers_fault():
    bank, telco = (Setting(me, BANK, (TELCO,), Prg(bytes(32))) for me in PARTIES)
    for numerator in (0.0, 1.0):
        own, theirs = np.array([numerator, 2.0]), np.array([0.0, -2.0])
        with pytest.raises(RemoteProtocolError, match=r"^telco: what follows from the inner products holds NaN"):
            converse(
                {
                    BANK: settle(bank, own, 1, lambda total: total[:1] / total[1:]),
                    TELCO: settle(telco, theirs, 1, lambda total: total),
                }
            )


def test_what_is_told_of_the_curvature_at_the_own_model_is_coarse(monkeypatch):
    ratios = []

    def noted(*fields):
        engine = quasi_newton.Engine(*fields)
        ratios.append(engine.ratio)
        return engine

    monkeypatch.setattr("unseen.learners.vertical.generalised.Engine", noted)
    parts = converse(dialogues(*binary(2000, 4), GlmParams()))
    assert parts[BANK].converged
    assert min(ratios) == 1
    quarters = 4 * np.log2(max(ratios))
    assert quarters >= 1 - 1e-9
    assert quarters == pytest.approx(round(quarters), abs=1e-9)
    assert own_model.coarse(0.0) > 0
    assert own_model.coarse(0.3) == pytest.approx(2**-1.75)


def test_a_training_that_grows_worse_ends_with_its_best_iterate():
    # What tells the parties' columns apart is hardly more than the rounding to fixed point.
    rng = np.random.default_rng(0)
    own = rng.normal(size=(300, 3))
    theirs = own + 0.001 * rng.normal(size=(300, 3))
    scores = own @ [1, -1, 0.5] + (theirs - own) @ [1000, 1000, 1000]
    labels = (rng.random(300) < 1 / (1 + np.exp(-scores))).astype(float)
    stores = {party: MemoryCheckpoints() for party in PARTIES}
    parts = converse(dialogues(own, theirs, labels, GlmParams(l2=0.0)), checkpoints=stores)
    norms = parts[BANK].gradient_norms
    best = int(norms.argmin())
    assert 0 < best < len(norms) - 1
    resumed = converse(dialogues(own, theirs, labels, GlmParams(l2=0.0)), checkpoints=stores)
    stopped = converse(dialogues(own, theirs, labels, GlmParams(l2=0.0, max_iterations=best)))
    for party, part in parts.items():
        assert not part.converged
        assert part.note.endswith(f"kept the coefficients of iteration {best}")
        assert f"gradient norm {norms[best]:.2g}, wanted" in part.note
        np.testing.assert_array_equal(part.coef_, stopped[party].coef_)
        assert codec.encode_bytes(resumed[party]) == codec.encode_bytes(part)
