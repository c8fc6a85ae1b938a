"""Catalogues for look-ups as parties keep them, and rows of a table as the payloads in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unseen.codec import message, shown
from unseen.component import Document, Kind, Packed, Task
from unseen.data.schema import Column, Role, Schema, name_fault
from unseen.data.schema import Kind as ColumnKind
from unseen.data.table import DTYPES, Table
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.psi.catalogue import Catalogue, Holding
from unseen.protocols.psi.lookup import answer, look_up, obtain, publish
from unseen.protocols.psi.port import Alignment, Items, Meeting


class LookupSummary(Document):
    """How many people were asked for, how many there are, and how many were found."""

    sizes: dict[PartyId, int]
    found: int | None
    """``None`` at the holder, if it is not told."""


LOOKUP_CATALOGUE = Kind("lookup_catalogue", Packed)
LOOKUP_SUMMARY = Kind("lookup_summary", LookupSummary)
_NUMBERS = {ColumnKind.INTEGER: "<i8", ColumnKind.REAL: "<f8", ColumnKind.BOOLEAN: "|u1"}
_LENGTH_BYTES = 2
_WIDTHS: Mapping[str, tuple[int, int]] = {"integer": (8, 8), "real": (8, 8), "boolean": (1, 1), "text": (2, 1 << 12)}
"""Between what the room of a value lies."""
_TEXT_STEP = 16
"""Texts are given room in such steps, so that a catalogue does not tell how long the longest one is exactly."""


@message("catalog/payload-layout")
class Layout:
    """The columns that are offered, in the order in which a payload holds their values.

    A value is a byte that tells whether it is there, then its 8 bytes (1 for truth values); or, for texts, their length
    in UTF-8 and as much room as the longest needs. Absent values are zeros.
    """

    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    rooms: tuple[int, ...] = ()
    """How many bytes the value of each column takes, without the first one."""

    def __post_init__(self) -> None:
        counts = {len(self.names), len(self.kinds), len(self.rooms)}
        if len(counts) > 1 or len(set(self.names)) < len(self.names) or any(map(name_fault, self.names)):
            raise UsageError("a layout has a name, a kind and a room for every column, and no name twice")
        for name, kind, room in zip(self.names, self.kinds, self.rooms, strict=True):
            if kind not in _WIDTHS or not _WIDTHS[kind][0] <= room <= _WIDTHS[kind][1]:
                raise UsageError(f"column {shown(name)}: {shown(kind)} values cannot have {room} bytes")

    @classmethod
    def of(cls, table: Table, names: Sequence[str]) -> Layout:
        """Return the layout of these columns of ``table``.

        Raises:
            UsageError: There is no such column, or it is the id.
        """
        columns = table.schema.pick(names)
        if table.schema.id in columns:
            raise UsageError(f"column {table.schema.id.name} is the id, which is looked up and cannot be offered")
        rooms = [_room(table.frame()[column.name], column.kind) for column in columns]
        return cls(tuple(names), tuple(column.kind for column in columns), tuple(rooms))

    @property
    def payload_bytes(self) -> int:
        """How long a payload is."""
        return sum(self.rooms) + len(self.rooms)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, as features."""
        pairs = zip(self.names, self.kinds, strict=True)
        return tuple(Column(name, Role.FEATURE, ColumnKind(kind)) for name, kind in pairs)

    def write(self, table: Table) -> NDArray[np.uint8]:
        """Return the payloads of the rows of ``table``, shape (rows, bytes)."""
        payloads = np.zeros((table.rows, self.payload_bytes), np.uint8)
        place = 0
        for column, room in zip(self.columns, self.rooms, strict=True):
            values = table.frame()[column.name]
            payloads[:, place] = values.is_not_null().to_numpy()
            payloads[:, place + 1 : place + 1 + room] = _cells(values, column.kind, room)
            place += 1 + room
        return payloads

    def read(self, payloads: NDArray[np.uint8], holder: PartyId) -> list[pl.Series]:
        """Return the columns that ``write`` put into payloads, made by ``holder``.

        Raises:
            RemoteProtocolError: They hold something else.
        """
        found, place = [], 0
        for column, room in zip(self.columns, self.rooms, strict=True):
            cells = np.ascontiguousarray(payloads[:, place + 1 : place + 1 + room])
            values = _values(cells, column, holder)
            there = [value if known else None for value, known in zip(values, payloads[:, place], strict=True)]
            found.append(pl.Series(column.name, there, DTYPES[column.kind]))
            place += 1 + room
        return found


@message("catalog/lookup-catalogue")
class KeptCatalogue:
    """One party's side of a catalogue: the asker's has all entries, the holder's a secret key."""

    layout: Layout
    table: str
    """Digest of the table of which it was made, at the holder."""
    holding: Holding | None
    catalogue: Catalogue | None


def meeting_of(task: Task, recipients: frozenset[PartyId] | None = None) -> Meeting:
    """Return who takes part in a task, and who learns its result."""
    return Meeting(task.me, task.peers, task.prg, task.step.encode(), recipients, task.points)


def hand_over(task: Task, table: Table, columns: Sequence[str], max_points: int) -> Dialogue[KeptCatalogue]:
    """Hand the peer a catalogue of a table with these columns as payloads; return the holder's side of it."""
    layout = Layout.of(table, columns)
    for peer in task.peers:
        yield from send(peer, layout)
    holding = yield from publish(Items(*table.id_buffer()), layout.write(table), max_points, meeting_of(task))
    return KeptCatalogue(layout, table.digest, holding, None)


