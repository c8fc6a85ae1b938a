"""A deployed run gives the bits of a simulation, whoever answers first; its words, its settings, its guide."""

import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from halls import (
    NAMES,
    ORDERED,
    PROCESS,
    RUN,
    SEED,
    SIZE,
    TEST,
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
from hypothesis import given
from hypothesis import strategies as st

from unseen.crypto.prg import Prg
from unseen.errors import (
    RemoteProtocolError,
    UsageError,
)
from unseen.ids import PartyId
from unseen.learners.horizontal.compression import Quantised, TopK, compressed
from unseen.learners.horizontal.private.local import LocalNoise
from unseen.learners.horizontal.process import Process, Update
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.cohort import Poisson
from unseen.rounds.digest import digest_of
from unseen.rounds.events import Shelf, What
from unseen.rounds.messages import (
    Hello,
    Length,
    Ready,
    Summing,
    SumStep,
    client_word,
    said_by_client,
    said_by_server,
    server_word,
)
from unseen.rounds.serve import Server
from unseen.transport.tls import issue, make_authority

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "deployment_of_rounds.md"

# --- the same bits -----------------------------------------------------------------------------------------------


def test_a_deployed_run_has_the_bits_of_a_simulation():
    hall = Hall()
    with attending(hall) as clients:
        run, counts = serve(hall, 5)
        done = [client.result(5) for client in clients.values()]
    assert_same(run, simulated(5))
    assert counts[What.ANSWERED] == 15 == sum(one.trained for one in done)
    assert {one.rounds for one in done} == {5}


def test_cohorts_that_may_be_empty():
    hall, cohort, process = Hall(), Poisson(0.3), strategy("fed_avg_m", learning_rate=0.1)
    expected = simulated(8, process, cohort)
    assert 0 in [one.cohort for one in expected.history]
    with attending(hall, process=process):
        run, _ = serve(hall, 8, process, cohort=cohort)
    assert_same(run, expected)


def test_who_answers_first_does_not_matter():
    hall, gates = Hall(), {name: threading.Event() for name in NAMES}
    order = list(reversed(simulated_cohort(0)))

    def watch(event):
        if event.what is What.ASSIGNED:
            gates[order[0]].set()
        if event.what is What.ANSWERED and event.round == 0 and event.done < 3:
            gates[order[event.done]].set()
        if event.round > 0:
            [gate.set() for gate in gates.values()]

    with ThreadPoolExecutor(5) as pool:
        hall.serve()
        for name in NAMES:
            trainer = Means(before=partial(gates[name].wait, 5))
            settings = AttendSettings(RUN, SEED)
            pool.submit(attend, partial(hall.connect, name), ORDERED, trainer, examples_of(name), settings)
        with Server(hall.desk, ORDERED, Means(), serving(watch=watch), test=TEST) as server:
            run = server.rounds(2)
    assert_same(run, simulated(2, ORDERED))


def test_updates_that_wait_in_files_have_the_same_bits(tmp_path):
    hall = Hall()
    with attending(hall):
        run, _ = serve(hall, 3, held_bytes=200)
    assert_same(run, simulated(3))


def test_a_shelf_keeps_what_it_may_in_memory_and_the_rest_in_files(tmp_path):
    update = Update(np.arange(6, dtype=np.float32), 2.0, {"a": np.ones(2, np.float32), "b": np.zeros(0, np.float32)})
    shelf = Shelf(50, tmp_path)
    assert shelf.put(update) is update
    filed = shelf.put(update)
    assert filed.delta.base is not None
    assert not filed.delta.flags.writeable
    np.testing.assert_array_equal(filed.delta, update.delta)
    np.testing.assert_array_equal(filed.extra["a"], [1, 1])
    assert len(filed.extra["b"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("process", "most"),
    [
        (strategy("fed_avg", learning_rate=0.1), SIZE * 4 + 250),
        (PROCESS, 2 * SIZE * 4 + 300),
        (compressed(strategy("fed_avg", learning_rate=0.1), TopK(0.1)), SIZE * 4 * 0.1 * 1.25 + 400),
        (compressed(strategy("fed_avg", learning_rate=0.1), Quantised(8)), SIZE + 400),
    ],
    ids=lambda value: value.name if isinstance(value, Process) else "",
)
def test_the_history_has_the_bytes_of_every_round_and_a_simulation_knows_them(process, most):
    hall = Hall()
    with attending(hall, process=process):
        run, _ = serve(hall, 3, process)
    expected = simulated(3, process)
    assert_same(run, expected)
    for found, told in list(zip(run.history, expected.history, strict=True))[1:]:
        assert found.bytes_up / 3 < most
        assert abs(found.bytes_up - told.bytes_up) <= 3 * 110
        # Those who are not asked are told where the run stands.
        assert abs(found.bytes_down - told.bytes_down) <= 5 * 100


# --- settings and messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"minimum": 0}, "minimum"),
        ({"minimum": 4, "enough": 3}, "enough is not below"),
        ({"deadline": 0}, "deadline"),
        ({"attempts": 0}, "attempts"),
        ({"held_bytes": -1}, "held_bytes"),
    ],
)
def test_impossible_settings_are_refused(wrong, complaint):
    with pytest.raises(UsageError, match=complaint):
        serving(**wrong)
    with pytest.raises(UsageError, match="patience"):
        AttendSettings(RUN, 0, patience=-1)


