"""What all components that match people share: which columns identify them, and how these are made comparable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, model_validator

from unseen.component import Document, Params, Task
from unseen.data.keys import Cause, Dialling, Duplicates, JoinKeys, KeyColumn, Missing, Policy, Rule, join_keys
from unseen.data.table import Table
from unseen.errors import DataError, UsageError
from unseen.ids import PartyId
from unseen.protocols.psi.port import Items, Meeting


class KeyParams(Params):
    """By what people are matched, and what becomes of rows that cannot be."""

    keys: dict[PartyId, tuple[str, ...]] = Field(default_factory=dict)
    """Party → columns of text or integers that identify people together, in an order that fits the other parties'.

    A party that is left out uses its id column.
    """
    rules: tuple[tuple[Rule, ...], ...] = ()
    """For each key column in turn, what is done to its values, in order, at every party; one list is for all columns.

    trim: blanks at both ends go; nfc: Unicode normal form C; casefold: lower case, ß as ss; digits: all but 0 to 9
    goes; strip_zeros: leading zeros go; e164: telephone numbers as +491701234567, what is none counts as missing.
    """
    country_code: str = Field(default="", pattern="^([1-9][0-9]{0,2})?$")
    """Rule e164: the code, without +, of numbers that have none; empty: such numbers are refused."""
    trunk_prefix: str = Field(default="0", pattern="^[0-9]{0,2}$")
    """Rule e164: what stands in front of a number without country code; empty where nothing does."""
    missing: Missing = Missing.REFUSE
    """What becomes of rows that lack a key, or have what a rule does not take."""

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        """Refuse keys that cannot fit each other, before anything runs."""
        widths = {len(columns) for columns in self.keys.values()} or {1}
        if len(widths) > 1 or 0 in widths:
            raise ValueError("the keys of all parties need the same number of columns, one or more")
        if len(self.rules) > 1 and {len(self.rules)} != widths:
            raise ValueError("rules hold one list for all key columns, or one for each of them")
        if any(len(set(rules)) != len(rules) for rules in self.rules):
            raise ValueError("a rule is named twice for one column")
        return self

    def key_columns(self, party: PartyId, table: Table) -> tuple[KeyColumn, ...]:
        """Return the columns of a party's key, and the rules for each."""
        names = self.keys.get(party, (table.schema.id.name,))
        rules = self.rules if len(self.rules) > 1 else (self.rules or ((),)) * len(names)
        return tuple(KeyColumn(name, own) for name, own in zip(names, rules, strict=True))


class OneRowParams(KeyParams):
    """Matching in which a key stands for one row."""

    duplicates: Literal[Duplicates.REFUSE, Duplicates.FIRST] = Duplicates.REFUSE
    """What becomes of rows that share a key; first: the first one stays."""


class KeySummary(Document):
    """How a party's own rows became the keys that were compared; this is not shown to others."""

    sizes: dict[PartyId, int]
    """How many distinct keys each party brought."""
    changed: dict[str, dict[Rule, int]]
    """Key column of this party → rule, in order → how many of its values the rule changed."""
    left_out: dict[Cause, int]
    """Cause → how many rows of this party were left out."""


def read_keys(task: Task, params: KeyParams, duplicates: Duplicates) -> JoinKeys:
    """Return the keys of the task's table.

    Raises:
        UsageError: The parameters do not fit the parties or the table.
        DataError: Keys are missing or duplicates, and the parameters refuse that.
    """
    check_parties(task, "keys", params.keys)
    unnamed = sorted(set(task.roles) - set(params.keys))
    if unnamed and any(len(columns) > 1 for columns in params.keys.values()):
        raise UsageError(
            f"step {task.step}: keys of several columns are given for some parties only: add {', '.join(unnamed)}"
        )
    table = task.input("table", Table)
    policy = Policy(params.missing, duplicates)
    dialling = Dialling(params.country_code, params.trunk_prefix)
    keys = join_keys(table, params.key_columns(task.me, table), policy=policy, dialling=dialling)
    if table.rows and not len(keys):
        told = ", ".join(f"{count} for {cause}" for cause, count in keys.left_out.items())
        raise DataError(
            f"step {task.step}: no row has a key, all are left out ({told}): check the columns of the key, their "
            "rules, and country_code for telephone numbers"
        )
    return keys


def check_parties(task: Task, name: str, parties: Iterable[PartyId]) -> None:
    """Pass if all ``parties``, which stand in the parameter ``name``, take part.

    Raises:
        UsageError: Some do not.
    """
    strangers = sorted(set(parties) - set(task.roles))
    if strangers:
        raise UsageError(f"step {task.step}: {name} names {', '.join(strangers)}, who take no part in the flow")


def items_of(keys: JoinKeys) -> Items:
    """Return the keys as protocols take them."""
    return Items(keys.content, keys.offsets)


def meeting_of(task: Task, recipients: tuple[PartyId, ...] = ()) -> Meeting:
    """Return the session of the task's parties; all of them learn the result if no recipients are named."""
    check_parties(task, "recipients", recipients)
    told = frozenset(recipients) or None
    return Meeting(task.me, task.peers, task.prg, task.step.encode(), told, task.points)


def check_shared(shared: int, least: int) -> None:
    """Pass if enough people are shared; the message does not say how many are.

    Raises:
        DataError: They are too few.
    """
    if shared < least:
        raise DataError(
            f"fewer than {least} people are shared, which min_shared asks for: check that keys are written alike at "
            "all parties, or agree on a smaller number"
        )


def without_keys(table: Table, names: Iterable[str]) -> Table:
    """Return the table without the features that were part of the key: they say who somebody is."""
    return table.select([name for name in table.schema.feature_names if name not in set(names)])
