"""Attacks on the lattice scheme: each part of the protocol is taken away, and what it protects is read.

What the attacker knows is what the protocol gives it: the matrix holder its key, its matrix and all that it received,
the vector holder its vectors, its secrets and all that it received.
"""

from dataclasses import replace

import numpy as np
import pytest

from unseen.crypto.lattice_parameters import INNER, MODULUS, PRIMES
from unseen.crypto.lwe import OneTimeSecret, PublicMatrix, encrypt_all
from unseen.crypto.prg import Prg
from unseen.crypto.ring import ring
from unseen.crypto.rlwe import DEGREE, Packing, Rerandomisation, SecretKeys, public_parts
from unseen.dialogue import ArrayChunk, Send, converse, receive, send, send_array
from unseen.errors import LocalProtocolError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.kernels.upper_bits import DROPPED, SHORT, blocks, lengthen
from unseen.protocols.linear_map import lattice
from unseen.protocols.linear_map.agreement import Call
from unseen.protocols.linear_map.lattice import Answer, Lattice, Query, Scaling, Unmask
from unseen.protocols.linear_map.matrices import DenseMatrix
from unseen.protocols.linear_map.port import Bounds, Recipient

A, B = PartyId("a"), PartyId("b")
TO_A, TO_B = Recipient.VECTOR_HOLDER, Recipient.MATRIX_HOLDER
RING = ring(DEGREE)


class Case:
    """A matrix that is set up, and what was sent in the call that was heard last."""

    def __init__(self, table, bounds):
        self.matrix, self.bounds, self.scaling = DenseMatrix.of(table), bounds, Scaling.of(bounds)
        done = converse(
            {
                A: Lattice().set_up_vectors(bounds, peer=B, prg=Prg(b"a" * 32)),
                B: Lattice().set_up_matrix(self.matrix, bounds, peer=A, prg=Prg(b"b" * 32)),
            }
        )
        self.of_a, self.of_b = done[A], done[B]
        self.queries, self.hidden = [], []

    def call(self, vectors, recipient):
        """Let both holders talk; return what each gets."""
        self.queries, self.hidden = [], []
        vector_side = self.of_a.side(peer=B, prg=Prg(b"c" * 32))
        matrix_side = self.of_b.side(self.matrix, peer=A, prg=Prg(b"d" * 32))
        talk = {
            A: self.heard(vector_side.multiply(vectors, recipient)),
            B: matrix_side.multiply(len(vectors), recipient),
        }
        return converse(talk)

    def heard(self, dialogue):
        answer = None
        while True:
            try:
                effect = dialogue.send(answer)
            except StopIteration as end:
                return end.value
            match effect:
                case Send(_, Query() as query):
                    self.queries.append(query)
                case Send(_, ArrayChunk() as chunk):
                    self.hidden.append(np.empty(self.bounds.rows, np.uint64))
                    lengthen(chunk.data.view(np.uint64).reshape(-1, SHORT), self.hidden[-1])
            answer = yield effect


# --- one secret for two vectors ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(1)
    return Case(rng.integers(-3, 4, (40, 5)), Bounds(40, 5, 30.0, 1000.0))


VECTORS = np.array([[7] * 40, [-5] * 40])


def test_two_vectors_under_one_secret_are_a_two_time_pad(small, monkeypatch):
    original = OneTimeSecret.draw
    monkeypatch.setattr(OneTimeSecret, "draw", lambda prg, rows: original(Prg(b"careless" * 4), rows))
    assert np.array_equal(small.call(VECTORS, TO_A)[A], VECTORS @ small.matrix.values.T)
    difference = (small.hidden[0] - small.hidden[1]).view(np.int64)
    assert (difference >> small.scaling.shift == 12).all()


def test_the_code_never_gives_two_vectors_one_secret(small, monkeypatch):
    drawn = []
    original = OneTimeSecret.draw

    def spy(prg, rows):
        secret = original(prg, rows)
        drawn.append(secret.vector.tobytes())
        return secret

    monkeypatch.setattr(OneTimeSecret, "draw", spy)
    # The same vector twice, for every recipient; then another one at the same places.
    for vector in VECTORS:
        for recipient in Recipient:
            small.call(np.stack([vector, vector]), recipient)
            difference = (small.hidden[0] - small.hidden[1]).view(np.int64)
            assert len(np.unique(difference)) == 40
            assert np.count_nonzero(difference >> 30) > 35
    assert len(set(drawn)) == len(drawn) == 12


