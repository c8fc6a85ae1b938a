"""Further keys of a party, for which its certificate vouches: whoever trusts the authority knows whose they are."""

from __future__ import annotations

import json
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate

from unseen.codec import read_json, shown
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.transport.revocation import read_list
from unseen.transport.tls import Identity, issued_by, names_in, parse_certificate, party_in, read_key


def vouch(identity: Identity, public: bytes) -> bytes:
    """Return a voucher: this party's certificate, another public key of its own (Ed25519), and its signature of that.

    It is no secret. Others learn from it which key is the party's, whoever hands it to them.
    """
    signature = read_key(identity.key_pem).sign(_vouched_bytes(identity.party, public), ec.ECDSA(hashes.SHA256()))
    fields = {"certificate": identity.certificate_pem.decode(), "key": public.hex(), "signature": signature.hex()}
    return json.dumps(fields, indent=1, sort_keys=True).encode()


def vouched(voucher: bytes, identity: Identity, now: datetime) -> tuple[PartyId, bytes]:
    """Return the party of a voucher and the public key that is its own, as ``identity`` judges certificates.

    Raises:
        UsageError: It is malformed or not signed; its certificate is not valid now, revoked, or of another authority;
            or its party is no partner.
    """
    try:
        fields = read_json(voucher)
        certificate = parse_certificate(str(fields["certificate"]).encode())
        public, signature = bytes.fromhex(fields["key"]), bytes.fromhex(fields["signature"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"a voucher cannot be read: {error}") from error
    party, signer = party_in(certificate), certificate.public_key()
    if party is None or not isinstance(signer, ec.EllipticCurvePublicKey):
        raise UsageError(f"a voucher's certificate names {shown(tuple(names_in(certificate)))}, which is no party")
    if not issued_by(certificate, identity.ca_pem if party == identity.party else identity.authority_of(party)):
        raise UsageError("a voucher's certificate is not of this federation: its party needs one of the same authority")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise UsageError(f"the certificate in the voucher of {party} is not valid now: it needs a new one")
    try:
        signer.verify(signature, _vouched_bytes(party, public), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise UsageError(f"the voucher of {party} is not signed by the key of its certificate") from error
    if objection := _objection(identity, party, certificate):
        raise UsageError(f"the voucher of {party} does not count: {objection}; it has to vouch anew")
    return party, public


def _objection(identity: Identity, party: PartyId, certificate: Certificate) -> str | None:
    """Return what stands against a certificate of a party that is in order otherwise: above all, a revocation."""
    if identity.trust is None:
        return None
    if party != identity.party:
        return identity.trust.objection(party, certificate)
    own = identity.trust.own_list()
    revoked = own and certificate.serial_number in read_list(own, identity.ca_pem, sender=party).revoked
    return "its certificate was revoked here" if revoked else None


def _vouched_bytes(party: PartyId, public: bytes) -> bytes:
    # What TLS signs with this key begins with 64 spaces (RFC 8446, 4.4.3): the two can never be the same.
    return b"unseen/vouched-key/1\0" + party.encode() + b"\0" + public
