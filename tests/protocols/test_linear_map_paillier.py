"""What only the Paillier scheme promises: masks, keys and ciphertexts of a peer, blocks, what it costs."""

from dataclasses import replace

import numpy as np
import pytest
from gmpy2 import mpz, next_prime

from unseen.crypto.paillier import PrivateKey
from unseen.crypto.prg import Prg
from unseen.dialogue import ArrayChunk, Enter, Leave, Send, converse
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId, StepId
from unseen.protocols.linear_map import paillier
from unseen.protocols.linear_map.matrices import BinnedMatrix, DenseMatrix
from unseen.protocols.linear_map.paillier import Key, Paillier
from unseen.protocols.linear_map.port import Bounds, Recipient, hold_matrix, hold_vectors, reconstruct

VICKY, MAX = PartyId("vicky"), PartyId("max")
SCHEME = Paillier(key_bits=2048)
BOUNDS = Bounds(rows=3, columns=2, column_norm=100.0, vector_norm=100.0)
MATRIX = np.array([[1, -2], [0, 30], [-5, 4]], np.int64)
VECTOR = np.array([[7, -8, 9]], np.int64)


def prg(label):
    return Prg(bytes(32)).derive(label)


def matrix_holder(recipient, matrix=MATRIX, bounds=BOUNDS):
    side = yield from hold_matrix(SCHEME, DenseMatrix.of(matrix), bounds, peer=VICKY, prg=prg("matrix"))
    yield Enter(StepId("multiply"))
    result = yield from side.multiply(1, recipient)
    return result, (yield Leave())


def vector_holder(recipient, vectors=VECTOR, bounds=BOUNDS):
    side = yield from hold_vectors(SCHEME, bounds, peer=MAX, prg=prg("vectors"))
    yield Enter(StepId("multiply"))
    result = yield from side.multiply(vectors, recipient)
    return result, (yield Leave())


