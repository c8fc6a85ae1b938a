"""Trees and regressions on tables by secure sums between real clients: the bits of a simulation."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_table_rounds import COHORT, RUN, SERVER, SITES, boosting, logistic, narrow, simulated

from unseen.ids import ClientId, PartyId
from unseen.learners.horizontal.process import Examples
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.identities import Signer, public_key
from unseen.rounds.serve import Server, ServeSettings
from unseen.transport.memory import MemoryNetwork

NAMES = [PartyId(client) for client in SITES.ids]
KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32)) for name in NAMES}
ROSTER = {name: public_key(key) for name, key in KEYS.items()}


@pytest.mark.parametrize(("make", "scheme"), [(boosting, "secagg_plus"), (logistic, "secagg_plus")])
def test_a_secure_run_has_the_bits_of_a_simulation_in_the_clear(tmp_path, make, scheme):
    network, cancel = MemoryNetwork([SERVER, *NAMES]), threading.Event()
    learner = make().secure(scheme=scheme)
    with ThreadPoolExecutor(len(NAMES)) as pool:
        for client in NAMES:
            own, examples = make().secure(scheme=scheme), Examples(*SITES.client(ClientId(client)))
            settings = AttendSettings(RUN, 0, folder=tmp_path / client, signer=Signer(KEYS[client], ROSTER))
            connect = partial(narrow, network, client)
            pool.submit(attend, connect, own.process, own.trainer, examples, settings, cancel=cancel)
        try:
            settings = ServeSettings(RUN, COHORT, deadline=20.0, roster=ROSTER, phase_deadline=10.0)
            with Server(network.channel(SERVER), learner.process, learner.trainer, settings) as server:
                found = server.rounds(learner.rounds)
        finally:
            cancel.set()
    np.testing.assert_array_equal(found.state.model, simulated(make(), learner.rounds).state.model)
