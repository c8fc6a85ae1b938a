"""Secure rounds: the bits of a simulation, nothing but a sum at the server, and nobody who can get more out of it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from halls import (
    KEYS,
    MEAN,
    NAMES,
    PROCESS,
    ROSTER,
    RUN,
    SECURE,
    SEED,
    SIZE,
    TEST,
    Desk,
    Hall,
    Means,
    Script,
    assert_same,
    attending,
    examples_of,
    kind_of,
    serving,
    simulated,
)

from unseen.codec import decode
from unseen.crypto.prg import Prg
from unseen.errors import PeerFailed, PeerUnreachable, UsageError
from unseen.learners.horizontal.private.distributed import Code, Decode, DistributedPlan, Encode, ModularSum
from unseen.learners.horizontal.private.sampling import FixedCohort
from unseen.learners.horizontal.process import Update
from unseen.learners.horizontal.secure_mean import secure
from unseen.learners.horizontal.strategies import strategy
from unseen.privacy.epsilon import Unlimited
from unseen.privacy.events import Everyone
from unseen.protocols.secure_aggregation.secagg_plus import Keys, Masked
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.cohort import Uniform
from unseen.rounds.events import What
from unseen.rounds.identities import Signer, public_key, signing_key
from unseen.rounds.messages import (
    Answer,
    Finished,
    Length,
    Ready,
    Refusal,
    Summing,
    SumStep,
    client_word,
)
from unseen.rounds.serve import Server

EVERYONE = Uniform(5)


def signed(name):
    return {"signer": Signer(KEYS[name], ROSTER)}


def secure_serving(**settings):
    return serving(**{"cohort": EVERYONE, "roster": ROSTER, "phase_deadline": 5.0, **settings})


def serve(hall, rounds, process=SECURE, desk=None, **settings):
    with Server(desk or hall.serve(), process, Means(), secure_serving(**settings), test=TEST) as server:
        return server.rounds(rounds), server.counts


def kept(folder):
    """Return what a client of a private run is given: its keys, and a folder."""
    return lambda name: {**signed(name), "folder": folder / name}


def secret(process, **settings):
    return {"process": process, "each": signed, **settings}


# --- the same bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "process",
    [
        SECURE,
        secure(strategy("fed_avg", learning_rate=0.1), replace(MEAN, bits=16)),
        secure(strategy("fed_nova", learning_rate=0.1), replace(MEAN, extras={"steps": 100.0}, bits=40)),
        secure(strategy("fed_dyn", clients=5, learning_rate=0.1), replace(MEAN, scheme="rlwe", max_weight=1)),
    ],
    ids=lambda process: process.name,
)
def test_a_secure_run_has_the_bits_of_a_simulation(process):
    hall = Hall()
    with attending(hall, process=process, each=signed):
        run, counts = serve(hall, 2, process)
    assert_same(run, simulated(2, process, EVERYONE))
    assert counts[What.ANSWERED] == 10
    assert counts[What.AGAIN] == 0
    told = simulated(2, process, EVERYONE).history[1]
    assert told.bytes_up < run.history[1].bytes_up < 1.3 * told.bytes_up


def distributed(clients):
    code = Code(size=SIZE, bound=30.0, step=0.01, deviation=0.1, clients=clients, bits=20)
    plan = DistributedPlan(code=code, seed=5, sampling=Everyone(), run="digits", about="people")
    plain = strategy("fed_avg", learning_rate=0.1)
    return replace(
        plain,
        postprocessors=(Encode(code, 5, 9, Prg(bytes(32))),),
        aggregator=ModularSum(code),
        finalizer=Decode(plain.finalizer, plan, Unlimited()),
    )


def test_distributed_noise_may_not_count_on_secret_cohorts():
    """Amplification by sampling holds against those who do not know the cohort: in a secure round, nobody in it."""
    process, cohort = distributed(4), FixedCohort(4, Prg(bytes(32)))
    plan = replace(process.finalizer.plan, sampling=cohort.sampling(5))
    process = replace(process, finalizer=replace(process.finalizer, plan=plan))
    process.check_cohort(cohort, 5)
    with pytest.raises(UsageError, match=r"cohorts are no secret.*state Everyone\(\)"):
        serve(Hall(), 1, process, cohort=cohort)


def test_distributed_noise_takes_its_sum_in_the_same_round(tmp_path):
    process, hall = distributed(4), Hall()
    with attending(hall, process=process, each=kept(tmp_path)):
        run, _ = serve(hall, 1, process)
    assert_same(run, simulated(1, process, EVERYONE))


class Watched(Desk):
    """The server's channel, on which a test reads along, and may lose what `lose` says, once for each place."""

    def __init__(self, hall, lose=lambda peer, step: False, *, cut=False):
        super().__init__(hall)
        self.lose, self.cuts = lose, cut
        self.heard, self.lost = [], []
        hall.desk = self

    def receive(self, peer, timeout):
        frame = super().receive(peer, timeout)
        word = client_word(frame, sender=peer)
        self.heard.append((peer, word))
        if isinstance(word, SumStep) and self.lose(peer, word):
            self.lost.append(word)
            if self.cuts:
                self.cut(peer)
                raise PeerUnreachable("cut")
            return self.receive(peer, timeout)
        return frame