def each_sent(dialogue, act):
    """Pass a dialogue through; ``act`` sees, and may replace, what it sends."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield (Send(effect.peer, act(effect.message)) if isinstance(effect, Send) else effect)


def chunks_sent(recipient, *, vectors=VECTOR, matrix=MATRIX):
    """Return the array chunks of both sides, matrix holder first."""
    logs = [], []

    def keep(log):
        def act(sent):
            if isinstance(sent, ArrayChunk):
                log.append(sent.data)
            return sent

        return act

    talk = {
        MAX: each_sent(matrix_holder(recipient, matrix), keep(logs[0])),
        VICKY: each_sent(vector_holder(recipient, vectors), keep(logs[1])),
    }
    converse(talk)
    return logs


def numbers(chunk, width):
    return [int.from_bytes(row.tobytes(), "big") for row in chunk.reshape(-1, width)]


def modulus():
    seen = []

    def act(sent):
        if isinstance(sent, Key):
            seen.append(int.from_bytes(sent.modulus, "big"))
        return sent

    recipient = Recipient.VECTOR_HOLDER
    converse({MAX: matrix_holder(recipient), VICKY: each_sent(vector_holder(recipient), act)})
    return seen[0]


# --- hedged randomness -------------------------------------------------------------------------------------------


def test_two_vectors_under_one_seed_never_share_the_factors_that_hide_them():
    n = modulus()
    hiding = []
    for vector in (VECTOR, VECTOR + np.array([[0, 0, 1]])):
        _, (chunk,) = chunks_sent(Recipient.VECTOR_HOLDER, vectors=vector)
        bare = zip(numbers(chunk, 512), vector[0].tolist(), strict=True)
        hiding.append({ciphertext * (1 - value * n) % n**2 for ciphertext, value in bare})
    assert len(hiding[0] | hiding[1]) == 6


@pytest.mark.parametrize(
    ("vector", "matrix"),
    [(VECTOR + np.array([[0, 0, 1]]), MATRIX), (VECTOR, MATRIX + np.array([[0, 0], [0, 0], [1, 0]]))],
    ids=["other vector", "other matrix"],
)
def test_two_answers_under_one_seed_never_share_a_mask(vector, matrix):
    n = modulus()
    masks = set()
    for v, m in ((VECTOR, MATRIX), (vector, matrix)):
        _, (_, masked) = chunks_sent(Recipient.MATRIX_HOLDER, vectors=v, matrix=m)
        masks |= {(seen - int(true)) % n for seen, true in zip(numbers(masked, 256), (v @ m)[0], strict=True)}
    assert len(masks) == 4
    assert min(mask.bit_length() for mask in masks) > 2000


def test_who_shall_learn_the_result_is_part_of_the_randomness():
    for mine, theirs in zip(chunks_sent(Recipient.MATRIX_HOLDER), chunks_sent(Recipient.VECTOR_HOLDER), strict=True):
        assert mine[0].tobytes() != theirs[0].tobytes()


def test_answers_are_rerandomised():
    # An entry that is picked, or a sum of nothing, would otherwise show which row was picked, or that none was.
    matrix = np.array([[1, 0], [0, 0], [0, 0]], np.int64)
    (answers,), (submitted,) = chunks_sent(Recipient.VECTOR_HOLDER, matrix=matrix)
    picked, nothing = numbers(answers, 512)
    assert picked not in numbers(submitted, 512)
    assert nothing != 1


# --- blocks and costs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipient", list(Recipient))
def test_tables_longer_than_a_block_are_exact(monkeypatch, recipient):
    monkeypatch.setattr(paillier, "BLOCK_ROWS", 4)
    matrix = np.arange(-10, 12, dtype=np.int64).reshape(11, 2)
    vector = np.arange(-3, 8, dtype=np.int64).reshape(1, 11)
    bounds = Bounds(11, 2, 100.0, 100.0)
    done = converse({MAX: matrix_holder(recipient, matrix, bounds), VICKY: vector_holder(recipient, vector, bounds)})
    (of_matrix, _), (of_vectors, _) = done[MAX], done[VICKY]
    if recipient is Recipient.SHARED:
        got = reconstruct(of_matrix, of_vectors, 0)
    else:
        got = of_matrix if recipient is Recipient.MATRIX_HOLDER else of_vectors
    np.testing.assert_array_equal(got, vector @ matrix)


def test_binned_tables_are_written_out_by_the_block_only(monkeypatch):
    monkeypatch.setattr(paillier, "BLOCK_ROWS", 4)
    written = []

    class Spy(BinnedMatrix):
        def rows_of(self, rows):
            written.append(rows.stop - rows.start)
            return BinnedMatrix.rows_of(self, rows)

    matrix = Spy(np.array([[0, 1, 2, 0, 1, 2, 0, 1, 2]], np.uint8), (3,))
    vector = np.arange(9, dtype=np.int64).reshape(1, 9)

    def holder():
        side = yield from hold_matrix(SCHEME, matrix, bounds, peer=VICKY, prg=prg("matrix"))
        return (yield from side.multiply(1, Recipient.MATRIX_HOLDER)), None

    bounds = Bounds(9, 3, 100.0, 100.0)
    done = converse({MAX: holder(), VICKY: vector_holder(Recipient.MATRIX_HOLDER, vector, bounds)})
    assert done[MAX][0].tolist() == [[9, 12, 15]]
    assert written == [4, 4, 1]


def test_shares_are_those_of_a_mask_far_larger_than_any_result(monkeypatch):
    opened = []
    original = PrivateKey.decrypt
    monkeypatch.setattr(PrivateKey, "decrypt", lambda self, each: opened.append(original(self, each)) or opened[-1])
    done = converse({MAX: matrix_holder(Recipient.SHARED), VICKY: vector_holder(Recipient.SHARED)})
    assert [value.bit_length() > 150 for value in opened] == [True, True]
    assert done[VICKY][0].view(np.uint64).tolist() == [[value % 2**64 for value in opened]]


def test_a_masked_sum_beyond_mask_and_result_is_the_peers_fault():
    too_much = (1 + ((1 << 168) + 20_000) * modulus()).to_bytes(512, "big")
    holder = each_sent(matrix_holder(Recipient.SHARED), with_first_row(too_much))
    with pytest.raises(RemoteProtocolError, match="max: entry 0 of a result"):
        converse({MAX: holder, VICKY: vector_holder(Recipient.SHARED)})


@pytest.mark.parametrize("recipient", list(Recipient))
def test_rounds_and_bytes_are_as_documented(recipient):
    done = converse({MAX: matrix_holder(recipient), VICKY: vector_holder(recipient)})
    framing = 600
    masked = 2 * 256 if recipient is Recipient.MATRIX_HOLDER else 0
    assert 3 * 512 + masked <= done[VICKY][1].bytes_sent <= 3 * 512 + masked + framing
    assert 2 * 512 <= done[MAX][1].bytes_sent <= 2 * 512 + framing
    assert done[VICKY][1].rounds == 1
    assert done[MAX][1].rounds == (recipient is Recipient.MATRIX_HOLDER)


@pytest.mark.parametrize("bits", [1024, 2047, 2056, 16384])
def test_weak_or_odd_key_sizes_are_refused(bits):
    with pytest.raises(UsageError, match="2048 to 8192"):
        Paillier(key_bits=bits)


# --- peers that misbehave ----------------------------------------------------------------------------------------


def with_modulus(number):
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return lambda sent: replace(sent, modulus=raw) if isinstance(sent, Key) else sent


PRIME = int(next_prime(mpz(1) << 2100))


@pytest.mark.parametrize(
    ("number", "complaint"),
    [(PRIME, "is prime"), ((1 << 2100) + 2, "is even"), ((1 << 1500) + 1, "1501 bits"), (3 * PRIME, "prime factor")],
    ids=["prime", "even", "too small", "small factor"],
)
def test_a_bad_modulus_is_the_peers_fault(number, complaint):
    submitter = each_sent(vector_holder(Recipient.VECTOR_HOLDER), with_modulus(number))
    with pytest.raises(RemoteProtocolError, match=f"vicky: .*{complaint}"):
        converse({MAX: matrix_holder(Recipient.VECTOR_HOLDER), VICKY: submitter})


def with_first_row(content, *, chunk=0):
    """Return a change that overwrites the start of the chunk of that number with ``content``."""
    seen = iter(range(1 << 30))

    def act(sent):
        if not isinstance(sent, ArrayChunk) or next(seen) != chunk:
            return sent
        return ArrayChunk(np.concatenate([np.frombuffer(content, np.uint8), sent.data[len(content) :]]))

    return act


def own_factor():
    """Return a factor of the modulus that ``vector_holder`` makes."""
    log = []
    generate = PrivateKey.generate

    def spy(*args):
        log.append(generate(*args))
        return log[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateKey, "generate", spy)
        modulus()
    return int(log[0]._p)


def test_a_modulus_of_another_size_than_agreed_is_refused():
    matrix, vectors = np.ones((1, 1), np.int64), Paillier(key_bits=2064)
    bounds = Bounds(1, 1, 2.0, 2.0)
    talk = {
        MAX: SCHEME.set_up_matrix(DenseMatrix.of(matrix), bounds, peer=VICKY, prg=Prg(b"m" * 32)),
        VICKY: vectors.set_up_vectors(bounds, peer=MAX, prg=Prg(b"v" * 32)),
    }
    with pytest.raises(RemoteProtocolError, match="vicky: its Paillier modulus has 2064 bits, agreed are 2048"):
        converse(talk)


@pytest.mark.parametrize("kind", ["zero", "too large", "shares a factor"])
@pytest.mark.parametrize("liar", [MAX, VICKY])
def test_a_bad_ciphertext_is_the_peers_fault(kind, liar):
    content = bytes(512) if kind == "zero" else b"\xff" * 512
    if kind == "shares a factor":
        content = own_factor().to_bytes(512, "big")
    talk = {MAX: matrix_holder(Recipient.VECTOR_HOLDER), VICKY: vector_holder(Recipient.VECTOR_HOLDER)}
    talk[liar] = each_sent(talk[liar], with_first_row(content))
    with pytest.raises(RemoteProtocolError, match=f"{liar}: ciphertext 0 "):
        converse(talk)


def test_a_masked_sum_that_opens_to_too_much_is_the_peers_fault():
    recipient = Recipient.MATRIX_HOLDER
    submitter = each_sent(vector_holder(recipient), with_first_row(bytes(256), chunk=1))
    with pytest.raises(RemoteProtocolError, match="vicky: entry 0 of a result"):
        converse({MAX: matrix_holder(recipient), VICKY: submitter})


def test_an_answer_larger_than_agreed_is_the_peers_fault():
    done = modulus()
    too_much = (1 + 10_001 * done).to_bytes(512, "big")
    holder = each_sent(matrix_holder(Recipient.VECTOR_HOLDER), with_first_row(too_much))
    with pytest.raises(RemoteProtocolError, match="max: entry 0 of a result"):
        converse({MAX: holder, VICKY: vector_holder(Recipient.VECTOR_HOLDER)})


def test_other_norms_than_agreed_are_the_peers_fault():
    bounds = replace(BOUNDS, vector_norm=101.0)
    with pytest.raises(RemoteProtocolError, match="set up a linear map with"):
        converse(
            {
                MAX: matrix_holder(Recipient.VECTOR_HOLDER),
                VICKY: vector_holder(Recipient.VECTOR_HOLDER, bounds=bounds),
            }
        )
