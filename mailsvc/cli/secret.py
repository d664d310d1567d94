"""Secrets on the command line: where they are read from, and with what they are sealed in the database.

A secret comes from a prompt, standard input or a file, never from an argument: those are seen by everybody on the
machine, and stand in the shell's history.  A prompt needs a terminal; without one there is an error, never a wait.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from getpass import GetPassWarning
from pathlib import Path
from typing import Any, BinaryIO

import click

from mailsvc.accounts.passwords import LONGEST, PasswordRefused
from mailsvc.cli.main import Common
from mailsvc.errors import MailsvcError
from mailsvc.sasl.client import PASSWORD_MECHANISMS
from mailsvc.tls.sealing import SealingKey, make_key_file, sealing_key


def password_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options ``from_stdin`` and ``file``."""
    stdin = click.option(
        "--password-stdin", "from_stdin", is_flag=True, help="Read the password from standard input, one line."
    )
    file = click.option(
        "--password-file",
        "file",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Read the password from FILE, its first line.",
    )
    return stdin(file(command))


def mechanism_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option ``mechanisms``: how the password may be shown to a server."""
    return click.option(
        "--mechanism",
        "mechanisms",
        multiple=True,
        type=click.Choice(PASSWORD_MECHANISMS, case_sensitive=False),
        help="The only way to log in; may be given again. By itself the best that both sides know.",
    )(command)


def one_source(from_stdin: bool, file: Path | None) -> None:
    """Raises click.UsageError when both are given."""
    if from_stdin and file is not None:
        raise click.UsageError("--password-stdin and --password-file exclude each other")


def new_secret(prompt: str, from_stdin: bool, file: Path | None, longest: int = LONGEST, *, known: bool = False) -> str:
    """The secret, from where the options say, or asked for: twice, and once when it is ``known`` to somebody who will
    check it.  ``longest``: octets, more are not read."""
    if from_stdin:
        return _first_line(sys.stdin.buffer, longest)
    if file is not None:
        with file.open("rb") as opened:
            return _first_line(opened, longest)
    with warnings.catch_warnings():
        # Without a terminal getpass would go on and show what is typed.
        warnings.simplefilter("error", GetPassWarning)
        try:
            answer: str = click.prompt(
                prompt, hide_input=True, confirmation_prompt=False if known else "The same again", err=True
            )
        except GetPassWarning:
            raise MailsvcError(
                "there is no terminal to ask for the password; use --password-stdin or --password-file FILE"
            ) from None
    return answer


def sealing(common: Common) -> tuple[SealingKey, Path | None]:
    """The key for secrets in rows, and the file that was made for it: when the configuration names one that is not
    there yet.  Raises MailsvcError when there is none."""
    named = common.configuration.certificates.key_file
    if named and not Path(named).exists():
        return make_key_file(Path(named)), Path(named)
    found = sealing_key(named, os.environ)
    if found is None:
        raise MailsvcError(
            "there is no key for private keys and passwords in the database: name a file with [certificates] key_file"
            " in the configuration (it is made when it does not exist), or give the systemd credential certificate-key"
        )
    return found, None


def note_of_key_file(path: Path) -> str:
    """What must be known of a key file that was just made."""
    return f"Keep a copy of {path} apart from copies of the database: without it the rows are worth nothing."


def _first_line(stream: BinaryIO, longest: int) -> str:
    """The first line, without exactly one line end (LF or CRLF); not much more of it than a secret can hold."""
    line = stream.readline(longest + 3)
    for end in (b"\r\n", b"\n"):
        if line.endswith(end):
            line = line[: -len(end)]
            break
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise PasswordRefused("the password is not valid UTF-8; give it in UTF-8") from None
