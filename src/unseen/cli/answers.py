"""How answers of a node are shown in a terminal: whole cells, and no partner's words as if they were this program's."""

from __future__ import annotations

import json
import re
import sys

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.client import Json

_LONGEST_CELL = 60
_WIDEST = 10_000
_GAP = 2
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:")
_MINUTES = len("2026-11-28T14:53")


def print_answer(found: Json | list[Json], *, as_json: bool) -> None:
    """Print what a call of the client gave: as JSON, as a table of rows, or a line for each field."""
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=True) + "\n")
    elif isinstance(found, list):
        _print_rows(found)
    else:
        for key, value in found.items():
            say(f"{key:<14} {_cell(value)}")


def _print_rows(rows: list[Json]) -> None:
    if not rows:
        say("none")
        return
    names = [name for name in rows[0] if "digest" not in name and any(_is_short(row.get(name)) for row in rows)]
    console = Console() if sys.stdout.isatty() else Console(width=_WIDEST)
    fits: dict[str, list[str]] = {}
    room, left_out = console.width + _GAP, []
    for name in names:
        cells = [_short(row.get(name)) for row in rows]
        width = max(map(cell_len, [name, *cells])) + _GAP
        if fits and width > room:
            left_out.append(name)
        else:
            fits[name], room = cells, room - width
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in fits:
        grid.add_column(name, no_wrap=True)
    for line in zip(*fits.values(), strict=True):
        grid.add_row(*map(Text, line))
    console.print(grid)
    if left_out:
        say(f"no room for {', '.join(left_out)}: a wider window or --json shows all")


def _is_short(value: object) -> bool:
    return value not in (None, "", [], {}) and not isinstance(value, dict)


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else _cell(value)
    if _MOMENT.match(text):
        return text[:_MINUTES].replace("T", " ")
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


def _cell(value: object) -> str:
    if isinstance(value, list) and all(not isinstance(one, dict | list) for one in value):
        return ", ".join(map(one_line, value))
    if isinstance(value, list) and all(isinstance(one, dict) and "name" in one for one in value):
        return ", ".join(one_line(one["name"]) for one in value)
    if isinstance(value, dict | list):
        return harmless(json.dumps(value, indent=2))
    return "" if value is None else one_line(value)


def one_line(value: object) -> str:
    """Return text on one line: what a partner wrote must not look like lines of this program."""
    return harmless(str(value)).replace("\n", "\\n")


def say(text: str) -> None:
    """Print text without what would steer the terminal."""
    Console().print(Text(harmless(text)), soft_wrap=True)
