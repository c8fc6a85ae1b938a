"""Envelopes and the keys that sign them; decoders take nothing else than what was encoded."""

from __future__ import annotations

import pickle
import random
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from trust_example import BANK, INSURER, KEYS, agreement, digest_of, key_of

from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.flow.spec import canonical_json
from unseen.transport.tls import issue, make_authority
from unseen.trust.agreement import Agreement, Revocation
from unseen.trust.audit import Head, Trail
from unseen.trust.budgets import Receipt, read_entry
from unseen.trust.envelope import (
    MAX_PAYLOAD,
    Envelope,
    Signature,
    countersigned,
    open_envelope,
    preauthentication,
    read_envelope,
    read_statement,
    seal,
)
from unseen.trust.grant import Grant, Proof
from unseen.trust.journal import read_record
from unseen.trust.keys import SigningKey, certificate_fingerprint, is_signed, is_sound, key_id

KINDS = (Agreement, Revocation, Grant, Proof, Receipt, Head)
MADE = agreement()
BOTH = seal(MADE, KEYS[BANK], KEYS[INSURER])
PUBLIC = [KEYS[BANK].public, KEYS[INSURER].public]


def test_the_encoding_is_that_of_dsse() -> None:
    """The example of the specification (protocol.md, "Test vectors")."""
    found = preauthentication("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.text(), st.binary()), st.tuples(st.text(), st.binary()))
def test_different_statements_never_have_one_encoding(one: tuple[str, bytes], other: tuple[str, bytes]) -> None:
    with suppress(UnicodeEncodeError):
        assert (preauthentication(*one) == preauthentication(*other)) == (one == other)


def test_kinds_are_told_apart() -> None:
    assert len({kind.kind for kind in KINDS}) == len(KINDS)
    assert all(kind.kind.startswith("application/vnd.unseen.") for kind in KINDS)


def test_an_envelope_comes_back_as_it_was() -> None:
    read = read_envelope(BOTH.to_bytes(), sender="peer")
    assert open_envelope(read, Agreement, PUBLIC, sender="peer") == MADE
    assert read.digest == MADE.digest == seal(MADE).digest


def test_the_order_of_signatures_does_not_matter() -> None:
    swapped = Envelope(BOTH.kind, BOTH.payload, BOTH.signatures[::-1])
    assert open_envelope(swapped, Agreement, PUBLIC[::-1], sender="peer") == MADE


def test_nobody_signs_twice() -> None:
    with pytest.raises(UsageError, match="has signed"):
        countersigned(BOTH, KEYS[BANK])


@pytest.mark.parametrize(
    ("envelope", "signers", "found"),
    [
        (BOTH, [], "nobody is entitled"),
        (BOTH, PUBLIC[:1], "unknown keys"),
        (BOTH, [*PUBLIC, key_of("third").public], "lacks the signature"),
        (Envelope(BOTH.kind, BOTH.payload, BOTH.signatures * 2), PUBLIC, "twice"),
        (Envelope(BOTH.kind, BOTH.payload, BOTH.signatures * 33), PUBLIC, "twice"),
        (Envelope(BOTH.kind, BOTH.payload, ()), PUBLIC, "lacks the signature"),
        (Envelope(Grant.kind, BOTH.payload, BOTH.signatures), PUBLIC, "expected application"),
        (Envelope(BOTH.kind, b"[" * 100_000, BOTH.signatures), PUBLIC, "not a"),
        (Envelope(BOTH.kind, b"\xff", BOTH.signatures), PUBLIC, "not a"),
        (Envelope(BOTH.kind, b" " * (MAX_PAYLOAD + 1), BOTH.signatures), PUBLIC, "more than"),
        (Envelope(BOTH.kind, BOTH.payload + b" ", BOTH.signatures), PUBLIC, "spelt"),
        (Envelope(BOTH.kind, BOTH.payload.replace(b"credit", b"CREDIT"), BOTH.signatures), PUBLIC, "not a"),
        (Envelope(BOTH.kind, BOTH.payload.replace(b'"bank"', b'"BANK"'), BOTH.signatures), PUBLIC, "not a"),
        (Envelope(BOTH.kind, BOTH.payload.replace(b"one credit", b"two credit"), BOTH.signatures), PUBLIC, "is wrong"),
    ],
)
def test_what_is_not_exactly_right_is_refused(envelope: Envelope, signers: list[str], found: str) -> None:
    with pytest.raises(RemoteProtocolError, match=found):
        open_envelope(envelope, Agreement, signers, sender="peer")


def test_a_payload_of_exactly_the_limit_is_still_read() -> None:
    limit = Envelope(BOTH.kind, BOTH.payload.ljust(MAX_PAYLOAD), BOTH.signatures)
    with pytest.raises(RemoteProtocolError, match="spelt"):
        open_envelope(limit, Agreement, PUBLIC, sender="peer")
    frame = limit.to_bytes()
    read_envelope(frame, sender="peer")
    with pytest.raises(RemoteProtocolError, match="bytes, expected"):
        read_envelope(bytes(2 * MAX_PAYLOAD + 1), sender="peer")
    with pytest.raises(RemoteProtocolError, match="does not start"):
        read_envelope(bytes(2 * MAX_PAYLOAD), sender="peer")


def test_what_a_peer_sends_does_not_reach_the_terminal() -> None:
    for envelope in (Envelope("\x1b[2J", b"", ()), Envelope(BOTH.kind, BOTH.payload, (Signature("\x1b[2J", b""),))):
        with pytest.raises(RemoteProtocolError) as caught:
            open_envelope(envelope, Agreement, PUBLIC, sender="peer")
        assert "\x1b" not in str(caught.value)


# --- fuzz ----------------------------------------------------------------------------------------------------------

SEEDS = (BOTH.to_bytes(), MADE.payload(), b'{"entry":"noted"}', b'{"record":"began"}')


def mutated(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randint(1, 4)):
        at, what = rng.randrange(len(data) + 1), rng.randrange(4)
        if what == 0:
            del data[at : at + rng.randint(1, 9)]
        elif what == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        elif what == 2 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        else:
            data[at:at] = data[: rng.randrange(len(data) + 1)]
    return bytes(data)


def fuzz(count: int) -> int:
    rng = random.Random(6)
    refused = 0
    for number in range(count):
        data, kind = mutated(rng), KINDS[number % len(KINDS)]
        try:
            read_envelope(data, sender="fuzz")
        except RemoteProtocolError:
            refused += 1
        try:
            read_statement(Envelope(kind.kind, data, ()), kind, sender="fuzz")
        except RemoteProtocolError:
            refused += 1
        for read in (read_entry, read_record, lambda line, _: Trail().after(line)):
            with pytest.raises(DataError):
                read(data, "fuzz")
    return refused


def test_decoders_raise_what_they_declare_and_nothing_else(record_count) -> None:
    assert fuzz(1000) > 1500
    record_count("mutated inputs to each decoder of the trust kernel", 1000)


@pytest.mark.evidence
def test_decoders_raise_what_they_declare_over_a_million_inputs(record_count) -> None:
    assert fuzz(1_000_000) > 1_500_000
    record_count("mutated inputs to each decoder of the trust kernel", 1_000_000)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_kept_and_found_again(tmp_path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path)
    assert SigningKey.load(tmp_path).public == key.public
    assert (tmp_path / "signing.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="is there already"):
        key.save(tmp_path)


def test_a_key_does_not_print_and_cannot_be_pickled() -> None:
    key = key_of("bank")
    assert repr(key) == f"SigningKey({key.id[:16]}…)"
    with pytest.raises(UsageError, match="cannot be pickled"):
        pickle.dumps(key)


def test_other_files_are_no_signing_keys(tmp_path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        SigningKey.load(tmp_path)
    path = tmp_path / "signing.pem"
    path.write_text("no key")
    for others in (0o640, 0o604, 0o602, 0o601):
        path.chmod(others)
        with pytest.raises(UsageError, match="others may read it: chmod 600"):
            SigningKey.load(tmp_path)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="is no private key"):
        SigningKey.load(tmp_path)
    locked = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    path.write_bytes(locked)
    with pytest.raises(UsageError, match="without password"):
        SigningKey.load(tmp_path)
    authority = make_authority("test", days=1, now=datetime.now(UTC))
    path.write_bytes(authority.key_pem)
    with pytest.raises(UsageError, match="expected an Ed25519 key"):
        SigningKey.load(tmp_path)


def test_rfc_8032_test_1() -> None:
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )
    assert is_signed(public, signature, b"")
    assert not is_signed(public, signature, b"x")


def test_points_of_small_order_and_second_spellings_are_no_keys() -> None:
    p, d = 2**255 - 19, -121665 * pow(121666, -1, 2**255 - 19)

    def doubled(x: int, y: int) -> tuple[int, int]:
        k = d * x * x * y * y % p
        return 2 * x * y * pow(1 + k, -1, p) % p, (y * y + x * x) * pow(1 - k, -1, p) % p

    weak = 0
    for y in (
        0,
        1,
        p - 1,
        *(s * 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826 % p for s in (1, -1)),
    ):
        square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        x = pow(square, (p + 3) // 8, p)
        x = x if (x * x - square) % p == 0 else x * pow(2, (p - 1) // 4, p) % p
        assert (x * x - square) % p == 0
        assert doubled(*doubled(*doubled(x, y))) == (0, 1)
        for sign in (0, 1 << 255):
            assert not is_sound((y | sign).to_bytes(32, "little").hex())
            weak += 1
    assert weak == 10
    assert not is_sound(p.to_bytes(32, "little").hex())
    assert not is_sound((p + 3).to_bytes(32, "little").hex())
    assert is_sound(PUBLIC[0])
    assert is_sound((p - 2).to_bytes(32, "little").hex())


def test_a_certificate_is_known_by_its_key() -> None:
    now = datetime.now(UTC)
    authority = make_authority("test", days=1, now=now)
    one, other = (issue(authority, BANK, days=1, now=now) for _ in range(2))
    assert len(certificate_fingerprint(one.certificate_pem)) == 64
    assert certificate_fingerprint(one.certificate_pem) != certificate_fingerprint(other.certificate_pem)
    with pytest.raises(UsageError, match="a certificate cannot be read"):
        certificate_fingerprint(b"no certificate")


def test_keys_are_named_as_their_certificates_would_name_them() -> None:
    import hashlib  # noqa: PLC0415

    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # the one place that needs it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    info = Ed25519PublicKey.from_public_bytes(bytes.fromhex(PUBLIC[0])).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert key_id(PUBLIC[0]) == hashlib.sha256(info).hexdigest()
    assert key_id(PUBLIC[0]) != digest_of("x")


def test_statements_whose_parts_contradict_each_other_are_refused() -> None:
    charge = {
        "fact": "asked", "partner": "insurer", "session": "s-1", "at": "2026-03-02T09:00:00Z", "table": "customers",
        "key_columns": ["phone"], "variant": "count", "own_rows": 1, "partner_rows": 1, "own_snapshot": "no digest",
        "partner_snapshot": digest_of("x"),
    }  # fmt: skip
    receipt = {"project": "credit", "owner": "bank", "partner": "insurer", "number": 1, "previous": digest_of("x")}
    text = canonical_json({**receipt, "grant": digest_of("x"), "at": "2026-03-02T09:00:00Z", "charge": charge})
    with pytest.raises(RemoteProtocolError, match="own_snapshot is"):
        read_statement(Envelope(Receipt.kind, text.encode(), ()), Receipt, sender="peer")


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_signatures_hold_for_their_bytes_only(data: st.DataObject) -> None:
    one, other = data.draw(st.binary()), data.draw(st.binary())
    assert is_signed(PUBLIC[0], KEYS[BANK].sign(one), other) == (one == other)
