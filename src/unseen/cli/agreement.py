"""``unseen agreement``: written, shown, signed and checked as files, before there is a node to do it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.clock import SystemClock
from unseen.data.atomic import whole_file
from unseen.errors import PermissionDenied, RemoteProtocolError, UsageError
from unseen.flow.spec import problems_text, read_mapping
from unseen.ids import PartyId
from unseen.trust.agreement import Agreement, Project, signers_of
from unseen.trust.envelope import Envelope, countersigned, open_envelope, read_envelope, read_statement, seal
from unseen.trust.keys import SIGNING_KEY_FILE, SigningKey, certificate_fingerprint, key_id

CERTIFICATE_FILE = "certificate.pem"


def key(folder: Path, party: str) -> None:
    """Make a signing key beside the certificate, if there is none, and print the party's entry among the members."""
    name, certificate = PartyId(party), folder / CERTIFICATE_FILE
    try:
        fingerprint = certificate_fingerprint(certificate.read_bytes())
    except OSError as error:
        raise UsageError(f"{certificate} cannot be read: {error.strerror}; make its certificate first") from error
    if not (folder / SIGNING_KEY_FILE).exists():
        SigningKey.generate().save(folder)
    own = SigningKey.load(folder)
    Console().print_json(data={"party": name, "key": own.public, "certificate": fingerprint})


def new(text: Path, out: Path, after: Path | None) -> None:
    """Write an agreement, which nobody has signed yet, from its text."""
    data = _read_text(text)
    if after is not None:
        earlier = read_statement(read_file(after), Agreement, sender=str(after))
        data = {**data, "version": earlier.version + 1, "previous": earlier.digest}
    try:
        made = Agreement.model_validate_json(json.dumps({"version": 1, "previous": None, **data}, default=_moment))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}" for item in error.errors()]
        raise UsageError(problems_text(str(text), problems)) from error
    _write(out, seal(made))
    _say(f"{out}: {made}, digest {made.digest}; each of {_parties(made)} signs it: unseen agreement sign")


def show(file: Path) -> None:
    """Print what an agreement says, and who has signed it."""
    envelope = read_file(file)
    made = read_statement(envelope, Agreement, sender=str(file))
    Console().print_json(made.payload().decode(), ensure_ascii=True)
    good = _signers(envelope, signers_of(made, None))
    for member in made.members:
        _say(f"{member.party}: {'signed' if member.key in good else 'has not signed'}")
    _say(f"digest {made.digest}")


def sign(file: Path, folder: Path, after: Path | None) -> None:
    """Add a member's signature."""
    envelope, own = read_file(file), SigningKey.load(folder)
    made = read_statement(envelope, Agreement, sender=str(file))
    wanted = signers_of(made, None if after is None else _before(made, after))
    if own.public not in wanted:
        remedy = "" if after is not None or made.previous is None else "; a key of the version before: say --after FILE"
        raise PermissionDenied(f"the key in {folder} is not one of {_parties(made)}, who make {made}{remedy}")
    signed = countersigned(envelope, own)
    good = _signers(signed, wanted)
    if len(good) < len(signed.signatures):
        raise RemoteProtocolError(
            f"{file} holds signatures that are not good, or those of keys of the version before (--after FILE)"
        )
    _write(file, signed)
    _say(f"{file}: signed for {wanted[own.public]}; {len(good)} of {len(wanted)} have signed")


def _before(made: Agreement, after: Path) -> Agreement:
    earlier = read_statement(read_file(after), Agreement, sender=str(after))
    if earlier.digest != made.previous:
        raise UsageError(f"{after} holds {earlier}, which is not the one before {made}")
    return earlier


def check(files: list[Path]) -> None:
    """Say that an agreement, with its versions in order, is in force."""
    now = SystemClock().now()
    project = Project(map(read_file, files))
    made = project.current
    if not project.in_force(now):
        raise PermissionDenied(
            f"{made} holds from {made.valid_from.isoformat()} until {made.valid_until.isoformat()}, and it is "
            f"{now.isoformat()}"
        )
    _say(f"{made} is signed by {_parties(made)} and holds until {made.valid_until.isoformat()}; digest {made.digest}")


def read_file(path: Path) -> Envelope:
    """Return the envelope in a file.

    Raises:
        UsageError: It cannot be read.
        RemoteProtocolError: It holds something else.
    """
    try:
        return read_envelope(path.read_bytes(), sender=str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _read_text(path: Path) -> dict[str, object]:
    """Return what a text says; it may be a partner's draft, in which nothing stands twice or blows up."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the agreement {path}: {error}") from error
    what = "an agreement: expected a mapping with project, members, tables and so on"
    return read_mapping(text, name=str(path), what=what)[0]


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise UsageError(f"{value!r} cannot stand in an agreement")


def _signers(envelope: Envelope, wanted: Iterable[str]) -> list[str]:
    """Return those of the keys whose signatures are good."""
    found = []
    for key in wanted:
        own = tuple(signature for signature in envelope.signatures if key_id(key) == signature.key)
        try:
            open_envelope(Envelope(envelope.kind, envelope.payload, own), Agreement, (key,), sender="signature")
        except RemoteProtocolError:
            continue
        found.append(key)
    return found


def _parties(made: Agreement) -> str:
    return ", ".join(member.party for member in made.members)


def _write(path: Path, envelope: Envelope) -> None:
    with whole_file(path) as file:
        file.write(envelope.to_bytes())


def _say(text: str) -> None:
    Console().print(Text(harmless(text)), highlight=False, soft_wrap=True)
