"""By which keys clients of secure rounds know each other: a signing key of each, and the roster of all public ones.

The roster comes to everybody by a way that the server cannot change: as a file that people exchange, or made of what
the certificates of the federation vouch for (``transport.vouchers``). A server that could put its own keys into it
could play all other clients of a cohort, and learn the remaining one's update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.data.atomic import whole_file
from unseen.errors import DataError, UsageError
from unseen.ids import PartyId


@dataclass(frozen=True, slots=True)
class Signer:
    """A client's own signing key, a secret, and whose public keys it believes.

    Raises:
        UsageError: A public key does not have 32 bytes.
    """

    key: Ed25519PrivateKey = field(repr=False)
    roster: Mapping[PartyId, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        check_roster(self.roster)

    def __reduce__(self) -> NoReturn:
        raise UsageError("a signer holds a private key and cannot be pickled")


def check_roster(roster: Mapping[PartyId, bytes]) -> None:
    """Refuse what is no roster.

    Raises:
        UsageError: A public key does not have 32 bytes, or two clients have the same.
    """
    for client, public in roster.items():
        if len(public) != SEED_BYTES:
            raise UsageError(
                f"the roster has {len(public)} bytes for {client}: expected an Ed25519 key of {SEED_BYTES}"
            )
    if len(set(roster.values())) != len(roster):
        raise UsageError("the roster has one key for two clients: each needs its own")


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the signing key in a file that only its owner can read; the file is made if there is none.

    Raises:
        DataError: The file is damaged, or cannot be written.
    """
    return Ed25519PrivateKey.from_private_bytes(_secret(path))


def public_key(key: Ed25519PrivateKey) -> bytes:
    """Return the public key, 32 bytes, for the roster."""
    return key.public_key().public_bytes_raw()


def secret_of(path: Path) -> Prg:
    """Return the generator of a secret kept in a file; the file is made if there is none.

    Raises:
        DataError: The file is damaged, or cannot be written.
    """
    return Prg(_secret(path))


def _secret(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(Prg.fresh().bytes(SEED_BYTES))
    found = path.read_bytes()
    if len(found) != SEED_BYTES:
        raise DataError(
            f"{path} has {len(found)} bytes, expected a secret of {SEED_BYTES}: restore it, or make a new one"
        )
    return found