PHASES = ["keys", "shares", "masked", "consent", "openings"]


def test_nothing_of_a_single_update_reaches_the_server():
    hall = Hall()
    desk = Watched(hall)
    with attending(hall, process=SECURE, each=signed):
        run, _ = serve(hall, 1, desk=desk)
    steps = [(peer, word) for peer, word in desk.heard if isinstance(word, SumStep)]
    assert not any(isinstance(word, Answer) for _, word in desk.heard)
    assert [kind for kind in PHASES for _ in NAMES] == [kind_of(word) for _, word in steps]
    # Words of small numbers lie around zero; masked ones anywhere.
    for _, word in steps:
        if kind_of(word) == "masked":
            assert near_zero(decode(Masked, word.frame.data).words.view("<u4")) < 0.3
    ones = Update(np.ones(SIZE, np.float32), 1.0, {"control": np.ones(SIZE, np.float32)}, {"loss": 1.0})
    assert near_zero(MEAN.encode(ones, Prg.fresh()).words) == 1
    assert run.history[0].training["loss"] == pytest.approx(simulated(1, PROCESS, EVERYONE).history[0].training["loss"])


def near_zero(words):
    return np.mean(np.abs(words.view(np.int32)) < 1 << 26)


# --- comings and goings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_who_drops_out_in_a_phase_is_left_out_and_the_others_end_the_round(phase):
    """One of five may; who has sent its masked vector is in the sum, whatever becomes of it afterwards."""
    hall, victim = Hall(), NAMES[2]
    desk = Watched(hall, lambda peer, step: peer == victim and kind_of(step) == phase and step.round == 0)
    with attending(hall, process=SECURE, each=signed):
        run, counts = serve(hall, 1, desk=desk, phase_deadline=0.4)
    assert counts[What.AGAIN] == 0
    assert [one.dropped for one in run.history] == [int(PHASES.index(phase) < 3)]


def test_a_sum_with_too_little_noise_is_given_up_before_it_is_opened(tmp_path):
    """Four of five are a quorum, but the noise is meant for five."""
    process, hall = distributed(5), Hall()
    desk = Watched(hall, lambda peer, step: peer == NAMES[4] and kind_of(step) == "masked")
    with (
        attending(hall, process=process, each=kept(tmp_path)),
        pytest.raises(PeerFailed, match="4 of 5 clients sent Masked, at least 5 have to"),
    ):
        serve(hall, 1, process, desk=desk, phase_deadline=0.4, attempts=1)
    assert not any(said(word, kind) for _, word in desk.heard for kind in ("consent", "openings"))


