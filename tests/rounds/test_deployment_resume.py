"""Whoever is killed and comes back, the bits are the same.

The test with real processes runs this file as a program, over mutual TLS on loopback, and kills with SIGKILL.
"""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from halls import (
    KEYS,
    NAMES,
    PROCESS,
    ROSTER,
    RUN,
    SECURE,
    SEED,
    SERVER,
    TEST,
    Desk,
    Hall,
    Means,
    assert_same,
    attending,
    examples_of,
    free_port,
    serve,
    serving,
    simulated,
    simulated_cohort,
)

from unseen.errors import (
    DataError,
    PeerUnreachable,
    UsageError,
)
from unseen.ids import PartyId
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.cohort import Uniform
from unseen.rounds.events import What
from unseen.rounds.identities import Signer
from unseen.rounds.messages import (
    Answer,
    client_word,
)
from unseen.rounds.serve import Server
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.tls import Identity, issue, make_authority

# --- comings and goings ------------------------------------------------------------------------------------------


def test_an_answer_that_is_lost_with_its_link_is_sent_again_and_not_trained_again():
    hall, lost = Hall(), []

    class Lossy(Desk):
        """Loses the first answer of the first two rounds, with its link."""

        def receive(self, peer, timeout):
            frame = super().receive(peer, timeout)
            word = client_word(frame, sender=peer)
            if isinstance(word, Answer) and word.round == len(lost) < 2:
                lost.append(peer)
                self.cut(peer)
                raise PeerUnreachable("cut")
            return frame

    hall.desk = Lossy(hall)
    with attending(hall) as clients:
        with Server(hall.desk, PROCESS, Means(), serving(), test=TEST) as server:
            run = server.rounds(4)
        done = [client.result(5) for client in clients.values()]
    assert_same(run, simulated(4))
    assert len(lost) == 2
    assert sum(one.trained for one in done) == 12
    assert sum(one.repeated for one in done) == 2
    assert server.counts[What.LOST] == 2


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_server_that_is_gone_in_mid_round_and_comes_back_ends_with_the_same_bits(tmp_path, stop_at):
    """Clients attend through it; what they have answered before they answer again with the same bytes."""
    hall, gone = Hall(), []

    def watch(event):
        if event.what is What.ANSWERED and event.round == 1 and event.done == stop_at and not gone:
            gone.append(True)
            raise KeyboardInterrupt

    with attending(hall) as clients:
        with pytest.raises(KeyboardInterrupt):
            serve(hall, 4, folder=tmp_path, watch=watch)
        run, counts = serve(hall, 4, folder=tmp_path)
        done = [client.result(5) for client in clients.values()]
    assert_same(run, simulated(4))
    assert counts[What.ANSWERED] == 9
    # Three were asked in round 1; all of them had been sent the assignment, and no one trained it twice.
    assert sum(one.trained for one in done) <= 12
    assert sum(one.repeated for one in done) >= stop_at


def test_a_client_that_is_started_again_answers_from_its_folder(tmp_path):
    """Killed after it had kept its answer and before it had sent it: the worst moment."""
    hall = Hall()
    hall.serve()
    folders = {name: tmp_path / name for name in NAMES}
    victim, killed, trained = simulated_cohort(1)[0], [], Counter()

    class Fragile:
        """A channel whose process dies instead of sending its second answer."""

        def __init__(self, inner):
            self.inner, self.party, self.peers = inner, inner.party, inner.peers

        def send(self, peer, parts, *, waiting=None):
            word = client_word(b"".join(parts), sender="me")
            if isinstance(word, Answer) and word.round == 1 and not killed:
                killed.append(word)
                raise KeyboardInterrupt
            self.inner.send(peer, parts)

        def receive(self, peer, timeout):
            return self.inner.receive(peer, timeout)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

    def start(name):
        trainer = Means(before=lambda: trained.update([name]))
        settings = AttendSettings(RUN, SEED, folder=folders[name], patience=5.0)
        return attend(lambda: Fragile(hall.connect(name)), PROCESS, trainer, examples_of(name), settings)

    def live(name):
        try:
            return start(name)
        except KeyboardInterrupt:
            return start(name)

    fragile = {victim}
    with (
        ThreadPoolExecutor(1) as pool,
        attending(hall, [name for name in NAMES if name not in fragile]),
        Server(hall.desk, PROCESS, Means(), serving(), test=TEST) as server,
    ):
        done = pool.submit(live, victim)
        run = server.rounds(4)
        server.finish()
        done.result(5)
    assert_same(run, simulated(4))
    assert len(killed) == 1
    assert trained[victim] == sum(victim in simulated_cohort(number) for number in range(4))


def test_memory_of_rounds_that_are_replaced_is_removed(tmp_path):
    hall = Hall(NAMES[:1])
    with attending(hall, NAMES[:1], folder=tmp_path):
        serve(hall, 6, cohort=Uniform(1))
    assert len(list((tmp_path / "memory").iterdir())) <= 2


