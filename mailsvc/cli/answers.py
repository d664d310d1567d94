"""How a command answers when it has done what it was asked: a sentence or a table for people, JSON for programs.

Both say the same, and both go to standard output; warnings go to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from mailsvc.cli.tables import print_table

JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
"""The option that every command has which answers programs, too."""


def answer(as_json: bool, facts: object, sentence: str) -> None:
    """Say what was done."""
    click.echo(json.dumps(facts) if as_json else sentence)


def answer_rows(
    as_json: bool, facts: Sequence[object], columns: Sequence[str], rows: Sequence[Sequence[str | int]], nothing: str
) -> None:
    """Say what there is: ``facts`` for programs, ``rows`` under ``columns`` for people.

    ``nothing``: the sentence for people when there are none.
    """
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif rows:
        print_table(columns, rows)
    else:
        click.echo(nothing)
