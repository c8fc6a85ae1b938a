"""``unseen audit``: what can be said of a trail of decisions."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from unseen.cli.agreement import read_file
from unseen.cli.terminal import harmless
from unseen.trust.audit import Colleague, Record
from unseen.trust.audit import verify as verify_trail
from unseen.trust.store import read_lines

_MOMENT = "%Y-%m-%d %H:%M:%S"


def show(file: Path, *, as_json: bool) -> None:
    """Print the records of a trail, one a line, if they follow each other."""
    lines = read_lines(file)
    verify_trail(lines)
    records = [Record.model_validate_json(line) for line in lines]
    if as_json:
        Console().print_json(data=[record.model_dump(mode="json", exclude_none=True) for record in records])
        return
    for record in records:
        Console().print(Text(harmless(_line(record))), highlight=False, soft_wrap=True)


def _line(record: Record) -> str:
    about = (record.party, record.project, record.job, record.step, record.subject and f"{record.subject[:16]}…")
    words = [f"{record.number:>6}  {record.at:{_MOMENT}}  {record.event:<16}", record.code, *about]
    if record.person is not None:
        words.append(_colleague(record.person))
    if record.by is not None:
        words.append(f"by {record.by}")
    return " ".join(word for word in words if word)


def _colleague(person: Colleague) -> str:
    projects = f", in {' '.join(person.projects)}" if person.projects else ""
    standing = "" if person.active else ", not active"
    changed = f", changed {person.changed:{_MOMENT}}" if person.changed is not None else ""
    return f"{person.name} ({' '.join(person.duties)}{projects}{standing}; added {person.added:{_MOMENT}}{changed})"


def verify(file: Path, heads: list[Path], *, as_json: bool) -> None:
    """Say that a trail was not changed, as far as its chain and the heads tell."""
    known = verify_trail(read_lines(file), [read_file(path) for path in heads])
    found = {
        "party": known.party,
        "key": known.key,
        "records": known.count,
        "last": known.digest,
        "heads": known.heads,
        "vouched": known.vouched,
    }
    if as_json:
        Console().print_json(data=found)
        return
    lines = [f"{file}: {known.count} records of {known.party} follow each other; the last one is {known.digest}"]
    if known.heads:
        lines.append(f"it passes through {known.heads} heads; others vouch for the first {known.vouched} records")
    if known.vouched < known.count:
        lines.append(
            f"nobody vouches for the {known.count - known.vouched} records at its end: compare with heads that "
            "partners hold (--head), since an end that was cut off or computed anew shows in them only"
        )
    Console().print(Text(harmless("\n".join(lines))), highlight=False, soft_wrap=True)
