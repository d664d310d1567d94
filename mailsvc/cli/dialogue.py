"""What two programs say to each other by SMTP or POP3, as lines that may be shown to anybody.

The clients are Python's own smtplib and poplib, so that the other party is none of ours; they are listened to where
they read and write lines. What they are told to say is left to the caller, how lines look to whoever gets them.

The hardest idea is what must not be shown (promise H): a secret is masked by the *state* of the dialogue, not by what
a line looks like. The initial response of AUTH, every line that answers a 334 (RFC 4954 section 4), and the argument
of PASS (RFC 1939 section 7) leave here as asterisks. And a message is not quoted whole: its first lines, then how many
there were.
"""

from __future__ import annotations

import poplib
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CLIENT, SERVER, NOTE = "C:", "S:", "--"
_MASK = b"*" * 8
_LISTS_MORE = (b"CAPA", b"RETR", b"TOP ")
"""POP3 commands whose +OK is followed by lines up to a single dot; LIST and UIDL are so only without an argument."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One line: who said it (`CLIENT`, `SERVER`; `NOTE` is ours), and the text, safe to show."""

    who: str
    text: str


class Transcript:
    """Takes the lines of one connection and hands them, masked and shortened, to `show`.

    `quoted` is how many lines of a message or a list are shown; it may be changed between commands.
    """

    def __init__(self, show: Callable[[Spoken], None], quoted: int = 20) -> None:
        self.quoted = quoted
        self._show = show
        self._secret_follows = False
        self._message_follows = False
        self._list_awaited = False
        self._list_follows = False
        self._quote = _Quote()

    def sent(self, data: bytes) -> None:
        """What the client sent: one line with its CRLF, or a whole message after 354."""
        if self._message_follows:
            self._message_follows = False
            for line in data.removesuffix(b"\r\n").split(b"\r\n"):
                self._quoted_line(CLIENT, line)
            return
        line = data.removesuffix(b"\r\n")
        command = line.upper()
        self._list_awaited = command.startswith(_LISTS_MORE) or command in (b"LIST", b"UIDL")
        self._show(Spoken(CLIENT, _printable(self._masked(line))))

    def received(self, line: bytes) -> None:
        """One line that the server sent, with its CRLF."""
        line = line.removesuffix(b"\r\n")
        if self._list_follows:
            self._list_follows = line != b"."
            self._quoted_line(SERVER, line)
            return
        self._list_follows = self._list_awaited and line.startswith(b"+OK")
        self._list_awaited = False
        self._secret_follows = line.startswith(b"334")
        self._message_follows = line.startswith(b"354")
        self._show(Spoken(SERVER, _printable(line)))

    def note(self, text: str) -> None:
        """A remark of ours between the lines."""
        self._show(Spoken(NOTE, text))

    def _masked(self, line: bytes) -> bytes:
        words = line.split(b" ")
        if self._secret_follows:
            return _MASK
        if words[0].upper() == b"PASS":
            return b" ".join([words[0], _MASK])
        if words[0].upper() == b"AUTH" and len(words) > 2:
            return b" ".join([*words[:2], _MASK])
        return line

    def _quoted_line(self, who: str, line: bytes) -> None:
        """One line of a message or a list; before the dot that ends it stands how many were left out."""
        quote = self._quote
        if line == b".":
            if quote.left_out:
                self._show(Spoken(who, f"[... {quote.left_out:,} lines more, {quote.octets:,} octets ...]"))
            self._show(Spoken(who, "."))
            self._quote = _Quote()
        elif quote.shown < self.quoted:
            quote.shown += 1
            self._show(Spoken(who, _printable(line)))
        else:
            quote.left_out += 1
            quote.octets += len(line) + 2


@dataclass(slots=True)
class _Quote:
    """How much of what is being quoted was shown and left out."""

    shown: int = 0
    left_out: int = 0
    octets: int = 0


def _printable(line: bytes) -> str:
    """A line as text that cannot move a cursor or change a colour."""
    text = line.decode("utf-8", "backslashreplace").replace("\t", "    ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _Heard:
    """The stream that smtplib and poplib read lines from, listened to."""

    def __init__(self, stream: Any, transcript: Transcript) -> None:
        self._stream = stream
        self._transcript = transcript

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._stream.readline(limit)
        if line:
            self._transcript.received(line)
        return line

    def close(self) -> None:
        self._stream.close()


class _Listening:
    """Both libraries keep the stream in `file` and make it anew after STARTTLS and STLS: each one is listened to."""

    transcript: Transcript
    _file: _Heard | None = None

    @property
    def file(self) -> Any:
        return self._file

    @file.setter
    def file(self, stream: Any) -> None:
        self._file = None if stream is None else _Heard(stream, self.transcript)


class SMTPClient(_Listening, smtplib.SMTP):
    """smtplib, with a transcript of what is said."""

    def __init__(self, host: str, port: int, transcript: Transcript, timeout: float) -> None:
        self.transcript = transcript
        super().__init__(host, port, local_hostname="demo.client.example", timeout=timeout)

    def send(self, s: Any) -> None:
        self.transcript.sent(s if isinstance(s, bytes) else s.encode("ascii"))
        super().send(s)


class POP3Client(_Listening, poplib.POP3):
    """poplib, with a transcript of what is said."""

    def __init__(self, host: str, port: int, transcript: Transcript, timeout: float) -> None:
        self.transcript = transcript
        super().__init__(host, port, timeout=timeout)

    def _putline(self, line: bytes) -> None:
        # Every command of poplib passes here; it has no public place to listen at but printing.
        self.transcript.sent(line + b"\r\n")
        self.sock.sendall(line + b"\r\n")


class NamedContext(ssl.SSLContext):
    """Checks that the server's certificate is for `expected`, whatever address was connected to.

    The libraries would ask for the name that they connected to, and nobody has put the demo's into the DNS.
    """

    expected: str

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*arguments, **options | {"server_hostname": self.expected})


def trusting(authority: str, expected: str) -> NamedContext:
    """A client's TLS that trusts the one CA in the file `authority`, and only for the name `expected`."""
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.expected = expected
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(authority)
    return context