def test_a_process_is_known_by_its_parts_and_parameters():
    def build(rate=0.1, secret=b"a" * 32, **parameters):
        process = strategy("scaffold", clients=5, learning_rate=rate, **parameters)
        return replace(process, postprocessors=(LocalNoise(1.0, 2.0, 3, Prg(secret)),))

    assert digest_of(build()) == digest_of(build())
    assert digest_of(build()) == digest_of(build(secret=b"b" * 32))
    assert digest_of(build()) != digest_of(build(rate=0.2))
    assert digest_of(build()) != digest_of(build(epochs=2))
    assert digest_of(build()) != digest_of(replace(build(), postprocessors=()))
    parts = Process("test", partial(max, 1), np.arange(3), {"a": {1, 2}, "b": b"x"}, serve, Means)
    assert digest_of(parts) == digest_of(replace(parts, work=np.arange(3)))
    for change in ({"distributor": partial(max, 2)}, {"work": np.arange(4)}, {"aggregator": {"a": {1, 3}, "b": b"x"}}):
        assert digest_of(parts) != digest_of(replace(parts, **change))


@given(
    st.binary(max_size=300),
    st.integers(0, 60),
    st.sampled_from(
        [
            said_by_client(Hello("run", "00", 3)),
            said_by_client(Ready("run", 0, 1, 3, (Length("a", 2),), ("loss",), ("x", "y"))),
            said_by_client(SumStep("run", 0, 1, b"nonce", np.arange(9, dtype=np.uint8))),
            said_by_server(Summing("run", 0, 1, b"nonce", ("x", "y"))),
        ]
    ),
)
def test_whatever_comes_is_a_word_or_a_protocol_error(noise, place, said):
    good = b"".join(said)
    for frame in (noise, good, good[:place], good[:place] + noise, good + noise[:1]):
        for read in (client_word, server_word):
            with suppress(RemoteProtocolError):
                assert isinstance(read(frame, sender="peer"), Hello | Ready | SumStep | Summing)
    assert sum(
        isinstance(word_of(read, good), Hello | Ready | SumStep | Summing) for read in (client_word, server_word)
    )


def word_of(read, frame):
    with suppress(RemoteProtocolError):
        return read(frame, sender="peer")
    return None


# --- the guide ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "secure"])
def test_the_programs_of_the_guide_run(tmp_path, monkeypatch, hidden):
    """The server and its three clients, over mutual TLS, as threads: each with a folder of its own."""
    text = GUIDE.read_text(encoding="utf-8")
    shared, server, client, added, vouch, roster = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    names, port = ["coordinator", "clinic-a", "clinic-b", "clinic-c"], free_port()
    lay_out(tmp_path, names)
    federation = ModuleType("federation")
    exec(shared + (added if hidden else ""), vars(federation))  # noqa: S102  # our own documentation
    monkeypatch.setitem(sys.modules, "federation", federation)
    if hidden:
        for name in names[1:]:
            exec(at_home(vouch, tmp_path / name), {})  # noqa: S102
        signer = "from unseen.rounds.identities import Signer, signing_key\n"
        signer += 'signer = Signer(signing_key(Path("identity/signing.key")), roster)\n'
        server = roster + server.replace("ServeSettings(RUN,", "ServeSettings(RUN, roster=roster,")
        client = roster + signer + client.replace("AttendSettings(RUN,", "AttendSettings(RUN, signer=signer,")

    def play(name):
        told, text = [], at_home(server if name == names[0] else client, tmp_path / name)
        text = re.sub(r"(0\.0\.0\.0|coordinator\.example\.org):7001", f"127.0.0.1:{port}", text)
        exec(text, {"print": lambda *words: told.append(" ".join(map(str, words)))})  # noqa: S102
        return told

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(play, names))
    assert told[0][-1] == "5 rounds"
    assert told[0][0].startswith("Round(number=1, cohort=3, dropped=0")
    assert all(lines == ["Attendance(rounds=5, trained=5, repeated=0)"] for lines in told[1:])


def lay_out(folder, names):
    """Give everybody a certificate and examples."""
    now = datetime.now(UTC)
    authority = make_authority("Test", days=1, now=now)
    (folder / "vouchers").mkdir()
    for number, name in enumerate(names):
        issue(authority, PartyId(name), days=1, now=now).save(folder / name / "identity")
        rng = np.random.default_rng(number)
        inputs, labels = rng.random((20, 64), np.float32), rng.integers(0, 10, 20)
        np.savez(folder / name / "examples.npz", inputs=inputs, labels=labels)


def at_home(text, folder):
    """Return a program whose relative paths begin in a folder."""
    return re.sub(r"(Path\(f?\"|np\.load\(\")", lambda match: f"{match[0]}{folder}/", text)
