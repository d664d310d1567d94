"""How the command shows rows to people: aligned columns, and times and numbers that read well.

Programs get JSON instead, from the command that has the rows.  The hardest idea is what *not* to let rich do:
an address may hold brackets, which are markup to it, and a pipe has no width, so that nothing may be cut there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE = 1000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    """Print rows under their headings; numbers stand to the right, with thousands set apart."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [list(row) for row in rows]
    for number, heading in enumerate(columns):
        is_number = bool(shown) and isinstance(shown[0][number], int)
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in shown:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else cell) for cell in row))
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_PIPE
    console.print(table)


def for_people(moment: float) -> str:
    """Seconds since the epoch as a date and a time of day, UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def last_time(moment: float | None) -> str:
    """`for_people` of what may never have been."""
    return "never" if moment is None else for_people(moment)


def for_programs(moment: float) -> str:
    """Seconds since the epoch in the form of RFC 3339, UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