def take_over(task: Task) -> Dialogue[KeptCatalogue]:
    """Return the asker's side of the catalogue that the peer hands over.

    Raises:
        RemoteProtocolError: Its payloads are not as long as the columns announced.
    """
    holder, meeting = task.peers[0], meeting_of(task)
    layout = yield from receive(holder, Layout)
    catalogue = yield from obtain(meeting)
    if catalogue.terms.payload_bytes != layout.payload_bytes:
        raise RemoteProtocolError(
            f"{holder}: expected payloads of {layout.payload_bytes} bytes, found {catalogue.terms.payload_bytes}"
        )
    return KeptCatalogue(layout, "", None, catalogue)


def look_up_people(task: Task, table: Table, kept: KeptCatalogue, *, tell: bool) -> Dialogue[tuple[Table, Alignment]]:
    """Return the people of ``table`` whom this party found, or of whom it was told; and what is known of the numbers.

    The asker's have the columns offered; the holder's are none unless ``tell``.

    Raises:
        DataError: A column that is offered is in the asker's table, or the holder's is not that of the catalogue.
    """
    if kept.catalogue is not None:
        meeting = meeting_of(task, None if tell else frozenset({task.me}))
        return (yield from _ask(table, kept.layout, kept.catalogue, meeting))
    if kept.holding is None:
        raise DataError(f"step {task.step}: the catalogue is empty: run the step again that made it")
    if tell and table.digest != kept.table:
        raise DataError(
            f"step {task.step}: the catalogue was made of another table of {task.me}'s: run prepare_lookup on this one"
        )
    meeting = meeting_of(task, None if tell else frozenset(task.peers))
    alignment = yield from answer(kept.holding, meeting)
    return table.take(alignment.known() if tell else np.empty(0, np.int64)), alignment


def _ask(table: Table, layout: Layout, catalogue: Catalogue, meeting: Meeting) -> Dialogue[tuple[Table, Alignment]]:
    if taken := sorted(set(layout.names) & set(table.schema.names)):
        raise DataError(
            f"{meeting.me}: the catalogue offers column {', '.join(taken)}, which the table has too: rename the table's"
        )
    found = yield from look_up(Items(*table.id_buffer()), catalogue, meeting)
    people = table.take(found.alignment.known())
    columns = layout.read(found.payloads, meeting.peers[0])
    schema = Schema((*table.schema.columns, *layout.columns))
    return Table.from_frame(people.frame().with_columns(columns), schema), found.alignment


def summary_of(alignment: Alignment) -> LookupSummary:
    """Return what a party knows of the numbers."""
    found = None if alignment.rows is None else len(alignment.rows)
    return LookupSummary(sizes=dict(alignment.sizes), found=found)


# --- values of one column ----------------------------------------------------------------------------------------


def _room(values: pl.Series, kind: ColumnKind) -> int:
    if kind in _NUMBERS:
        return np.dtype(_NUMBERS[kind]).itemsize
    longest = values.str.len_bytes().max()
    room = int(longest) if isinstance(longest, int) else 0
    padded = _LENGTH_BYTES + -(-room // _TEXT_STEP) * _TEXT_STEP
    if padded > _WIDTHS["text"][1]:
        raise DataError(f"column {values.name}: a text of {room} bytes is too long to be offered: leave the column out")
    return padded


def _cells(values: pl.Series, kind: ColumnKind, room: int) -> NDArray[np.uint8]:
    """Return values as bytes, shape (rows, room)."""
    if kind in _NUMBERS:
        numbers = values.fill_null(False if kind is ColumnKind.BOOLEAN else 0).to_numpy()
        return np.ascontiguousarray(numbers, _NUMBERS[kind]).view(np.uint8).reshape(len(values), room)
    cells = np.zeros((len(values), room), np.uint8)
    lengths = values.str.len_bytes().fill_null(0).to_numpy().astype("<u2")
    cells[:, :_LENGTH_BYTES] = lengths.view(np.uint8).reshape(-1, _LENGTH_BYTES)
    inside = np.arange(room - _LENGTH_BYTES) < lengths[:, None]
    text = values.str.join("", ignore_nulls=True).item() or ""
    cells[:, _LENGTH_BYTES:][inside] = np.frombuffer(text.encode(), np.uint8)
    return cells


def _values(cells: NDArray[np.uint8], column: Column, holder: PartyId) -> list[object]:
    """Return what ``_cells`` made bytes of."""
    if column.kind in _NUMBERS:
        numbers = cells.reshape(-1).view(_NUMBERS[column.kind])
        if not np.isfinite(numbers).all():
            raise RemoteProtocolError(f"{holder}: column {column.name} holds values that are no numbers")
        return list((numbers != 0).tolist() if column.kind is ColumnKind.BOOLEAN else numbers.tolist())
    lengths = np.ascontiguousarray(cells[:, :_LENGTH_BYTES]).view("<u2")[:, 0].tolist()
    texts = [row[_LENGTH_BYTES : _LENGTH_BYTES + length] for row, length in zip(cells, lengths, strict=True)]
    try:
        return [text.tobytes().decode() for text in texts]
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"{holder}: column {column.name} holds text that is not UTF-8") from error