def test_an_attempt_below_the_quorum_is_taken_again_with_fresh_keys_and_the_same_bits():
    hall, victims = Hall(), NAMES[:2]
    desk = Watched(hall, lambda peer, step: peer in victims and kind_of(step) == "masked" and step.attempt == 0)
    events = []
    with attending(hall, process=SECURE, each=signed) as clients:
        run, _ = serve(hall, 1, desk=desk, phase_deadline=0.4, watch=events.append)
        done = [client.result(5) for client in clients.values()]
    assert_same(run, simulated(1, SECURE, EVERYONE))
    (again,) = [event.note for event in events if event.what is What.AGAIN]
    assert "3 of 5 clients sent Masked, at least 4 have to" in again
    keys = [decode(Keys, step.frame.data).mask_key.tobytes() for _, step in desk.heard if said(step, "keys")]
    assert len(set(keys)) == len(keys) == 10
    assert sum(one.trained for one in done) == 5


def said(word, kind):
    return isinstance(word, SumStep) and kind_of(word) == kind


def test_a_link_that_breaks_in_any_phase_is_made_again_and_costs_nobody():
    hall, left = Hall(), dict(zip(PHASES, NAMES, strict=True))
    desk = Watched(hall, lambda peer, step: left.get(kind_of(step)) == peer and bool(left.pop(kind_of(step))), cut=True)
    with attending(hall, process=SECURE, each=signed):
        run, counts = serve(hall, 2, desk=desk)
    assert_same(run, simulated(2, SECURE, EVERYONE))
    assert not left
    assert counts[What.LOST] == 5
    assert counts[What.AGAIN] == 0


@pytest.mark.parametrize("phase", ["Shares", "Masked", "Openings"])
def test_a_server_that_is_killed_between_phases_plays_the_round_again(tmp_path, phase):
    hall, gone = Hall(), []

    def watch(event):
        if event.what is What.SUMMED and event.round == 1 and event.note == phase and not gone:
            gone.append(True)
            raise KeyboardInterrupt

    with attending(hall, process=SECURE, each=signed) as clients:
        with pytest.raises(KeyboardInterrupt):
            serve(hall, 3, folder=tmp_path, watch=watch)
        run, _ = serve(hall, 3, folder=tmp_path)
        done = [client.result(5) for client in clients.values()]
    assert_same(run, simulated(3, SECURE, EVERYONE))
    assert {one.trained for one in done} == {3}


def test_a_sum_that_was_cut_off_after_consents_goes_on_with_the_same_clients(tmp_path):
    """One has dropped out of it, and is back before the server is: it waits for the next round."""
    hall, gone = Hall(), []

    def watch(event):
        if event.what is What.SUMMED and event.note == "Openings" and not gone:
            gone.append(True)
            raise KeyboardInterrupt

    desk = Watched(hall, lambda peer, step: peer == NAMES[0] and kind_of(step) == "masked")
    with attending(hall, process=SECURE, each=signed):
        with pytest.raises(KeyboardInterrupt):
            serve(hall, 2, desk=desk, folder=tmp_path, watch=watch, phase_deadline=0.4)
        run, counts = serve(hall, 2, folder=tmp_path)
    assert [one.dropped for one in run.history] == [1, 0]
    assert counts[What.AGAIN] == counts[What.FAILED] == 0


def test_a_client_that_is_killed_in_mid_sum_is_out_of_it_and_there_for_the_next(tmp_path):
    hall, victim, killed = Hall(), NAMES[3], []
    hall.serve()

    class Fragile:
        """A channel whose process dies instead of sending its masked vector."""

        def __init__(self, inner):
            self.inner, self.party, self.peers = inner, inner.party, inner.peers
            self.receive = inner.receive

        def send(self, peer, parts, *, waiting=None):
            if said(client_word(b"".join(parts), sender="me"), "masked") and not killed:
                killed.append(True)
                raise KeyboardInterrupt
            self.inner.send(peer, parts)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

    def live():
        settings = AttendSettings(RUN, SEED, folder=tmp_path, patience=5.0, **signed(victim))
        try:
            return attend(lambda: Fragile(hall.connect(victim)), SECURE, Means(), examples_of(victim), settings)
        except KeyboardInterrupt:
            return live()

    others = [name for name in NAMES if name != victim]
    with ThreadPoolExecutor(1) as pool, attending(hall, others, process=SECURE, each=signed):
        done = pool.submit(live)
        run, counts = serve(hall, 2, desk=hall.desk)
        assert done.result(5).rounds == 2
    assert [one.dropped for one in run.history] == [1, 0]
    assert counts[What.FAILED] == 1


