"""What the commands of `mailsvc certs` share: their options, where passphrases come from, how results are told.

A passphrase comes from a file (`-` is standard input), from where the environment or systemd says, or is asked for
at a terminal; never from the command line. The hardest idea is that nothing may ever wait for an answer in a script:
a question is asked only when standard input is a terminal, or when `--ask-passphrase` says so, and without a terminal
that option is an error.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from getpass import GetPassWarning
from pathlib import Path
from typing import Any

import click

from mailsvc.certkit.files import Source, read
from mailsvc.certkit.inspect import Finding, Passphrase, when
from mailsvc.certkit.keys import KINDS
from mailsvc.certkit.make import Made
from mailsvc.certkit.names import Names, names_of
from mailsvc.certkit.passphrase import (
    AUTHORITY_CREDENTIAL,
    AUTHORITY_VARIABLE,
    PassphraseSource,
    first_line,
    passphrase_source,
)
from mailsvc.certkit.places import Written
from mailsvc.errors import MailsvcError

Command = Callable[..., Any]

FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
KIND = click.option("--key", "kind", type=click.Choice(KINDS), help=f"Kind of the new key. [default: {KINDS[0]}]")
SAME_KEY = click.option("--same-key", is_flag=True, help="Keep the key that is there (pins and TLSA records name it).")
REPLACE = click.option("--replace", is_flag=True, help="Put it in the place of what is there, which is kept aside.")


def file_option(name: str, help: str) -> Callable[[Command], Command]:
    """An option that names a file with a passphrase in its first line."""
    return click.option(name, metavar="FILE", type=click.Path(path_type=Path, allow_dash=True), help=help)


AUTHORITY_FILE = file_option(
    "--passphrase-file",
    f"The private CA's passphrase: the first line of FILE (- is standard input). [env: {AUTHORITY_VARIABLE}]",
)
KEY_FILE = file_option(
    "--key-passphrase-file", "Encrypt the new private key with the first line of FILE (also opens the old one)."
)


def authority_source() -> PassphraseSource:
    """Where the environment or systemd says that the private CA's passphrase is."""
    return passphrase_source(os.environ, AUTHORITY_VARIABLE, AUTHORITY_CREDENTIAL)


def opening(what: str, file: Path | None, source: PassphraseSource) -> Passphrase:
    """The passphrase that opens `what`: the file, else where the environment says, else a question at a terminal.

    Nothing is read or asked before it is needed; None when there is nobody to ask.
    """

    def passphrase() -> bytes | None:
        if file is not None:
            return from_file(file)
        found = source()
        if found is None and sys.stdin.isatty():
            return ask(f"Passphrase of {what}", confirm=False)
        return found

    return passphrase


def from_file(file: Path) -> bytes:
    """The first line of a file, or of standard input when it is `-`. Raises MailsvcError."""
    if str(file) == "-":
        return first_line(Source(Path("standard input"), sys.stdin.buffer.read(4096)))
    return first_line(read(file))


def optional(file: Path | None) -> bytes | None:
    """The passphrase in a file when one is given."""
    return None if file is None else from_file(file)


def ask(question: str, *, confirm: bool) -> bytes:
    """A passphrase, asked for at the terminal and not shown; twice when it is a new one. Raises MailsvcError when
    there is no terminal."""
    with warnings.catch_warnings():
        # Without a terminal getpass would go on and show what is typed.
        warnings.simplefilter("error", GetPassWarning)
        try:
            answer: str = click.prompt(
                question, hide_input=True, confirmation_prompt="The same again" if confirm else False, err=True
            )
        except GetPassWarning:
            raise MailsvcError(
                "there is no terminal to ask for the passphrase; give it with --passphrase-file FILE"
            ) from None
    return answer.encode("utf-8")


def written_lines(written: Sequence[Written]) -> list[str]:
    """One line for each file: path, mode, what it is."""
    width = max((len(str(each.path)) for each in written), default=0)
    return [f"{each.path!s:<{width}}  {each.mode:04o}  {each.what}" for each in written]


def written_json(written: Sequence[Written]) -> list[dict[str, str]]:
    """The same for programs."""
    return [{"path": str(each.path), "mode": f"{each.mode:04o}", "what": each.what} for each in written]


def findings_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings for programs."""
    return [{"severity": each.severity, "subject": each.subject, "text": each.text} for each in findings]


def show_made(made: Made, as_json: bool, *further: str) -> None:
    """Tell what was made: files, names, end, what was put aside, what is worth knowing."""
    leaf = made.chain[0]
    if as_json:
        names = names_of(leaf)
        facts = {
            "written": written_json(made.written),
            "folder": str(made.folder),
            "names": [*names.hosts, *map(str, names.addresses), *names.emails],
            "serial": f"{leaf.serial_number:x}",
            "not_after": when(leaf.not_valid_after_utc),
            "kept": None if made.kept is None else str(made.kept),
            "findings": findings_json(made.findings),
        }
        click.echo(json.dumps(facts, indent=2))
        return
    lines = written_lines(made.written)
    if made.kept is not None:
        lines.append(f"What was there before, its key included, is kept in {made.kept}; remove it when all is well.")
    covers = "names no host and no mail address" if names_of(leaf) == Names() else f"covers {names_of(leaf)}"
    lines.append(f"The certificate {covers} and is valid until {when(leaf.not_valid_after_utc)}.")
    lines += [f"{each.severity}: {each}" for each in made.findings]
    click.echo("\n".join((*lines, *further)))
