"""What a private run has spent: a limit, a book of facts in its folder, and a secret for coins and noise beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.privacy.epsilon import Budget, Left, Limit
from unseen.privacy.events import Spend, read_spend, to_json
from unseen.rounds.identities import secret_of

_SECRET, _SPENT = "secret.bin", "spent.jsonl"


@dataclass(frozen=True, slots=True)
class Guard:
    """What a private run has at its server: a secret for coins and noise, and a budget that refuses to be passed."""

    limit: Limit
    secret: Prg = field(repr=False)
    budget: Budget = field(repr=False)

    def spend(self, fact: Spend) -> None:
        """Charge a round before it is released."""
        self.budget.spend(fact)


def guard_in(limit: Limit, folder: Path | None, *, own: Path | None = None) -> Guard:
    """Return the guard of a run that is kept in a folder, or nowhere; of a client, with a secret of its ``own``.

    Raises:
        UsageError: The accountant is not installed.
        DataError: What was spent, or the secret, cannot be read.
    """
    account = accounting().epsilon
    if folder is None:
        return Guard(limit, Prg.fresh() if own is None else secret_of(own), Budget(limit, account))
    path = folder / _SPENT
    _cut(path)
    return Guard(limit, secret_of(folder / _SECRET), Budget(limit, account, facts=facts_in(path), keep=_writer(path)))


def left_in(limit: Limit, folder: Path) -> Left:
    """Return where the budget of a run in a folder stands; nothing is changed there. Raises as ``guard_in``."""
    return Budget(limit, accounting().epsilon, facts=facts_in(folder / _SPENT)).left()


def accounting() -> ModuleType:
    """Return the accountant.

    Raises:
        UsageError: It is not installed.
    """
    try:
        from unseen.privacy import accounting as found  # noqa: PLC0415  an extra
    except ModuleNotFoundError as error:
        raise UsageError(f"privacy: its accountant needs the extra dp ({error}): pip install 'unseen[dp]'") from error
    return found


def facts_in(path: Path) -> list[Spend]:
    """Return the facts in a file of lines; a last one whose writing was cut off was never acted upon.

    Raises:
        DataError: A line holds something else.
    """
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n") if path.exists() else ("", "", "")
    return [read_spend(line, f"{path}, line {n}") for n, line in enumerate(whole.split("\n"), 1) if whole]


def _cut(path: Path) -> None:
    """Take off a last line that was cut off, so that the next one does not go on with it."""
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _writer(path: Path) -> Callable[[Spend], None]:
    known = path.stat().st_size if path.exists() else 0

    def keep(fact: Spend) -> None:
        nonlocal known
        with path.open("ab") as file:
            if os.fstat(file.fileno()).st_size != known:
                raise UsageError(
                    f"{path} has changed meanwhile: another process spends the same budget; end one of them"
                )
            known += file.write(to_json(fact).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    return keep
