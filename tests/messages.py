"""Messages for tests: nasty ones that are made here, and CPython's own email test messages where they are shipped.

A message is a function that gives its octets in pieces, so that one of 50 MB need not be in memory.  All have CRLF line
ends; what SMTP adds (a line end behind the last line) is in `as_sent`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import SkipTest

Message = Callable[[], Iterable[bytes]]

_BARE = re.compile(rb"\r\n|\r|\n")


def _of(*pieces: bytes) -> Message:
    return lambda: pieces


def _many(first: bytes, piece: bytes, times: int, last: bytes = b"") -> Message:
    def pieces() -> Iterator[bytes]:
        yield first
        for _ in range(times):
            yield piece
        yield last

    return pieces


NASTY: dict[str, Message] = {
    "empty": _of(b""),
    "one empty line": _of(b"\r\n"),
    "two empty lines": _of(b"\r\n\r\n"),
    "header only": _of(b"Subject: header only\r\n"),
    "header and empty line": _of(b"Subject: header only\r\n\r\n"),
    "no header": _of(b"Just text.\r\n\r\nAnd more: text.\r\n"),
    "empty header": _of(b"\r\nbody\r\n"),
    "no final newline": _of(b"Subject: x\r\n\r\nno final newline"),
    "header without newline": _of(b"Subject: no newline"),
    "one dot": _of(b"."),
    "only dots": _of(b".\r\n" * 500),
    "growing dots": _of(b"Subject: x\r\n\r\n", *(b"." * number + b"\r\n" for number in range(300))),
    "dots behind empty lines": _of(b"A: b\r\n\r\n", b"\r\n.\r\n..\r\n" * 100),
    "8-bit header": _of("Subject: Grüße\r\nFrom: Jürgen <j@example.net>\r\n\r\nGrüße\r\n".encode("latin-1")),
    "utf-8": _of("Subject: 你好 \U0001f4e7\r\n\r\n你好\r\n".encode()),
    "every octet": _of(b"Subject: x\r\n\r\n" + bytes(sorted(set(range(256)) - {10, 13})) + b"\r\n"),
    "NUL": _of(b"Subject: a\0b\r\n\r\na\0b\0\r\n"),
    "long lines": _of(b"Subject: x\r\n\r\n" + (b"y" * 20_000 + b"\r\n") * 5),
    "long header line": _of(b"Subject: " + b"x" * 20_000 + b"\r\n\r\nbody\r\n"),
    "long first line of no header": _of(b"z" * 20_000 + b"\r\nSubject: x\r\n\r\n"),
    "folded": _of(b"Subject: a\r\n b\r\n\tc\r\n \r\nTo: x\r\n\r\nbody\r\n"),
    "looks like a reply": _of(b"+OK\r\n-ERR\r\n250 Ok\r\n.QUIT\r\nQUIT\r\n"),
    "looks like commands": _of(b"A: b\r\n\r\nRSET\r\nMAIL FROM:<a@b>\r\nDATA\r\n..\r\nQUIT\r\n"),
    "mbox": _of(b"From alice Thu Jan  1 00:00:00 1970\r\nSubject: x\r\n\r\nFrom here on\r\n>From\r\n"),
    "header of 1 MB": _many(b"Subject: x\r\n", b"X-Filler: " + b"f" * 988 + b"\r\n", 1000, b"\r\nbody\r\n"),
    "one field of 1 MB": _many(b"Subject: x", b"\r\n " + b"f" * 997, 1000, b"\r\n\r\nbody\r\n"),
    "100,000 lines": _many(b"Subject: x\r\n\r\n", b"line\r\n.line\r\n" * 100, 500),
    "100,000 empty lines": _many(b"Subject: x\r\n\r\n", b"\r\n" * 1000, 100),
}
"""By name; all of them are below 3 MB."""


def huge(octets: int = 50_000_000) -> Message:
    """A message of about so many octets, with dots at line starts in every piece."""
    piece = b"".join(b"." * (number % 3) + b"%04d" % number + b"x" * 70 + b"\r\n" for number in range(1000))
    return _many(b"Subject: huge\r\n\r\n", piece, octets // len(piece))


def cpython() -> dict[str, Message]:
    """CPython's email test messages, with CRLF line ends; `SkipTest` where the interpreter does not ship them."""
    spec = importlib.util.find_spec("test")
    places = spec.submodule_search_locations if spec is not None else None
    folders = [Path(place) / "test_email" / "data" for place in places or ()]
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("msg_*.txt"))]
    if not files:
        raise SkipTest("this Python does not ship its email test messages (test.test_email)")
    return {file.name: _of(_BARE.sub(b"\r\n", file.read_bytes())) for file in files}


def as_sent(message: bytes) -> bytes:
    """What a client sends for ``message``: SMTP has no way to end it in the middle of a line."""
    return message if not message or message.endswith(b"\r\n") else message + b"\r\n"
