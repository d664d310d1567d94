"""Text beyond ASCII in a header that may hold ASCII only: encoded words (RFC 2047) and parameter values (RFC 2231).

The writing half only, as downgrading needs it (`mailsvc.mail.downgrade`).  What is written here is valid wherever an
encoded word may stand at all: of the Q encoding only those characters are used that RFC 2047 section 5 (3) allows in a
phrase, no word is longer than 75 characters, and none ends inside a character (section 5, last paragraphs).

The hardest idea: octets that are no UTF-8.  They are not guessed at and not thrown away; they travel under the name
``unknown-8bit`` (RFC 1428 section 3), one octet as one character of `UNKNOWN`, so that the same code handles both.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass

WORD_LIMIT = 75
"""Characters of one encoded word, RFC 2047 section 2."""

LINE = 76
"""Characters of a line that holds an encoded word, RFC 2047 section 2."""

_LEAST_ROOM = 40
"""Characters that a first word is worth beginning in."""

_LONGEST_IN_Q = 1000
"""Octets of a text that is written so that people can read it."""

_VALUE_LIMIT = 60
"""Octets of one part of a parameter's value, so that its line stays short."""

_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_Q = [chr(octet) if octet in _Q_SAFE else "_" if octet == 0x20 else f"={octet:02X}" for octet in range(256)]
# RFC 2231 section 7: attribute-char is any ASCII character but space, controls, "*", "'", "%" and tspecials.
_PERCENT_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`{|}~")
_PERCENT = [chr(octet) if octet in _PERCENT_SAFE else f"%{octet:02X}" for octet in range(256)]

_ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=\Z")


@dataclass(frozen=True, slots=True)
class Charset:
    """What octets a text stands for: ``label`` on the wire, ``codec`` in Python."""

    label: str
    codec: str

    def octets(self, text: str) -> bytes:
        """The octets that `read` made ``text`` of."""
        return text.encode(self.codec)


UTF_8 = Charset("utf-8", "utf-8")
UNKNOWN = Charset("unknown-8bit", "latin-1")


def read(octets: bytes) -> tuple[str, Charset]:
    """The text that a header's octets spell, and in which charset: UTF-8, or `UNKNOWN` when they are not that."""
    try:
        return octets.decode("utf-8"), UTF_8
    except UnicodeDecodeError:
        return octets.decode("latin-1"), UNKNOWN


def is_encoded_word(word: str) -> bool:
    """Whether a reader would take ``word`` for an encoded word."""
    return word.startswith("=?") and _ENCODED_WORD.match(word) is not None


def encoded_words(text: str, charset: Charset, first: int = WORD_LIMIT) -> list[str]:
    """``text`` as encoded words, at least one; a reader drops the white space between them (RFC 2047 section 6.2).

    ``first`` is the room for the first one, in characters, if it is enough for anything.
    """
    octets = charset.octets(text)
    # Q as long as it is not much longer than base64, because people can read it.
    in_q = len(octets) <= _LONGEST_IN_Q and sum(len(_Q[octet]) for octet in octets) <= len(octets) * 2
    head = f"=?{charset.label}?{'q' if in_q else 'b'}?"
    overhead = len(head) + len("?=")
    room = (WORD_LIMIT if first < _LEAST_ROOM else min(first, WORD_LIMIT)) - overhead
    words = []
    start = 0
    while True:
        end = _end_in_q(octets, start, room) if in_q else start + room // 4 * 3
        while charset is UTF_8 and end < len(octets) and octets[end] & 0xC0 == 0x80:
            end -= 1
        part = octets[start:end]
        body = "".join(_Q[octet] for octet in part) if in_q else b64encode(part).decode("ascii")
        words.append(f"{head}{body}?=")
        start, room = end, WORD_LIMIT - overhead
        if start >= len(octets):
            return words


def _end_in_q(octets: bytes, start: int, room: int) -> int:
    """How far ``room`` characters reach."""
    end = start
    while end < len(octets) and (room := room - len(_Q[octets[end]])) >= 0:
        end += 1
    return end


def parameter(name: str, value: str, charset: Charset) -> list[str]:
    """A MIME parameter with a value beyond ASCII, in as many parts as it needs (RFC 2231 sections 3 and 4).

    The language is left empty, as RFC 6857 section 3.1.4 wants it.
    """
    parts = [""]
    for character in value:
        coded = "".join(_PERCENT[octet] for octet in charset.octets(character))
        if len(parts[-1]) + len(coded) > _VALUE_LIMIT:
            parts.append("")
        parts[-1] += coded
    if len(parts) == 1:
        return [f"{name}*={charset.label}''{parts[0]}"]
    return [
        f"{name}*{number}*={charset.label + chr(39) * 2 if number == 0 else ''}{part}"
        for number, part in enumerate(parts)
    ]
