import pickle

import numpy as np
import pytest

from unseen.crypto.gaussian import ternary
from unseen.crypto.lattice_parameters import VECTOR_DEVIATION
from unseen.crypto.lwe import OneTimeSecret, PublicMatrix, encrypt_all
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


def test_several_vectors_at_once_give_the_same(written):
    public, matrix = written
    secrets = np.stack([ternary(PRG.derive("several"), 2560), np.ones(2560, np.int64), -np.ones(2560, np.int64)])
    expected = secrets.view(np.uint64) @ matrix.T
    assert np.array_equal(public.times(secrets), expected)
    out = np.ones_like(expected)
    public.add_times(secrets, out)
    assert np.array_equal(out, expected + np.uint64(1))


def test_machines_without_vectors_find_the_same_words(monkeypatch, written):
    public, _ = written
    secrets = ternary(PRG.derive("words"), 3 * 2560).reshape(3, 2560)
    monkeypatch.setattr("unseen.crypto.lwe.has_vectors", lambda: False)
    monkeypatch.setattr("unseen.crypto.lwe._GROUPS", 1)
    assert np.array_equal(PublicMatrix(SEED, public.rows).times(secrets), public.times(secrets))


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
    monkeypatch.setattr("unseen.crypto.lwe._GROUPS", 1)
    long, again = PublicMatrix(SEED, 3 * 4096 + 1), PublicMatrix(SEED, 3 * 4096 + 1)
    secret = ternary(PRG.derive("chunks"), 2560)
    expected = again.times(secret)
    monkeypatch.undo()
    assert np.array_equal(long.times(secret), expected)


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


def test_secrets_that_encrypt_together_give_what_each_gives(written):
    public, _ = written
    messages = PRG.derive("messages").words(3 * public.rows).reshape(3, -1)
    drawn = [[OneTimeSecret.draw(PRG.derive(f"{k}"), public.rows) for k in range(3)] for _ in range(2)]
    expected = [secret.encrypt(public, message) for secret, message in zip(drawn[0], messages, strict=True)]
    assert np.array_equal(encrypt_all(drawn[1], public, messages.copy()), expected)
    with pytest.raises(LocalProtocolError, match="second vector"):
        encrypt_all([OneTimeSecret.draw(PRG, public.rows), *drawn[1][:2]], public, messages)


def test_no_secret_serves_two_of_the_messages(written):
    public, _ = written
    secret = OneTimeSecret.draw(PRG, public.rows)
    with pytest.raises(LocalProtocolError, match="second vector"):
        encrypt_all([secret, secret], public, np.zeros((2, public.rows), np.uint64))


def test_messages_of_another_shape_are_refused(written):
    public, _ = written
    secret = OneTimeSecret.draw(PRG, public.rows)
    room = np.zeros((2, 2 * public.rows), np.uint64)
    for messages in (room[:, : public.rows], room[:1, : public.rows + 1], room[:1, ::2]):
        with pytest.raises(LocalProtocolError, match="expected 1 contiguous messages"):
            encrypt_all([secret], public, messages)


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
