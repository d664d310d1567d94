"""SMTP command lines, taken apart (RFC 5321 section 4.1.2) with the parameters of the extensions that are in force.

Pure: octets in, values out, or `CommandError` with the reply that tells the client what is wrong.  Strict where
leniency lets something through that could not be written back (control characters, unbalanced quotes), lenient only
in what cannot be misread: a space behind ``FROM:`` and ``TO:``, which many clients send.

The hardest idea: whether an address may hold UTF-8 is said *behind* it (RFC 6531 section 3.4).  So a line is taken
apart first, as text of any script, and its address is judged when the parameters are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.mail.reply import Reply, reply
from mailsvc.mail.wishes import Wish, envelope_id, notifications, original_recipient, returned_part

T = TypeVar("T")

_PRINTABLE = re.compile("[ -~\u00a1-\u2027\u202f-\ud7ff\uf900-\ufdff\ufe00-\ufffd\U00010000-\U0010ffff]*\\Z")
_HELO = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}\Z")
_PATH = re.compile(r' *<((?:[^"<>\\]|"(?:[^"\\]|\\.)*")*)>(?: +(.*))?\Z')
_ROUTE = re.compile(r"@[^:\"]*:(?=.)")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\s=\x00-\x20\x7f]+))?\Z")
_CHUNK = re.compile(r"([0-9]{1,19})(?: +([A-Za-z]+))?\Z")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)\Z")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+\Z")


_UNREADABLE = reply(500, "5.5.2", "Syntax error: only printable ASCII may stand in a command")
_UTF8_SENDER = reply(553, "5.6.7", "The address holds UTF-8, for which MAIL must say SMTPUTF8")
_UTF8_RECIPIENT = reply(553, "5.6.7", "The address holds UTF-8, and MAIL did not say SMTPUTF8")


class CommandError(MailsvcError):
    """The command cannot be understood; ``reply`` says so to the client."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(str(answer))
        self.reply = answer


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM: the reverse-path (None for ``<>``) and what its parameters said.

    ``size`` in octets; ``hold_for`` in seconds, ``hold_until`` in seconds since the epoch (RFC 4865).
    """

    reverse_path: Address | None
    size: int | None = None
    body_8bit: bool = False
    smtputf8: bool = False
    dsn_return: str | None = None
    envelope_id: str | None = None
    require_tls: bool = False
    hold_for: int | None = None
    hold_until: float | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """BDAT: so many octets follow, and whether they are the last of the message (RFC 3030 section 2)."""

    octets: int
    last: bool


def parse_command(line: bytes) -> tuple[str, str]:
    """Split a command line (without CRLF) into its verb in upper case and its argument."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(_UNREADABLE) from None
    if not _PRINTABLE.match(text):
        raise CommandError(_UNREADABLE)
    # No regular expression: one that also strips the end tries each of a thousand spaces in turn.
    verb, _, argument = text.partition(" ")
    if not (verb.isascii() and verb.isalpha()):
        raise CommandError(reply(500, "5.5.2", "Syntax error: a command begins with its name"))
    return verb.upper(), argument.strip(" ")


def parse_helo(argument: str) -> str:
    """The name that the client gives itself in EHLO or HELO: something that can stand in a Received field."""
    if not _HELO.match(argument):
        raise CommandError(reply(501, "5.5.4", "Say your host name or address literal, like EHLO mail.example.org"))
    return argument


