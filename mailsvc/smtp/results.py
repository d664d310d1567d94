"""Authentication-Results (RFC 8601): what we say of a client's certificate, and what others say in our name.

The field stands on top of our Received field when the client was asked for a certificate. The method is called
``x-tls-client``: none of the registered ones is about the client of the TLS connection (``auth`` is SMTP AUTH, section
2.7.4), and a reader passes over a method that it does not know (section 2.7), so that a name of our own harms nobody.
Its result is ``pass`` for a certificate that was verified, ``fail`` with a reason for one that was not, ``none`` where
the client had none, and ``neutral`` where nothing is known (a resumed session). What the certificate claims are
properties of the type ``policy``, for there is no command or header field that they come from (section 2.3).

The hardest idea is the other half: a reader believes such a field by the name at its beginning, so one with *our* name
that came in with a message is a forgery and is taken out (section 5). Everything else of the message stays as it came,
to the octet. A name that cannot be read, with ours in it, counts as ours: some reader may read it so. So does any
encoded word (RFC 2047) there: it has no place in a name, and some readers decode before they look.
"""

from __future__ import annotations

import re

from mailsvc.mail.address import AddressError, parse_domain
from mailsvc.mail.channel import ClientCertificate, Failed, NoCertificate, NotAsked, Resumed, Verified, why_failed

METHOD = "x-tls-client"

_FIELD = re.compile(rb"^authentication-results[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)\n?", re.IGNORECASE | re.MULTILINE)
_TOKEN = re.compile(r'[^\x00-\x20\x7f()<>@,;:\\"/\[\]?=]+')
_COMMENT_PART = re.compile(r"(?:[^()\\]|\\.)*", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_DEPTH = 50
"""Of comments in comments; a name behind more cannot be read."""


def results_field(hostname: str, client: ClientCertificate) -> bytes:
    """The whole field with its CRLF, of lines below 998 octets; b"" when the client was not asked."""
    match client:
        case NotAsked():
            return b""
        case NoCertificate():
            told = ["none"]
        case Verified(subject=subject, issuer=issuer, spki=spki):
            told = ["pass", *_properties(subject, issuer, spki)]
        case Failed(subject=subject, issuer=issuer, spki=spki):
            reason = f"reason={_quoted('; '.join(why_failed(client)))}"
            told = ["fail", reason, *_properties(subject, issuer, spki)]
        case Resumed(subject=subject, spki=spki):
            told = ["neutral", f"reason={_quoted('resumed session, not checked')}", *_properties(subject, "", spki)]
    result, *rest = told
    lines = [f"Authentication-Results: {hostname};", f"\t{METHOD}={result}", *(f"\t{each}" for each in rest)]
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


def without_forged(header: bytes, hostname: str) -> tuple[bytes, int]:
    """A header block without the fields that speak in the name of `hostname`, and how many those were."""
    removed = 0

    def judged(field: re.Match[bytes]) -> bytes:
        nonlocal removed
        if not speaks_for(field[1], hostname):
            return field[0]
        removed += 1
        return b""

    kept = _FIELD.sub(judged, header)
    return kept, removed


def speaks_for(value: bytes, hostname: str) -> bool:
    """Whether the value of an Authentication-Results field claims to be by `hostname` (its authserv-id)."""
    text = value.decode("utf-8", "replace")
    ours = _normal(hostname)
    claimed, end = _first_word(text)
    if "=?" in text[: end + 2]:
        return True
    if claimed is None:
        return ours in text.lower() or hostname.lower() in text.lower()
    return _normal(claimed) == ours


def _first_word(text: str) -> tuple[str | None, int]:
    """The authserv-id, a token or a quoted string behind white space and comments, and the place behind it; None and
    the end when it cannot be read."""
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
        elif text[place] == "(":
            behind = _behind_comment(text, place)
            if behind is None:
                return None, len(text)
            place = behind
        else:
            break
    if quoted := _QUOTED.match(text, place):
        return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL).strip(), quoted.end()
    token = _TOKEN.match(text, place)
    return (None, len(text)) if token is None else (token[0], token.end())


def _behind_comment(text: str, place: int) -> int | None:
    """The place behind the comment that begins here; None when it does not end."""
    depth = 0
    while place < len(text) and depth <= _DEPTH:
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
        else:
            return None  # a backslash with nothing behind it
        place += 1
        if depth == 0:
            return place
        part = _COMMENT_PART.match(text, place)
        place = place if part is None else part.end()
    return None


def _normal(name: str) -> str:
    try:
        return parse_domain(name.removesuffix("."))
    except AddressError:
        return name.lower().removesuffix(".")


def _properties(subject: str, issuer: str, spki: str) -> list[str]:
    named = (("subject", _quoted(subject)), ("issuer", _quoted(issuer)), ("spki", spki))
    return [f"policy.{name}={value}" for name, value in named if value not in ("", '""')]


def _quoted(text: str) -> str:
    """A quoted string (RFC 5322 section 3.2.4); the texts of certificates are printable ASCII already."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
