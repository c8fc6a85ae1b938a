import pickle

import numpy as np
import pytest

from unseen.crypto.lattice_parameters import VECTOR_DEVIATION
from unseen.crypto.lwe import OneTimeSecret, PublicMatrix
from unseen.crypto.prg import Prg
from unseen.errors import LocalProtocolError, UsageError

SEED = b"\x05" * 32
PRG = Prg(b"\x06" * 32)


def dense(public):
    """Write the matrix out, from its definition."""
    polynomials = np.concatenate(list(public.chunks(1))).view(np.uint64)
    row, column = np.indices((512, 512))
    blocks = polynomials[:, :, (row - column) % 512]
    blocks = np.where(row < column, -blocks, blocks)
    return blocks.swapaxes(1, 2).reshape(-1, 2560)[: public.rows]


@pytest.fixture(scope="module")
def written():
    public = PublicMatrix(SEED, 1100)
    return public, dense(public)


def test_times_is_the_product_with_the_matrix(written):
    public, matrix = written
    secret = PRG.derive("s").below(3, 2560).astype(np.int64) - 1
    assert np.array_equal(public.times(secret), matrix @ secret.view(np.uint64))


def test_hint_is_the_product_with_the_matrix(written):
    public, matrix = written
    columns = np.random.default_rng(0).integers(-(2**40), 2**40, (3, public.rows))
    columns[2] = 0
    assert np.array_equal(public.hint(columns), columns.view(np.uint64) @ matrix)


def test_chunks_do_not_change_the_matrix(monkeypatch, written):
    public, _ = written
    columns = np.random.default_rng(1).integers(-9, 9, (2, public.rows))
    whole = public.hint(columns)
    monkeypatch.setattr("unseen.crypto.lwe._CHUNK", 5)
    again = PublicMatrix(SEED, public.rows)
    assert np.array_equal(again.hint(columns), whole)
    assert np.array_equal(again.spectra, public.spectra)


@pytest.mark.parametrize("rows", [1, 511, 512, 513])
def test_a_shorter_matrix_is_a_part_of_a_longer_one(rows, written):
    _, matrix = written
    assert np.array_equal(dense(PublicMatrix(SEED, rows)), matrix[:rows])


def test_a_vector_is_hidden_by_the_pad_and_gaussian_noise():
    public = PublicMatrix(SEED, 20_000)
    secret = OneTimeSecret.draw(PRG.derive("one"), public.rows)
    message = PRG.derive("message").words(public.rows)
    noise = (secret.encrypt(public, message) - message - public.times(secret.vector)).view(np.int64)
    assert abs(noise.std() / VECTOR_DEVIATION - 1) < 0.03
    assert abs(noise.mean()) < 0.3
    assert abs(noise).max() < 8 * VECTOR_DEVIATION


def test_a_secret_encrypts_once(written):
    public, _ = written
    zeros = np.zeros(public.rows, np.uint64)
    secret = OneTimeSecret.draw(PRG.derive("twice"), public.rows)
    secret.encrypt(public, zeros)
    with pytest.raises(LocalProtocolError, match="second vector"):
        secret.encrypt(public, zeros)


def test_a_destroyed_secret_is_overwritten_and_useless(written):
    public, _ = written
    secret = OneTimeSecret.draw(PRG.derive("gone"), public.rows)
    assert secret.vector.any()
    secret.destroy()
    assert not secret.vector.any()
    assert not secret._noise.any()
    with pytest.raises(LocalProtocolError):
        secret.encrypt(public, np.zeros(public.rows, np.uint64))


def test_a_secret_neither_prints_nor_pickles():
    secret = OneTimeSecret.draw(PRG, 4)
    assert repr(secret) == "OneTimeSecret(<secret>)"
    with pytest.raises(UsageError):
        pickle.dumps(secret)
