"""SMTP command lines, taken apart (RFC 5321 section 4.1.2, RFC 4954 section 4.1, RFC 1870, RFC 6152).

Pure: octets in, values out, or `CommandError` with the reply that tells the client what is wrong.  Strict where
leniency lets something through that could not be written back (control characters, unbalanced quotes), lenient only
in what cannot be misread: a space behind ``FROM:`` and ``TO:``, which many clients send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.mail.reply import Reply, reply

_PRINTABLE = re.compile(rb"[ -~]*\Z")
_HELO = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}\Z")
_PATH = re.compile(r' *<((?:[^"<>\\]|"(?:[^"\\]|\\.)*")*)>(?: +(.*))?\Z')
_ROUTE = re.compile(r"@[^:\"]*:(?=.)")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?\Z")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+\Z")


class CommandError(MailsvcError):
    """The command cannot be understood; ``reply`` says so to the client."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(str(answer))
        self.reply = answer


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM: the reverse-path (None for ``<>``), the declared size in octets, and whether 8BITMIME was said."""

    reverse_path: Address | None
    size: int | None
    body_8bit: bool


def parse_command(line: bytes) -> tuple[str, str]:
    """Split a command line (without CRLF) into its verb in upper case and its argument."""
    if not _PRINTABLE.match(line):
        raise CommandError(reply(500, "5.5.2", "Syntax error: only printable ASCII may stand in a command"))
    # No regular expression: one that also strips the end tries each of a thousand spaces in turn.
    verb, _, argument = line.decode("ascii").partition(" ")
    if not verb.isalpha():
        raise CommandError(reply(500, "5.5.2", "Syntax error: a command begins with its name"))
    return verb.upper(), argument.strip(" ")


def parse_helo(argument: str) -> str:
    """The name that the client gives itself in EHLO or HELO: something that can stand in a Received field."""
    if not _HELO.match(argument):
        raise CommandError(reply(501, "5.5.4", "Say your host name or address literal, like EHLO mail.example.org"))
    return argument


def parse_mail(argument: str, *, esmtp: bool, size_limit: int, auth_offered: bool) -> Mail:
    """The argument of MAIL; parameters only after EHLO, each known and given once."""
    path, parameters = _path_and_parameters(argument, "FROM", "5.1.7")
    if parameters and not esmtp:
        raise CommandError(reply(555, "5.5.4", "Parameters are only for clients that said EHLO"))
    size: int | None = None
    body_8bit = False
    for name, value in parameters.items():
        if name == "SIZE":
            size = _declared_size(value, size_limit)
        elif name == "BODY":
            if value is None or value.upper() not in ("7BIT", "8BITMIME"):
                raise CommandError(reply(501, "5.5.4", "BODY is 7BIT or 8BITMIME"))
            body_8bit = value.upper() == "8BITMIME"
        elif name == "AUTH" and auth_offered:
            # RFC 4954 section 5: who a trusted peer says has sent the message; we trust none and note nothing.
            if value is None or not _XTEXT.match(value):
                raise CommandError(reply(501, "5.5.4", "AUTH= takes an address in xtext, or <>"))
        else:
            raise CommandError(reply(555, "5.5.4", f"MAIL parameter {name} is not known here"))
    return Mail(None if path == "" else _address(path, "5.1.7"), size, body_8bit)


def parse_rcpt(argument: str, *, hostname: str) -> Address:
    """The argument of RCPT: the forward-path.  ``<Postmaster>`` is this host's own (RFC 5321 section 4.5.1)."""
    path, parameters = _path_and_parameters(argument, "TO", "5.1.3")
    for name in parameters:
        raise CommandError(reply(555, "5.5.4", f"RCPT parameter {name} is not known here"))
    if path.lower() == "postmaster":
        path = f"{path}@{hostname}"
    return _address(path, "5.1.3")


def _path_and_parameters(argument: str, keyword: str, status: str) -> tuple[str, dict[str, str | None]]:
    prefix, colon, rest = argument.partition(":")
    if not colon or prefix.rstrip(" ").upper() != keyword:
        raise CommandError(reply(501, "5.5.4", f"Syntax: {keyword}:<address> behind the command"))
    parts = _PATH.match(rest)
    if parts is None:
        raise CommandError(reply(501, status, "The address stands in angle brackets: <name@domain>"))
    parameters: dict[str, str | None] = {}
    for word in (parts[2] or "").split():
        parameter = _PARAMETER.match(word)
        if parameter is None:
            raise CommandError(reply(501, "5.5.4", "A parameter has the form NAME or NAME=value"))
        name = parameter[1].upper()
        if name in parameters:
            raise CommandError(reply(501, "5.5.4", f"Parameter {name} is given twice"))
        parameters[name] = parameter[2]
    # A source route is accepted and ignored (RFC 5321 section 3.6.1 and appendix C); alone it is no address.
    route = _ROUTE.match(parts[1])
    return parts[1][route.end() if route else 0 :], parameters


def _address(path: str, status: str) -> Address:
    try:
        return parse_address(path, utf8=False)
    except AddressError as error:
        raise CommandError(reply(553, status, f"Address refused: {error}")) from None


def _declared_size(value: str | None, limit: int) -> int:
    # RFC 1870 section 4: one to twenty digits.
    if value is None or not (value.isdigit() and len(value) <= 20):
        raise CommandError(reply(501, "5.5.4", "SIZE is a number of octets"))
    if int(value) > limit:
        raise CommandError(reply(552, "5.3.4", f"The message is larger than {limit} octets"))
    return int(value)