def parse_mail(argument: str, *, esmtp: bool, offered: Set[str], size_limit: int) -> Mail:
    """The argument of MAIL; ``offered`` are the parameters of the extensions that hold in the session."""
    path, parameters = _path_and_parameters(argument, "FROM", "5.1.7")
    _check_offered("MAIL", parameters, esmtp, offered)
    mail = Mail(None)
    for name, value in parameters.items():
        if name == "SIZE":
            mail = replace(mail, size=_declared_size(value, size_limit))
        else:
            mail = _MAIL_PARAMETERS[name](mail, value)
    if mail.hold_for is not None and mail.hold_until is not None:
        raise CommandError(reply(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other"))
    if not path.isascii() and not mail.smtputf8:
        raise CommandError(_UTF8_SENDER)
    return replace(mail, reverse_path=None if path == "" else _address(path, "5.1.7", mail.smtputf8))


def parse_rcpt(argument: str, *, hostname: str, esmtp: bool, offered: Set[str], utf8: bool) -> tuple[Address, Wish]:
    """The argument of RCPT: the forward-path, and what the sender wants to hear of it.

    ``<Postmaster>`` is this host's own (RFC 5321 section 4.5.1).  ``utf8``: MAIL has said SMTPUTF8.
    """
    path, parameters = _path_and_parameters(argument, "TO", "5.1.3")
    _check_offered("RCPT", parameters, esmtp, offered)
    wish = Wish()
    for name, value in parameters.items():
        if name == "NOTIFY":
            wish = replace(wish, notify=_said(notifications, value))
        else:
            wish = replace(wish, original=_said(lambda text: original_recipient(text, utf8=utf8), value))
    if not path.isascii() and not utf8:
        raise CommandError(_UTF8_RECIPIENT)
    if path.lower() == "postmaster":
        path = f"{path}@{hostname}"
    return _address(path, "5.1.3", utf8), wish


def parse_bdat(argument: str) -> Chunk:
    """The argument of BDAT.

    The reply to what cannot be read ends the session: nobody knows where the chunk ends and the next command begins.
    """
    chunk = _CHUNK.match(argument)
    if chunk is None or (chunk[2] or "LAST").upper() != "LAST":
        raise CommandError(reply(501, "5.5.4", "Syntax: BDAT octets [LAST]; closing", closes=True))
    return Chunk(int(chunk[1]), chunk[2] is not None)


def _check_offered(verb: str, parameters: Mapping[str, str | None], esmtp: bool, offered: Set[str]) -> None:
    if parameters and not esmtp:
        raise CommandError(reply(555, "5.5.4", "Parameters are only for clients that said EHLO"))
    for name in parameters:
        if name not in offered:
            raise CommandError(reply(555, "5.5.4", f"{verb} parameter {name} is not known here"))


def _body(mail: Mail, value: str | None) -> Mail:
    if value is None or value.upper() not in ("7BIT", "8BITMIME"):
        raise CommandError(reply(501, "5.5.4", "BODY is 7BIT or 8BITMIME"))
    return replace(mail, body_8bit=value.upper() == "8BITMIME")


def _auth(mail: Mail, value: str | None) -> Mail:
    # RFC 4954 section 5: who a trusted peer says has sent the message; we trust none and note nothing.
    if value is None or not _XTEXT.match(value):
        raise CommandError(reply(501, "5.5.4", "AUTH= takes an address in xtext, or <>"))
    return mail


def _without_value(name: str, value: str | None) -> bool:
    if value is not None:
        raise CommandError(reply(501, "5.5.4", f"{name} takes no value"))
    return True


def _hold_for(mail: Mail, value: str | None) -> Mail:
    # RFC 4865 section 4: one to nine digits.
    if value is None or not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise CommandError(reply(501, "5.5.4", "HOLDFOR is a number of seconds"))
    return replace(mail, hold_for=int(value))


def _hold_until(mail: Mail, value: str | None) -> Mail:
    try:
        if value is None or not _DATE.match(value):
            raise ValueError
        return replace(mail, hold_until=datetime.fromisoformat(value).timestamp())
    except (ValueError, OverflowError):
        raise CommandError(reply(501, "5.5.4", "HOLDUNTIL is a time of RFC 3339, like 2030-01-31T09:00:00Z")) from None


_MAIL_PARAMETERS: Mapping[str, Callable[[Mail, str | None], Mail]] = {
    "BODY": _body,
    "AUTH": _auth,
    "SMTPUTF8": lambda mail, value: replace(mail, smtputf8=_without_value("SMTPUTF8", value)),
    "REQUIRETLS": lambda mail, value: replace(mail, require_tls=_without_value("REQUIRETLS", value)),
    "RET": lambda mail, value: replace(mail, dsn_return=_said(returned_part, value)),
    "ENVID": lambda mail, value: replace(mail, envelope_id=_said(envelope_id, value)),
    "HOLDFOR": _hold_for,
    "HOLDUNTIL": _hold_until,
}


def _said(read: Callable[[str | None], T], value: str | None) -> T:
    try:
        return read(value)
    except ValueError as error:
        raise CommandError(reply(501, "5.5.4", str(error))) from None


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


def _address(path: str, status: str, utf8: bool) -> Address:
    try:
        return parse_address(path, utf8=utf8)
    except AddressError as error:
        raise CommandError(reply(553, status, f"Address refused: {error}")) from None


def _declared_size(value: str | None, limit: int) -> int:
    # RFC 1870 section 4: one to twenty digits.
    if value is None or not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise CommandError(reply(501, "5.5.4", "SIZE is a number of octets"))
    if int(value) > limit:
        raise CommandError(reply(552, "5.3.4", f"The message is larger than {limit} octets"))
    return int(value)
