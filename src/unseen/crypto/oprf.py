"""An oblivious pseudo-random function: RFC 9497, mode OPRF (0x00), ciphersuite ristretto255-SHA512, on many inputs.

One side holds a key k, the other inputs x. The other side learns F(k, x) = SHA-512(x ‖ k·H(x) ‖ "Finalize"), parts
preceded by their lengths, and the holder of the key learns how many inputs there were (``blind`` → ``blind_evaluate`` →
``finalise``; RFC 9497, section 3.3.1). The holder computes the same by itself with ``evaluate``. The function is the
2HashDH of S. Jarecki, A. Kiayias, H. Krawczyk, "Round-Optimal Password-Protected Secret Sharing and T-PAKE in the
Password-Only Model" (ASIACRYPT 2014).

*Security model*: whoever has no key learns F at as many points as it was answered for, whatever it sends: one-more
gap Diffie–Hellman in ristretto255, both hashes as random oracles (RFC 9497, section 7.2.1). Every input has a uniform
blind of its own, so that what the holder of the key sees is independent of the inputs, against any computing power.
The mode proves nothing about the key: a holder that deviates can use another one for every point. Answers are a static
Diffie–Hellman oracle for k, which costs about half of log₂(answers) bits of security (RFC 9497, section 7.2.3): 12 of
126 after 2^24.

*Bytes*: 32 an input each way. *Work*, in microseconds of one processor: ``evaluate`` 50, ``blind`` 50,
``blind_evaluate`` 37, ``finalise`` 40 an input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.groups import POINT_BYTES, Scalar, hash_all, invert_all, multiply_all, multiply_each
from unseen.crypto.prg import Prg
from unseen.errors import UsageError

OUTPUT_BYTES = 64
MAX_INPUT_BYTES = (1 << 16) - 1
CONTEXT = b"OPRFV1-\x00-ristretto255-SHA512"
"""What the mode and the ciphersuite are called (RFC 9497, sections 3.1 and 4.1)."""
DST = b"HashToGroup-" + CONTEXT


def draw_blinds(prg: Prg, count: int) -> list[Scalar]:
    """Return so many independent uniform blinds; one hides one input once."""
    return [Scalar.derive(prg) for _ in range(count)]


def blind(inputs: Sequence[bytes], blinds: Sequence[Scalar]) -> NDArray[np.uint8]:
    """Return what the holder of the key is asked: inputs hashed to the group, times their blinds, shape (n, 32).

    Raises:
        UsageError: There is not one blind for each input, or an input has more than 65535 bytes.
    """
    _check_lengths(inputs)
    return multiply_each(blinds, hash_all(inputs, DST))


def blind_evaluate(key: Scalar, blinded: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the answers of the holder of the key, shape (n, 32).

    Raises:
        UsageError: A row is not the canonical encoding of an element, or is the identity; the message says which.
    """
    return multiply_all(key, blinded)


def finalise(inputs: Sequence[bytes], blinds: Sequence[Scalar], evaluated: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the function's values at ``inputs``, shape (n, 64).

    Raises:
        UsageError: The numbers of inputs, blinds and answers differ; or an answer is refused as in ``blind_evaluate``.
    """
    return _outputs(inputs, multiply_each(invert_all(blinds), evaluated))


def evaluate(key: Scalar, inputs: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return the function's values at ``inputs``, shape (n, 64), to the holder of the key.

    Raises:
        UsageError: An input has more than 65535 bytes.
    """
    _check_lengths(inputs)
    return _outputs(inputs, multiply_all(key, hash_all(inputs, DST)))


def _check_lengths(inputs: Sequence[bytes]) -> None:
    longest = max(map(len, inputs), default=0)
    if longest > MAX_INPUT_BYTES:
        raise UsageError(f"an input of the function has at most {MAX_INPUT_BYTES} bytes, found {longest}")


def _outputs(inputs: Sequence[bytes], elements: NDArray[np.uint8]) -> NDArray[np.uint8]:
    raw, end = elements.tobytes(), b"Finalize"
    sized = POINT_BYTES.to_bytes(2, "big")
    values = [
        hashlib.sha512(b"".join([len(text).to_bytes(2, "big"), text, sized, raw[at : at + POINT_BYTES], end])).digest()
        for text, at in zip(inputs, range(0, len(raw), POINT_BYTES), strict=True)
    ]
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, OUTPUT_BYTES)