def test_a_secret_object_refuses_to_serve_twice():
    public = PublicMatrix(bytes(32), 3)
    secret = OneTimeSecret.draw(Prg(bytes(32)), 3)
    with pytest.raises(LocalProtocolError, match="second vector"):
        encrypt_all([secret, secret], public, np.zeros((2, 3), np.uint64))


# --- ciphertexts without flooding --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    # A few more columns than the secret has entries: as many equations for the noise as there are unknowns.
    return Case(np.ones((2, 2600), np.int64), Bounds(2, 2600, 2.0, 100.0))


def keys_of(case):
    return SecretKeys(Prg(case.of_b.key_seed), lattice._packing(case.bounds).groups)


def noise_in(keys, a, b):
    """Return the decrypted words and the noise in a ciphertext (a spectrum, first coefficients), as its owner can."""
    packing = Packing(b.shape[1], INNER.dimension)
    words = keys.decrypt(a, b, packing)
    products = keys.times(a[None])[0]
    RING.inverse(products)
    plain = packing.gather(RING.encode(packing.spread(words)))
    return words, centred(RING.subtract(RING.add(packing.gather(products), b), plain)[0])


def centred(residues):
    """Return the integers below p1/2 in magnitude."""
    signed = residues.astype(np.int64)
    return np.where(signed > PRIMES[0] // 2, signed - PRIMES[0], signed)


def rounding_of(words):
    """Return by how much the encoding of words, ⌈w·Q/2^64⌉, exceeds w·Q/2^64."""
    return (-words * np.uint64(MODULUS % 2**64)).astype(float) / 2.0**64


def noise_matrix(case):
    """Return N, shape (columns of M, 2560): without flooding and masks, the noise of a query is N·s."""
    keys, seed, packing = keys_of(case), case.of_b.seed, lattice._packing(case.bounds)
    (hint,) = case.matrix.hints(PublicMatrix(seed, case.matrix.rows), 512)
    plain = packing.pack(hint, slice(0, packing.polynomials))
    opened = RING.add(case.of_a.ciphertexts, keys.times(public_parts(seed, 1 + len(plain))))[1:]
    RING.inverse(opened)
    noise = (centred(RING.subtract(opened, RING.encode(plain))[:, :, 0]) + rounding_of(plain))[:, 0]
    width = packing.columns_per_polynomial
    rows = noise[:, : width * packing.rows].reshape(-1, packing.rows)
    return rows[: INNER.dimension].T


def heard_noise(case, monkeypatch, randomness):
    """Return the true secret of one vector, and what the matrix holder makes of the noise in its query."""
    secrets = []
    original = OneTimeSecret.draw

    def spy(prg, rows):
        secret = original(prg, rows)
        secrets.append(secret.vector.copy())
        return secret

    with monkeypatch.context() as patch:
        patch.setattr(OneTimeSecret, "draw", spy)
        if randomness is not None:
            draw = Rerandomisation.draw
            patch.setattr(Rerandomisation, "draw", lambda prg, rows: randomness(draw(prg, rows)))
        vectors = np.array([[3, 4]])
        assert np.array_equal(case.call(vectors, TO_B)[B], np.full((1, 2600), 7))
    (query,) = case.queries
    words, noise = noise_in(keys_of(case), query.mask, query.bodies)
    return secrets[0], noise + rounding_of(words) - 0.5


def solved(matrix, noise):
    """Return the ternary vector that explains the noise best."""
    found = np.linalg.solve(matrix.T @ matrix, matrix.T @ noise)
    return np.clip(np.rint(found), -1, 1).astype(np.int64)


def nothing(randomness):
    return Rerandomisation(*(np.zeros_like(each) for each in (randomness.secret, randomness.noise, randomness.flood)))


def no_flooding(randomness):
    return replace(randomness, flood=np.zeros_like(randomness.flood))


def test_without_flooding_the_matrix_holder_reads_the_secret_and_with_it_it_does_not(wide, monkeypatch):
    matrix = noise_matrix(wide)
    secret, bare = heard_noise(wide, monkeypatch, nothing)
    assert np.array_equal(solved(matrix, bare), secret)
    wrong = np.roll(secret, 1)
    # The encryption of zero alone drowns single entries, yet tells the secret from another one.
    secret, noise = heard_noise(wide, monkeypatch, no_flooding)
    right_rest, wrong_rest = (noise - matrix @ guess for guess in (secret, wrong))
    assert np.square(wrong_rest).mean() > 1.15 * np.square(right_rest).mean()
    assert abs(right_rest).max() < 2**13
    secret, flooded = heard_noise(wide, monkeypatch, None)
    assert (solved(matrix, flooded) == secret).mean() < 0.5
    right_rest, wrong_rest = (flooded - matrix @ guess for guess in (secret, wrong))
    assert abs(np.square(wrong_rest).mean() / np.square(right_rest).mean() - 1) < 2**-30
    assert abs(flooded).max() > 2**57


# --- ciphertexts that are none -----------------------------------------------------------------------------------


def asking(case, *, a, b, recipient):
    """Return what a vector holder gets that makes up its own message."""

    def dialogue():
        yield from send(B, Call.of(1, recipient, case.of_a.name))
        yield from send_array(B, np.zeros((blocks(case.matrix.rows), SHORT), np.uint64))
        yield from send(B, Query(a, b))
        if recipient is TO_B:
            yield from send(B, Unmask(np.zeros((1, case.matrix.columns), np.uint64)))
            return None
        return (yield from receive(B, Answer)).sums[0]

    side = case.of_b.side(case.matrix, peer=A, prg=Prg(b"d" * 32))
    return converse({A: dialogue(), B: side.multiply(1, recipient)})[A]


def test_noise_instead_of_a_query_is_noticed_where_it_becomes_a_result():
    case = Case(np.ones((3, 200), np.int64), Bounds(3, 200, 2.0, 100.0))
    stream = Prg(bytes(32))
    a, b = (np.stack([stream.below(p, count) for p in PRIMES]) for count in (DEGREE, 200))
    with pytest.raises(RemoteProtocolError, match=r"^a: a product exceeds"):
        asking(case, a=a, b=b, recipient=TO_B)


def test_a_vector_holder_that_deviates_reads_the_key_as_the_document_says(small):
    """No defence: it shows why the scheme is for semi-honest parties only, and would notice if that changed."""
    quarter = MODULUS // 4
    constant = np.zeros((1, 2, DEGREE), np.uint64)
    constant[0, :, 0] = [quarter % p for p in PRIMES]
    RING.forward(constant)
    answer = asking(small, a=constant[0], b=np.zeros((2, 5), np.uint64), recipient=TO_A)
    read = -np.rint(answer.view(np.int64) / 2.0**62).astype(int)
    assert np.array_equal(read, key_coefficients(small)[:5])


def key_coefficients(case):
    """Return the ternary key of the matrix holder."""
    one = np.ones((1, 2, DEGREE), np.uint64)
    product = keys_of(case).times(one)
    RING.inverse(product)
    return centred(product[0, 0, 0])


# --- another matrix than that of the hint ------------------------------------------------------------------------


@pytest.mark.parametrize("recipient", [TO_A, TO_B])
def test_a_wrong_hint_is_noticed_by_the_size_of_results(recipient):
    tables = np.random.default_rng(4).integers(-2, 3, (2, 30, 200))
    case = Case(tables[0], Bounds(30, 200, 20.0, 100.0))
    case.matrix = DenseMatrix.of(tables[1])
    with pytest.raises(UsageError, match="another matrix"):
        case.call(np.ones((1, 30), np.int64), recipient)
    case.of_b = replace(case.of_b, digest=case.matrix.digest)
    with pytest.raises(RemoteProtocolError, match=r"a product exceeds .* works with another matrix"):
        case.call(np.ones((1, 30), np.int64), recipient)


def test_a_set_up_with_other_ciphertexts_has_another_name_and_is_refused(small):
    ciphertexts = small.of_a.ciphertexts.copy()
    ciphertexts[-1, -1, 0, 0] ^= np.uint64(1)
    naming = lattice._naming(small.of_a.terms, small.of_a.seed)
    naming.update(ciphertexts.data)
    other = naming.digest()
    case = Case(small.matrix.values.T.astype(np.int64), small.bounds)
    case.of_a = replace(small.of_a, ciphertexts=ciphertexts, name=other)
    with pytest.raises(RemoteProtocolError, match="it uses the set-up"):
        case.call(VECTORS, TO_A)


# --- what single messages look like ------------------------------------------------------------------------------


def test_what_hides_a_vector_looks_uniform():
    rows = 4000
    case = Case(np.ones((rows, 1), np.int64), Bounds(rows, 1, 64.0, 2.0**20))
    case.call(np.full((1, rows), 1 << 13), TO_B)
    (hidden,) = case.hidden
    places = np.arange(DROPPED, 64, dtype=np.uint64)
    bits = (hidden[:, None] >> places & np.uint64(1)).mean(axis=0)
    # Of eight uniform words, five are rounded to a multiple of 8 and three to one of 4 that is none of 8.
    expected = np.array([3 / 8, *[1 / 2] * (len(places) - 1)])
    assert abs(bits - expected).max() < 2.5 / rows**0.5
