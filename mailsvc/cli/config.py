"""`mailsvc config`: is the configuration right, and what is in force?

Answers for the file, the environment and the defaults, exactly as the service would see them when it is
started by this user. It judges the settings only; whether certificates and the database can be used is told
by their own commands, and by the start of the service.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import click

from mailsvc.cli.answers import JSON
from mailsvc.cli.main import Common
from mailsvc.config import SETTINGS, InForce, described
from mailsvc.errors import ConfigurationRefused


@click.group()
def config() -> None:
    """Check and describe the configuration."""


@config.command()
@JSON
@click.pass_obj
def check(common: Common, as_json: bool) -> int:
    """Say whether the configuration is right, with every mistake at once.

    The exit status is 0 when it is, 1 when it is not.
    """
    try:
        remarks = list(common.in_force().remarks)
    except ConfigurationRefused as refused:
        if not as_json:
            raise
        click.echo(json.dumps({"ok": False, "problems": refused.problems, "remarks": []}))
        return 1
    if as_json:
        click.echo(json.dumps({"ok": True, "problems": [], "remarks": remarks}))
        return 0
    click.echo(f"The configuration is right ({common.file or 'no file: defaults and environment only'}).")
    for remark in remarks:
        click.echo(f"Remark: {remark}.")
    return 0


@config.command()
@click.argument("names", nargs=-1, metavar="[SETTING]...")
@JSON
@click.pass_obj
def describe(common: Common, names: tuple[str, ...], as_json: bool) -> None:
    """Print settings with what is in force, what is allowed, and where each value came from.

    All of them, or those that are named (as in smtp.message_size). What is printed is itself a configuration
    file.
    """
    for name in names:
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; without a name all are listed"
            raise click.BadParameter(f"there is no setting {name}{hint}", param_hint="SETTING")
    in_force = common.in_force()
    if as_json:
        click.echo(json.dumps(_as_json(in_force, names or tuple(SETTINGS)), indent=2, ensure_ascii=False))
    else:
        click.echo(described(in_force, names or tuple(SETTINGS)), nl=False)


def _as_json(in_force: InForce, names: tuple[str, ...]) -> dict[str, object]:
    settings = [
        {
            "name": name,
            "value": _plain(in_force.values[name].value),
            "source": in_force.values[name].source,
            "default": _plain(in_force.defaults[name]),
            "allowed": SETTINGS[name].kind.allowed,
            "help": SETTINGS[name].help,
        }
        for name in names
    ]
    return {"settings": settings, "remarks": list(in_force.remarks)}


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
