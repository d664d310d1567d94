"""Addresses beyond ASCII, written in ASCII: lists, groups, and those of reports (RFC 6857 sections 3.1.5 to 3.1.9).

A display name becomes encoded words, a domain its A-labels.  A local part has no form in ASCII: the whole address then
becomes the name of an empty group, which people can read and nobody can answer to (section 3.1.8).

The hardest idea: an address must never become another one.  So the grammar is strict: what two programs could read in
two ways (``boss@example.org <somebody@example.org>``, words that only white space separates) is not read at all, and of
a field like that nothing is left in clear.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import AddressError, parse_domain
from mailsvc.mail.encoded import UNKNOWN, Charset
from mailsvc.mail.structured import (
    SPACE,
    Line,
    NotInGrammar,
    Token,
    all_ascii,
    separated,
    text_of,
    tokens_of,
    write,
    write_comment,
    write_phrase,
)


class Encapsulate(MailsvcError):
    """The field cannot be converted; its value goes into a Downgraded- field (RFC 6857 section 3.1.10)."""


def addresses(text: str, charset: Charset, column: int) -> str:
    """RFC 6857 section 3.2.1: comments and display names, then groups and mailboxes."""
    line = Line(column)
    tokens = tokens_of(text)
    start = place = 0
    bracketed = False
    while place < len(tokens):
        token = tokens[place]
        if token in (("special", "<"), ("special", ">")):
            bracketed = token[1] == "<"
        elif token == ("special", ",") and not bracketed:
            _write_mailbox(line, tokens[start:place], charset)
            line.plain(",")
            start = place + 1
        elif token == ("special", ":") and not bracketed:
            try:
                end = tokens.index(("special", ";"), place)
            except ValueError:
                raise NotInGrammar("a group does not end") from None
            _write_group(line, tokens[start:place], tokens[place + 1 : end], charset)
            start, place = end + 1, end
        place += 1
    _write_mailbox(line, tokens[start:], charset)
    return str(line)


def _write_group(line: Line, display: Sequence[Token], inside: Sequence[Token], charset: Charset) -> None:
    """RFC 6857 section 3.1.7."""
    write_phrase(line, display, charset)
    members = [Mailbox(tokens, charset) for tokens in separated(inside, ",")]
    if any(member.is_lost for member in members):
        _write_lost(line, text_of(inside).strip(" \t\r\n"), charset)
        return
    line.plain(":")
    for number, member in enumerate(members):
        line.plain("," if number else "")
        member.write(line)
    line.plain(";")


def _write_lost(line: Line, original: str, charset: Charset) -> None:
    """``original`` as the name of an empty group, or the end of it."""
    # Behind an encoded word a space would vanish for a reader.
    line.encoded((" " if line.after_encoded_word else "") + SPACE.sub(" ", original), charset)
    line.plain(" :;")


class Mailbox:
    """A name, if any, and an address, with or without brackets (RFC 5322 section 3.4)."""

    def __init__(self, tokens: Sequence[Token], charset: Charset) -> None:
        self._charset = charset
        self._display: Sequence[Token] = ()
        self._bracketed = ("special", "<") in tokens
        self._address: Sequence[Token] = tokens
        self._rest: Sequence[Token] = ()
        if self._bracketed:
            start = tokens.index(("special", "<"))
            try:
                end = tokens.index(("special", ">"), start)
            except ValueError:
                raise NotInGrammar("a bracket is not closed") from None
            self._display, self._address, self._rest = tokens[:start], tokens[start + 1 : end], tokens[end + 1 :]
            if any(kind not in ("space", "comment") for kind, _ in self._rest):
                raise NotInGrammar("something follows an address")
        # What programs could read in different ways is not read here: a name must not become an address.
        if any(kind == "special" and text != "." for kind, text in self._display):
            raise NotInGrammar("a name has a character that none can have")
        self._spec = [token for token in self._address if token[0] not in ("space", "comment")]
        if any(_are_apart(self._address, place) for place in range(len(self._address))):
            raise NotInGrammar("an address is in two parts")
        self._ascii_domain = self._find_ascii_domain()

    def _find_ascii_domain(self) -> str | None:
        """The domain in A-labels; None when the address is ASCII already, or cannot be made so."""
        at = [place for place, token in enumerate(self._spec) if token == ("special", "@")]
        if not at or all_ascii(self._spec) or not all_ascii(self._spec[: at[-1]]) or self._charset is UNKNOWN:
            return None
        try:
            return parse_domain(text_of(self._spec[at[-1] + 1 :]))
        except AddressError:
            return None

    @property
    def is_lost(self) -> bool:
        """Whether ASCII has no way to write the address."""
        return self._ascii_domain is None and not all_ascii(self._spec)

    def write(self, line: Line) -> None:
        """In ASCII, see RFC 6857 section 3.1.8."""
        if not self._bracketed and self.is_lost:
            self._write_bare_lost(line)
            return
        write_phrase(line, self._display, self._charset)
        if self.is_lost:
            _write_lost(line, text_of(self._spec), self._charset)
            comments = [token for token in self._address if token[0] == "comment"]
            for comment in comments:
                line.plain(" ")
                write(line, [comment], self._charset)
        elif self._ascii_domain is not None:
            self._write_with_domain(line, self._ascii_domain)
        else:
            line.plain("<" if self._bracketed else "")
            write(line, self._address, self._charset)
            line.plain(">" if self._bracketed else "")
        write(line, self._rest, self._charset)

    def _write_bare_lost(self, line: Line) -> None:
        place = 0
        while self._address[place][0] in ("space", "comment"):
            place += 1
        write(line, self._address[:place], self._charset)
        _write_lost(line, text_of(self._spec), self._charset)
        rest = [token for token in self._address[place:] if token[0] == "comment"]
        for comment in rest:
            line.plain(" ")
            write(line, [comment], self._charset)

    def _write_with_domain(self, line: Line, domain: str) -> None:
        at = len(self._address) - 1 - [*reversed(self._address)].index(("special", "@"))
        line.plain("<" if self._bracketed else "")
        write(line, self._address[: at + 1], self._charset)
        line.plain(domain)
        # Of what follows only comments and white space are not in the domain already.
        following = self._address[at + 1 :]
        write(line, [token for token in following if token[0] == "comment"], self._charset)
        if following and following[-1][0] == "space":
            line.plain(following[-1][1])
        line.plain(">" if self._bracketed else "")


def _are_apart(tokens: Sequence[Token], place: int) -> bool:
    """Whether the token at this place is a word that only white space or comments separate from another."""
    if tokens[place][0] in ("space", "comment", "special"):
        return False
    following = (token[0] for token in tokens[place + 1 : place + 5] if token[0] not in ("space", "comment"))
    return next(following, "special") != "special"


def _write_mailbox(line: Line, tokens: Sequence[Token], charset: Charset) -> None:
    Mailbox(tokens, charset).write(line)


def hidden(text: str, charset: Charset, column: int) -> str:
    """Everything as the name of an empty group: nothing of what could not be read may be taken for an address."""
    line = Line(column)
    _write_lost(line, text.strip(" \t\r\n"), charset)
    return str(line)


def typed_address(text: str, charset: Charset, column: int) -> str:
    """RFC 6857 section 3.1.9, RFC 6533 section 3: ``utf-8; address`` in its form for ASCII."""
    kind, semicolon, rest = text.partition(";")
    if kind.strip(" \t\r\n").lower() != "utf-8" or not semicolon or charset is UNKNOWN:
        raise Encapsulate("no type of address that is known")
    line = Line(column)
    line.plain(kind + semicolon)
    try:
        pieces = tokens_of(rest)
    except NotInGrammar:
        raise Encapsulate("no address") from None
    for piece_kind, piece in pieces:
        if piece_kind == "comment":
            write_comment(line, piece, charset)
        else:
            line.plain("".join(mark if mark.isascii() else f"\\x{{{ord(mark):X}}}" for mark in piece))
    return str(line)