# --- clients that cheat ------------------------------------------------------------------------------------------


def test_whatever_a_client_says_in_a_secure_round_stops_nobody_else():
    """An update in the clear, impossible layouts, steps too early, of other sums, twice, and nonsense in a sum."""
    hall, refusals, events = Hall(), [], []
    hall.serve()

    def play():
        script = Script(hall, NAMES[0], SECURE).hello()
        script.say(script.answer())
        word = Ready(RUN, 0, 0, SIZE - 1, (), ())
        for wrong in (
            word,
            replace(word, size=SIZE, metrics=("b", "a")),
            replace(word, size=SIZE, metrics=("a",) * 99),
            replace(word, summed=("nobody",)),
        ):
            script.say(wrong)
        script.say(SumStep(RUN, 0, 0, bytes(16), np.zeros(3, np.uint8)))
        refusals.extend(script.wait_for(Refusal).reason for _ in range(5))
        good = Ready(RUN, 0, 0, SIZE, (Length("control", SIZE),), ("loss",))
        script.say(good)
        script.say(good)
        opening = script.wait_for(Summing)
        script.say(SumStep(RUN, 0, 0, bytes(16), np.zeros(3, np.uint8)))
        script.say(SumStep(RUN, 0, 0, opening.nonce, np.zeros(3, np.uint8)))
        script.say(SumStep(RUN, 0, 0, opening.nonce, np.zeros(3, np.uint8)))
        refusals.append(script.wait_for(Refusal).reason)
        script.wait_for(Finished)

    with ThreadPoolExecutor(1) as pool, attending(hall, NAMES[1:], process=SECURE, each=signed):
        played = pool.submit(play)
        run, counts = serve(hall, 1, desk=hall.desk, watch=events.append)
        played.result(5)
    assert [one.dropped for one in run.history] == [1]
    expected = [
        "takes sums of what stays",
        "39 numbers and 0 further",
        "not in order",
        "at most 64",
        "an earlier sum",
        "malformed",
    ]
    assert all(part in reason for part, reason in zip(expected, refusals, strict=True))
    # What comes twice comes late if all others have been quicker.
    assert (counts[What.LATE] + counts[What.DUPLICATE], counts[What.AGAIN]) == (4, 0)


# --- settings ----------------------------------------------------------------------------------------------------


def test_secure_rounds_need_keys_of_everybody(tmp_path):
    hall = Hall()
    with pytest.raises(UsageError, match=r"no key of client-4: give the server"):
        serve(hall, 1, roster={name: ROSTER[name] for name in NAMES[:4]})
    with pytest.raises(UsageError, match="one key for two clients"):
        serve(hall, 1, roster=dict.fromkeys(NAMES, ROSTER[NAMES[0]]))
    hall.serve()
    with (
        attending(hall, NAMES[:1], process=SECURE) as clients,
        pytest.raises(UsageError, match="give this client a signer"),
    ):
        clients[NAMES[0]].result(5)
    with (
        attending(hall, NAMES[:1], process=SECURE, each=signed, folder=None) as clients,
        pytest.raises(UsageError, match="give this client a folder"),
    ):
        clients[NAMES[0]].result(5)
    key = signing_key(tmp_path / "new" / "signing.key")
    assert public_key(signing_key(tmp_path / "new" / "signing.key")) == public_key(key)
    assert (tmp_path / "new" / "signing.key").stat().st_mode & 0o77 == 0
    assert KEYS[NAMES[0]].private_bytes_raw().hex() not in repr(Signer(KEYS[NAMES[0]], ROSTER))


def test_fewer_than_agreed_are_no_sum():
    hall = Hall()
    with (
        attending(hall, NAMES[:2], process=SECURE, each=signed),
        pytest.raises(PeerFailed, match="2 of 5 clients answered, and at least 4 are needed"),
    ):
        serve(hall, 1, deadline=0.3, attempts=1)
