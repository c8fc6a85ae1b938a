"""Secure rounds: the bits of a simulation, nothing but a sum at the server, and nobody who can get more out of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from halls import (
    NAMES,
    PROCESS,
    RUN,
    SEED,
    SERVER,
    SIZE,
    TEST,
    Desk,
    Hall,
    Means,
    Script,
    assert_same,
    attending,
    examples_of,
    serving,
    simulated,
)

from unseen.codec import decode, encode_bytes
from unseen.crypto.prg import Prg
from unseen.errors import PeerFailed, PeerUnreachable, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.horizontal.private.distributed import Code, Decode, DistributedPlan, Encode, ModularSum
from unseen.learners.horizontal.process import Update
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.sums import Layout
from unseen.privacy.epsilon import Unlimited
from unseen.privacy.events import Everyone
from unseen.protocols.secure_aggregation.secagg_plus import Keys, Masked, Survivors
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.cohort import Uniform
from unseen.rounds.events import What
from unseen.rounds.identities import Signer, public_key, signing_key
from unseen.rounds.messages import (
    Answer,
    Assigned,
    Failed,
    Finished,
    KeptSum,
    Ready,
    Refusal,
    Summing,
    SumStep,
    client_word,
    fingerprint,
)
from unseen.rounds.secure_round import ClientSums
from unseen.rounds.serve import Server

MEAN = SecureMean(clip=8.0, clients=5, max_weight=10, extras={"control": 16.0}, prg=Prg(bytes(32)))
SECURE = secure(PROCESS, MEAN)
KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32)) for name in NAMES}
ROSTER = {name: public_key(key) for name, key in KEYS.items()}
EVERYONE = Uniform(5)


def signed(name):
    return {"signer": Signer(KEYS[name], ROSTER)}


def secure_serving(**settings):
    return serving(**{"cohort": EVERYONE, "roster": ROSTER, "phase_deadline": 5.0, **settings})


def serve(hall, rounds, process=SECURE, desk=None, **settings):
    with Server(desk or hall.serve(), process, Means(), secure_serving(**settings), test=TEST) as server:
        return server.rounds(rounds), server.counts


def secret(process, **settings):
    return {"process": process, "each": signed, **settings}


# --- the same bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "process",
    [
        SECURE,
        secure(strategy("fed_avg", learning_rate=0.1), MEAN),
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
