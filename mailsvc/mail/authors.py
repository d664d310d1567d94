"""In whose name a message speaks: the addresses of From, Sender and their Resent- forms (RFC 5322 section 3.6.2).

Read to be held against what a login owns, so the parser's one rule is: an address that a mail program could show must
not be missed.  What is not the grammar of RFC 5322 section 3.4 (with groups, RFC 6854, comments and quoted strings) is
refused and never guessed at; a program that reads ``boss@example.org <me@example.org>`` in another way than we do
cannot be fooled then.  White space or comments inside an address, which only the obsolete grammar knows, and routes are
refused for the same reason.

The hardest idea: one regular expression per token and no way back.  Every octet of a field is looked at once, whatever
was written to make a parser slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.mail.message import fields_named

AUTHORS = (b"from", b"sender", b"resent-from", b"resent-sender")
"""The fields that say who speaks, in lower case."""

LONGEST_FIELD = 65536
"""Octets of one of these fields, and of all of them together."""

MOST_ADDRESSES = 100
"""In all of these fields together."""

_DEPTH = 20
"""Of comments in comments."""

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r'|(?P<quoted>"(?:[^"\\\0\r\n]|\\[^\0\r\n])*")'
    r"|(?P<literal>\[[^\[\]\\\0-\x20]*\])"
    r"|(?P<special>[<>,:;@().])"
    r'|(?P<atom>[^\0-\x20\x7f<>,:;@().\[\]\\"]+)'
)
_COMMENT = re.compile(r"[^()\\\0]+|\\[^\0]|[()]")


class AuthorsError(MailsvcError):
    """The field cannot be read as RFC 5322 writes it; the message names the field."""


def authors(header: bytes) -> list[Address]:
    """Every address of the fields `AUTHORS` in a header block, in their order.  Raises `AuthorsError`."""
    found: list[Address] = []
    left = LONGEST_FIELD
    for name, value in fields_named(header, *AUTHORS):
        field = name.decode("ascii").title()
        left -= len(value)
        if left < 0:
            raise AuthorsError(f"the field {field} is longer than {LONGEST_FIELD} octets, or one of too many")
        try:
            addresses = address_list(value.decode("utf-8"))
        except (UnicodeDecodeError, AddressError, ValueError):
            raise AuthorsError(f"the field {field} cannot be read") from None
        if not addresses:
            raise AuthorsError(f"the field {field} holds no address")
        found += addresses
        if len(found) > MOST_ADDRESSES:
            raise AuthorsError(f"the field {field} is one of too many addresses")
    return found


def address_list(text: str, domain: str = "") -> list[Address]:
    """The addresses of an address list without its field name.  Raises `AddressError` or ValueError.

    ``domain``: put behind a name without one, as programs on this machine write them ("root"); "": none is taken.
    """
    found: list[Address] = []
    phrase: list[str] = []  # the tokens of what is a name, or an address without brackets
    in_group = closed = False  # closed: an address or a group has ended, a comma or the end must follow
    tokens = _tokens(text)
    for kind, token in tokens:
        if kind == "space":
            if phrase and phrase[-1] != " ":
                phrase.append(" ")
        elif token == "<" and kind == "special" and not closed:
            if "@" in phrase:
                raise ValueError("an address stands where a name belongs")
            found.append(_bracketed(tokens, domain))
            phrase, closed = [], True
        elif token == "," and kind == "special":
            found += _bare(phrase, domain)
            phrase, closed = [], False
        elif token == ":" and kind == "special" and not (in_group or closed) and phrase and "@" not in phrase:
            phrase, in_group = [], True
        elif token == ";" and kind == "special" and in_group:
            found += _bare(phrase, domain)
            phrase, in_group, closed = [], False, True
        elif closed or (kind == "special" and token not in "@."):
            raise ValueError("a token stands where none belongs")
        else:
            phrase.append(token)
    if in_group:
        raise ValueError("a group does not end")
    return found + _bare(phrase, domain)


def _bracketed(tokens: Iterator[tuple[str, str]], domain: str) -> Address:
    inside: list[str] = []
    for kind, token in tokens:
        if kind == "special" and token == ">":
            [address] = _bare(inside, domain)  # ValueError when there is none: nobody is in "<>"
            return address
        if kind == "special" and token not in "@.":
            raise ValueError("a token stands inside the brackets")
        inside.append(" " if kind == "space" else token)
    raise ValueError("a bracket is not closed")


def _bare(phrase: list[str], domain: str) -> list[Address]:
    """The address that these tokens are; none, when there are none."""
    text = "".join(phrase).strip(" ")
    if not text:
        return []
    # A space is left only inside a quoted local part, or where it does not belong; then this raises.
    return [parse_address(f"{text}@{domain}" if domain and "@" not in phrase else text)]


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each token; a comment is a space."""
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise ValueError("a character stands where none belongs")
        kind = str(token.lastgroup)
        place = token.end()
        if kind == "special" and token[0] == ")":
            raise ValueError("a comment ends that has not begun")
        if kind == "special" and token[0] == "(":
            kind, place = "space", _end_of_comment(text, place)
        yield kind, token[0]


def _end_of_comment(text: str, place: int) -> int:
    depth = 1
    while depth:
        part = _COMMENT.match(text, place)
        if part is None:
            raise ValueError("a comment does not end")
        place = part.end()
        depth += {"(": 1, ")": -1}.get(part[0], 0)
        if depth > _DEPTH:
            raise ValueError("comments lie too deep in each other")
    return place