def test_a_folder_belongs_to_one_run(tmp_path):
    hall = Hall()
    with attending(hall):
        serve(hall, 1, folder=tmp_path / "server")
    desk = hall.serve()
    with pytest.raises(UsageError, match="holds another run, with other seed"):
        Server(desk, PROCESS, Means(), serving(seed=8, folder=tmp_path / "server"))
    desk.close()
    with attending(hall, NAMES[:1], folder=tmp_path / "client") as clients:
        serve(hall, 1, minimum=1, deadline=0.5, cohort=Uniform(5))
        clients[NAMES[0]].result(5)
    hall.serve()
    with (
        attending(hall, NAMES[1:2], folder=tmp_path / "client") as clients,
        pytest.raises(UsageError, match="holds another run, with other client"),
    ):
        clients[NAMES[1]].result(5)


def test_a_damaged_answer_is_named(tmp_path):
    hall = Hall()
    hall.serve()
    (tmp_path / "answer.bin").write_bytes(b"half of it")
    with (
        attending(hall, NAMES[:1], folder=tmp_path) as clients,
        pytest.raises(DataError, match=r"answer\.bin.*damaged; remove it"),
    ):
        clients[NAMES[0]].result(5)


# --- real processes ----------------------------------------------------------------------------------------------


FEW = NAMES[:3]
WAYS = {"plain": (PROCESS, Uniform(2)), "secure": (SECURE, Uniform(3))}


def cohort(way, round_number):
    return WAYS[way][1].choose(FEW, [1] * len(FEW), round_number, SEED)


def play_server(folder, port, way, rounds):
    process, drawn = WAYS[way]
    identity = Identity.load(folder / SERVER)
    channel = GrpcChannel(identity, dict.fromkeys(FEW), listen=f"127.0.0.1:{port}")
    settings = serving(folder=folder / "run", deadline=60.0, minimum=drawn.size, cohort=drawn, roster=ROSTER)
    with Server(channel, process, Means(), settings, test=TEST) as server:
        run = server.rounds(rounds, observe=lambda one: tell(f"round {one.number}"))
    np.save(folder / "model.npy", run.state.model)
    (folder / "counts.json").write_text(json.dumps(server.counts))


def play_client(folder, port, way, name, pause):
    identity = Identity.load(folder / name)

    def connect():
        return GrpcChannel(identity, {SERVER: f"127.0.0.1:{port}"}, options=Options(connect_grace=10, close_grace=2))

    def before():
        tell("training")
        time.sleep(pause)

    signer = Signer(KEYS[name], ROSTER)
    settings = AttendSettings(RUN, SEED, folder=folder / f"{name}-run", patience=30.0, signer=signer)
    done = attend(connect, WAYS[way][0], Means(before), examples_of(name), settings)
    tell(f"finished {done.rounds}")
    return done.rounds


def tell(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@pytest.fixture
def federation(tmp_path):
    """Certificates, and a way to start the server and clients as processes; none of them outlives the test."""
    now = datetime.now(UTC)
    authority = make_authority("Test", days=1, now=now)
    for party in (SERVER, *FEW):
        issue(authority, party, days=1, now=now).save(tmp_path / party)
    started = []

    def start(*words):
        command = [sys.executable, __file__, str(tmp_path), *map(str, words)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def lines_until(process, wanted):
    for line in process.stdout:
        if line.startswith(wanted):
            return line
    raise AssertionError(process.stderr.read())


def finish(process):
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("way", ["plain", pytest.param("secure", marks=pytest.mark.evidence)])
def test_a_server_and_a_client_that_are_killed_come_back_to_the_same_bits(federation, tmp_path, way):
    """SIGKILL in mid-training, of the server in round 2 and of a client in the last round; the others are threads."""
    rounds, port, victim = 4, free_port(), cohort("plain", 1)[0]
    asked = [victim in cohort(way, number) for number in range(rounds)]
    assert asked[1]
    assert asked[3]
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(play_client, tmp_path, port, way, name, 0.1) for name in FEW if name != victim]
        client, server = federation("client", port, way, victim, 0.3), federation("server", port, way, rounds)
        lines_until(client, "training")
        if asked[0]:
            lines_until(client, "training")
        kill(server)
        server = federation("server", port, way, rounds)
        lines_until(server, "round 3")
        kill(client)
        client = federation("client", port, way, victim, 0.0)
        finish(server)
        assert finish(client).splitlines()[-1] == "finished 4"
        assert [other.result(10) for other in others] == [4, 4]
    expected = simulated(rounds, WAYS[way][0], WAYS[way][1], FEW)
    np.testing.assert_array_equal(np.load(tmp_path / "model.npy"), expected.state.model)
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["answered"] == 3 * len(cohort(way, 0))
    assert counts["joined"] == 4
    assert counts["lost"] >= 1


def kill(process):
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL


def main():
    folder, role, port, way, *rest = sys.argv[1:]
    if role == "server":
        play_server(Path(folder), int(port), way, int(rest[0]))
    else:
        play_client(Path(folder), int(port), way, PartyId(rest[0]), float(rest[1]))


if __name__ == "__main__":
    main()
