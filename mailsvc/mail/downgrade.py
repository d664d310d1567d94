"""Header fields beyond ASCII, written in ASCII for clients that know nothing else (RFC 6857 section 3).

RFC 6856 section 2.1 leaves three ways to hand an internationalised message to a client that did not say UTF8: to refuse
it, the simplified surrogate of RFC 6858, or this one.  This one is taken because it loses least: RFC 6858 throws away
each address beyond ASCII and every such field that it has no rule for (sections 2.1 and 2.4), and what a client deletes
after fetching is gone for good (RFC 6858 section 5).  Here an address becomes text that a person can still read, and so
does everything else.

The rules are those of RFC 6857, by the kind of field: `_KINDS` is its section 3.2.  Nothing but fields with octets
beyond ASCII is touched; those that are valid stay valid, and an address never turns into another one: a local part
that ASCII cannot say becomes the name of an empty group, to which no reply can go (section 3.1.8).

Where the RFC is silent: octets that are no UTF-8 are written as ``unknown-8bit`` (RFC 1428); a field that is not what
its grammar says, or is too long to be looked at closely, is treated as unstructured (section 3.2.8), a Received field
too, for which encapsulation is forbidden, and of addresses then nothing is left in clear; what names a maildrop
(Delivered-To, RFC 9228) is an address.  Fields ``Downgraded-...`` that have come with the message are fields like all
others: section 5 says not to trust them, and no rule removes them.

Left to others: addresses (`mailsvc.mail.downgrade_address`), and where the fields of a message are
(`mailsvc.mail.surrogate`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mailsvc.mail.address import AddressError, parse_domain
from mailsvc.mail.downgrade_address import Encapsulate, Mailbox, addresses, hidden, typed_address
from mailsvc.mail.encoded import LINE, Charset, parameter, read
from mailsvc.mail.structured import (
    Line,
    NotInGrammar,
    Token,
    all_ascii,
    as_one,
    content_of,
    separated,
    text_of,
    tokens_of,
    unstructured,
    words_of,
    write,
    write_phrase,
    write_words,
)

LONGEST = 32768
"""Octets of a field that is looked at closely, which costs up to 5 us each; a longer one is encoded as a whole."""

_FIELD = re.compile(rb"([!-9;-~]+)([ \t]*:)")
_EMPTY_LINE = re.compile(r"\r\n[ \t]+(?=\r\n|\Z)")
_QUESTION_MARKS = bytes(octet if octet < 0x80 else 0x3F for octet in range(256))


def downgraded_field(field: bytes, *, closely: bool = True) -> bytes:
    """A header field with its line end, in ASCII (RFC 6857 section 3.2); the same octets when it is ASCII.

    Not ``closely``: its whole value as text, at a twentieth of the cost."""
    if field.isascii():
        return field
    start = _FIELD.match(field)
    if start is None:
        return without_meaning(field)
    body = field[start.end() :].rstrip(b"\r\n")
    ending = field[start.end() + len(body) :]
    name, colon = start[1].decode("ascii"), start[2].decode("ascii")
    text, charset = read(body)
    kind = _KINDS.get(name.lower(), unstructured)
    if not closely or len(field) > LONGEST:
        if kind in (_message_ids, typed_address):
            name = f"Downgraded-{name}"
        written = (hidden if kind is addresses else as_one)(text, charset, len(name) + len(colon))
        return f"{name}{colon}{written}".encode("ascii") + ending
    try:
        written = kind(text, charset, len(start[0]))
    except Encapsulate:
        name = f"Downgraded-{name}"
        written = unstructured(text, charset, len(name) + len(colon))
    except NotInGrammar:
        written = ""
    if kind is addresses and not (written and written.isascii()):
        written = hidden(text, charset, len(start[0]))
    if not (written and written.isascii()):
        written = unstructured(text, charset, len(start[0]))
    # A clause that was left out must not leave a line of white space: some programs see the header's end in it.
    return f"{name}{colon}{_EMPTY_LINE.sub('', written)}".encode("ascii") + ending


def without_meaning(octets: bytes) -> bytes:
    """Each octet beyond ASCII as a question mark: for what is no field, or more than anybody would look at closely."""
    return octets.translate(_QUESTION_MARKS)


def _comments(text: str, charset: Charset, column: int) -> str:
    """RFC 6857 section 3.2.2; what is beyond ASCII elsewhere makes the field unstructured."""
    line = Line(column)
    write(line, tokens_of(text), charset)
    return str(line)


def _message_ids(text: str, charset: Charset, column: int) -> str:
    """RFC 6857 section 3.2.3."""
    try:
        written = _comments(text, charset, column)
    except NotInGrammar:
        raise Encapsulate("no list of message ids") from None
    if not written.isascii():
        raise Encapsulate("an id is beyond ASCII")
    return written


def _keywords(text: str, charset: Charset, column: int) -> str:
    """RFC 6857 section 3.2.7."""
    line = Line(column)
    for number, phrase in enumerate(separated(tokens_of(text), ",")):
        line.plain("," if number else "")
        write_phrase(line, phrase, charset)
    return str(line)


_CLAUSES = frozenset({"from", "by", "via", "with", "id", "for"})


def _received(text: str, charset: Charset, column: int) -> str:
    """RFC 6857 section 3.2.4: domains and comments, then the clauses that ASCII cannot write are left out."""
    line = Line(column)
    clause: list[Token] = []
    for token in tokens_of(text):
        is_keyword = token[0] == "atom" and token[1].lower() in _CLAUSES
        behind_space = bool(clause) and clause[-1][0] in ("space", "comment")
        if token == ("special", ";") or (is_keyword and behind_space):
            _write_clause(line, clause, charset)
            clause = []
        clause.append(token)
    _write_clause(line, clause, charset)
    return str(line)


def _write_clause(line: Line, clause: Sequence[Token], charset: Charset) -> None:
    words = [place for place, token in enumerate(clause) if token[0] not in ("space", "comment")]
    if all(clause[place][1].isascii() for place in words):
        write(line, clause, charset)
        return
    name, start, end = clause[words[0]][1].lower(), words[0] + 1, words[-1] + 1
    # Behind the keyword is white space, then what the clause says.
    while start < end and clause[start][0] in ("space", "comment"):
        start += 1
    mailbox = Mailbox(clause[start:end], charset)
    if name == "for" and not mailbox.is_lost:
        write(line, clause[:start], charset)
        mailbox.write(line)
    elif name in ("for", "id"):
        return
    else:
        write(line, clause[:start], charset)
        said = text_of(clause[start:end])
        try:
            line.plain(parse_domain(said))
        except AddressError:
            # Neither a domain nor ASCII: a comment is where the grammar has room for it.
            line.plain("(")
            write_words(line, words_of(said.replace("(", "[").replace(")", "]")), charset)
            line.plain(")")
    write(line, clause[end:], charset)


def _mime(text: str, charset: Charset, column: int) -> str:
    """RFC 6857 section 3.2.5: values beyond ASCII in the way of RFC 2231, comments as everywhere."""
    line = Line(column)
    first, *parameters = separated(tokens_of(text), ";")
    write(line, first, charset)
    split = [_Parameter(tokens) for tokens in parameters]
    # A value in several parts is written in one way or the other (RFC 2231 section 4.1).
    coded = {one.stem for one in split if not one.value.isascii()}
    extended = {one.stem for one in split if one.is_extended}
    for one in split:
        if one.stem in coded & extended and not one.is_extended:
            continue  # the same value is there already, in the form that ASCII has for it
        line.plain(";")
        if one.stem not in coded:
            write(line, one.tokens, charset)
            continue
        parts = one.written(charset)
        for number, part in enumerate(parts):
            line.plain("\r\n " if number or line.column + len(part) > LINE else " ")
            line.plain(part + (";" if number < len(parts) - 1 else ""))
        for comment in (token for token in one.tokens if token[0] == "comment"):
            line.plain(" ")
            write(line, [comment], charset)
    return str(line)


_SECTION = re.compile(r"\*(\d{1,4})(\*?)\Z")


class _Parameter:
    """``name=value`` with what lies around it."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        said = [token for token in tokens if token[0] not in ("space", "comment")]
        self.name, self.value = "", ""
        if len(said) > 2 and said[1] == ("special", "="):
            self.name = said[0][1]
            self.value = "".join(content_of(token) for token in said[2:])
        elif not all_ascii(said):
            raise NotInGrammar("no parameter")
        if not self.name.isascii():
            raise NotInGrammar("a parameter has a name beyond ASCII")
        self._section = _SECTION.search(self.name)
        self.stem = _SECTION.sub("", self.name).removesuffix("*").lower()
        self.is_extended = self._section is None and self.name.endswith("*")

    def written(self, charset: Charset) -> list[str]:
        """The parameter as RFC 2231 has it, in one part or several."""
        if self._section is None and not self.is_extended:
            return parameter(self.name, self.value, charset)
        if self._section is None or self._section[2]:
            # In the extended form already: only what does not belong there is mended.
            mended = "".join(mark if mark.isascii() else _percent(mark, charset) for mark in self.value)
            return [f"{self.name}={mended}"]
        coded = "".join(_percent(mark, charset) for mark in self.value)
        prefix = f"{charset.label}''" if int(self._section[1]) == 0 else ""
        return [f"{self.name}*={prefix}{coded}"]


def _percent(mark: str, charset: Charset) -> str:
    if mark.isascii() and mark.isalnum():
        return mark
    return "".join(f"%{octet:02X}" for octet in charset.octets(mark))


_Kind = Callable[[str, Charset, int], str]


def _named(kind: _Kind, names: str) -> dict[str, _Kind]:
    return dict.fromkeys(names.split(), kind)


_KINDS: dict[str, _Kind] = {
    **_named(addresses, "from sender to cc bcc reply-to return-path disposition-notification-to"),
    **_named(addresses, "resent-from resent-sender resent-to resent-cc resent-bcc resent-reply-to"),
    **_named(addresses, "delivered-to mail-followup-to"),
    **_named(typed_address, "original-recipient final-recipient"),
    **_named(_comments, "date resent-date mime-version content-id content-transfer-encoding"),
    **_named(_comments, "content-language accept-language auto-submitted"),
    **_named(_message_ids, "message-id resent-message-id in-reply-to references"),
    **_named(_received, "received"),
    **_named(_mime, "content-type content-disposition"),
    **_named(_keywords, "keywords"),
}
"""RFC 6857 section 3.2; every field that is not here is unstructured (sections 3.2.6 and 3.2.8)."""
