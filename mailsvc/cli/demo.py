"""`mailsvc demo`: mail taken in and fetched again, before your eyes, and compared octet by octet.

It runs the commands that a user would run (`certs init`, `twistd mailsvc`, `user add`) in a temporary folder, lets
Python's smtplib and poplib talk to the service over real TLS, shows what was said, and checks what was promised. How
the service is kept and tidied away is `playground`, how a dialogue is listened to `dialogue`; here is the story.

The hardest idea is to promise nothing that was not seen: each sentence of the last part is a comparison that was made
with what the clients really got, and the exit status is 0 only when all of them held.
"""

from __future__ import annotations

import json
import poplib
import re
import secrets
import shlex
import smtplib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import formatdate
from time import monotonic
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from mailsvc.cli.dialogue import CLIENT, NOTE, SERVER, POP3Client, SMTPClient, Transcript, trusting
from mailsvc.cli.playground import Playground, Service, playground
from mailsvc.errors import MailsvcError
from mailsvc.mail.message import header_fields

HOSTNAME = "mail.example.org"
ALICE, BOB = "alice@example.org", "bob@example.org"
LOOPBACK = "127.0.0.1"
SECONDS = 20.0
"""What a client waits for any one answer."""

_DATABASE = ("--database", "mail.sqlite3")
_ENDPOINT = f"tcp:0:interface={LOOPBACK}"
_TWISTD = (
    *("-n", "--pidfile=", "mailsvc", "--certs", "certs/", *_DATABASE, "--hostname", HOSTNAME),
    *("--submission", _ENDPOINT, "--pop3", _ENDPOINT, "--smtp", "", "--submissions", "", "--pop3s", ""),
)
_STYLES = {CLIENT: "cyan", SERVER: "green", NOTE: "yellow"}
_LOG_LINES = 20
_GROUP = re.compile(rb"group ([^;]+);")


@dataclass(frozen=True, slots=True)
class Letter:
    """A message of the demo; `octets` end with CRLF, `quoted` is how many of its lines are shown."""

    what: str
    octets: bytes = field(repr=False)
    quoted: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A message as POP3 gave it: the size that LIST told, and the octets."""

    size: int
    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Channel:
    """What a client knows of its TLS after a handshake in which it checked chain and name."""

    version: str
    cipher: str
    bits: int
    names: tuple[str, ...]
    issuer: str
    until: str


@dataclass(frozen=True, slots=True)
class Check:
    """A promise, and whether it held."""

    held: bool
    promise: str


@click.command()
def demo() -> None:
    """See mail taken in and fetched again, on temporary ports.

    Starts a service of its own in a temporary folder, sends messages to it by SMTP and fetches them by POP3, both
    over TLS, shows what was said, and compares. Nothing is left behind. Exit status 0 when everything matched.
    """
    begun = monotonic()
    with playground() as place:
        story = _Story(place)
        try:
            checks = story.tell()
        except (MailsvcError, OSError, EOFError, smtplib.SMTPException, poplib.error_proto) as error:
            _show_log(place.service)
            raise MailsvcError(f"the demo failed: {_sentence(error)}") from error
        broken = sum(not check.held for check in checks)
        if broken:
            _show_log(place.service)
            raise MailsvcError(f"{broken} of {len(checks)} promises did not hold; please report it with what is above")
    story.say()
    story.say(f"All {len(checks)} hold. It took {monotonic() - begun:.1f} seconds; the folder is removed.")


class _Story:
    """The demo from its first line to the last comparison."""

    def __init__(self, place: Playground) -> None:
        self._place = place
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._passwords = {name: secrets.token_urlsafe(12) for name in (ALICE, BOB)}
        self._checks: list[Check] = []
        self._refused_in_clear: list[bool] = []

    def say(self, text: str = "", style: str = "") -> None:
        """A line of text."""
        self._console.print(Text(text, style))

    def tell(self) -> list[Check]:
        """All of it; returns what was compared."""
        self._heading("A private CA and a certificate, in a temporary folder")
        self._command("certs", "init", "certs/", "--hostname", HOSTNAME)

        self._heading("The service")
        service = self._start()

        self._heading("Two users: the service runs already, and knows them at once")
        for name, password in self._passwords.items():
            self._command(*_DATABASE, "user", "add", name, "--password-stdin", stdin=password)

        letters = [_greeting(), _dots(), _megabyte()]
        self._heading(f"alice sends {len(letters)} messages, by SMTP with STARTTLS and AUTH")
        sending = self._send(service.ports["submission"], letters)

        self._heading(f"bob fetches {len(letters)} messages, by POP3 with STLS")
        fetching, fetched = self._fetch(service.ports["pop3"], letters)

        self._heading("What was compared")
        self._check_channels(sending, fetching, fetched)
        for letter, message in zip(letters, fetched, strict=True):
            for check in compared(letter, message):
                self._check(check.held, check.promise)
        self._check_deleted()
        self._check(service.stop(), "the service was asked to stop, and did so in order")
        self._check_log(service)
        return self._checks

    def _heading(self, text: str) -> None:
        self.say()
        self.say(text, "bold")

    def _check(self, held: bool, promise: str) -> None:
        self._checks.append(Check(held, promise))
        self.say(f"  {'ok' if held else 'NO'}  {promise}", "green" if held else "bold red")

    def _command(self, *arguments: str, stdin: str = "") -> None:
        self.say(f"  $ mailsvc {shlex.join(arguments)}")
        for line in self._place.command(arguments, stdin).splitlines():
            self.say(f"  {line}", "dim")

    def _start(self) -> Service:
        self.say(f"  $ twistd {shlex.join(_TWISTD)}")
        service = self._place.start(_TWISTD)
        for name, port in service.ports.items():
            self.say(f"  {name} listens on {LOOPBACK}:{port}", "dim")
        return service

    def _transcript(self) -> Transcript:
        return Transcript(lambda line: self.say(f"  {line.who} {line.text}", _STYLES[line.who]))

    def _tls(self) -> ssl.SSLContext:
        return trusting(str(self._place.folder / "certs" / "ca" / "ca.pem"), HOSTNAME)

    # -- the two dialogues ----------------------------------------------------------------------------------------

    def _send(self, port: int, letters: Sequence[Letter]) -> Channel:
        transcript = self._transcript()
        with SMTPClient(LOOPBACK, port, transcript, SECONDS) as smtp:
            smtp.ehlo()
            early, _ = smtp.mail(ALICE)
            smtp.starttls(context=self._tls())
            channel = _channel(smtp.sock)
            _describe(channel, transcript)
            smtp.login(ALICE, self._passwords[ALICE])
            for letter in letters:
                transcript.note(f"{letter.what}: {len(letter.octets):,} octets")
                transcript.quoted = letter.quoted
                smtp.sendmail(ALICE, [BOB], letter.octets, mail_options=["BODY=8BITMIME"])
        self._refused_in_clear.append(early == 530)
        return channel

    def _fetch(self, port: int, letters: Sequence[Letter]) -> tuple[Channel, list[Fetched]]:
        transcript = self._transcript()
        with closing(POP3Client(LOOPBACK, port, transcript, SECONDS)) as pop3:
            self._refused_in_clear.append(_refused(pop3))
            pop3.stls(context=self._tls())
            channel = _channel(pop3.sock)
            _describe(channel, transcript)
            pop3.user(BOB)
            pop3.pass_(self._passwords[BOB])
            sizes = [int(line.split()[1]) for line in pop3.list()[1]]
            if len(sizes) != len(letters):
                raise MailsvcError(f"{len(letters)} messages were sent, and {len(sizes)} are in the maildrop")
            fetched = []
            for number, (size, letter) in enumerate(zip(sizes, letters, strict=True), 1):
                transcript.quoted = letter.quoted + 8
                fetched.append(Fetched(size, b"".join(line + b"\r\n" for line in pop3.retr(number)[1])))
                pop3.dele(number)
            pop3.quit()
        return channel, fetched

    # -- what is compared -----------------------------------------------------------------------------------------

    def _check_channels(self, sending: Channel, fetching: Channel, fetched: Sequence[Fetched]) -> None:
        self._check(all(self._refused_in_clear), "before TLS, MAIL and USER were refused")
        for protocol, channel in (("SMTP", sending), ("POP3", fetching)):
            verified = HOSTNAME in channel.names
            self._check(
                verified, f"{protocol}: {channel.version}, {channel.cipher}; certificate verified by the client"
            )
        received = dict(header_fields(fetched[0].octets)).get(b"received", b"")
        group = _GROUP.search(received)
        told = f"using {sending.version} with cipher {sending.cipher} ({sending.bits} bits)".encode()
        agreed = f", and key agreement by {group[1].decode('ascii')}" if group else ""
        self._check(told in received, f"Received tells the same version and cipher{agreed}")

    def _check_deleted(self) -> None:
        listed = json.loads(self._place.command([*_DATABASE, "user", "list", "--json"]))
        left = [account["messages"] for account in listed]
        self._check(left == [0, 0], "what bob deleted is gone from the database")

    def _check_log(self, service: Service) -> None:
        log = "\n".join(service.log)
        secret = (*self._passwords.values(), _MARK)
        self._check(not any(each in log for each in secret), "the log holds no password and no text of a message")


def compared(letter: Letter, fetched: Fetched) -> Iterator[Check]:
    """Whether a message is what was sent, behind exactly the fields that the server adds, and as long as told."""
    trace = fetched.octets.removesuffix(letter.octets)
    added = [name for name, _ in header_fields(trace)]
    same = fetched.octets.endswith(letter.octets) and added == [b"return-path", b"delivered-to", b"received"]
    octets = f"{len(letter.octets):,} octets"
    yield Check(same, f"{letter.what}: {octets} are identical, behind Return-Path, Delivered-To and Received")
    yield Check(fetched.size == len(fetched.octets), f"{letter.what}: LIST told the size of what RETR gave")


def _channel(sock: object) -> Channel:
    """What Python's ssl says of a finished handshake. It has no name for the group; the Received line has."""
    assert isinstance(sock, ssl.SSLSocket)
    cipher, _, bits = sock.cipher() or ("none", "", 0)
    certificate: Mapping[str, Any] = sock.getpeercert() or {}
    issuer = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    names = tuple(value for _, value in certificate.get("subjectAltName", ()))
    return Channel(
        sock.version() or "none", cipher, bits, names, issuer.get("commonName", "?"), certificate.get("notAfter", "?")
    )


def _describe(channel: Channel, transcript: Transcript) -> None:
    transcript.note(f"{channel.version}, {channel.cipher} ({channel.bits} bits)")
    transcript.note(f"certificate for {', '.join(channel.names)}, by {channel.issuer!r}, until {channel.until}")
    transcript.note("chain and name verified by the client, which trusts certs/ca/ca.pem and nothing else")


def _refused(pop3: POP3Client) -> bool:
    try:
        pop3.user(BOB)
    except poplib.error_proto:
        return True
    return False


def _sentence(error: BaseException) -> str:
    if isinstance(error, poplib.error_proto):
        return f"POP3 answered {error.args[0]!r}"
    return str(error) or type(error).__name__


def _show_log(service: Service | None) -> None:
    if service is not None and service.log:
        click.echo("The end of the service's log:", err=True)
        click.echo("".join(f"  {line}\n" for line in service.log[-_LOG_LINES:]), err=True, nl=False)


# -- the messages -------------------------------------------------------------------------------------------------

_MARK = "the night is over"


def _letter(what: str, quoted: int, body: Sequence[str], mime: Sequence[str] = ()) -> Letter:
    header = [
        f"From: Alice <{ALICE}>",
        f"To: Bob <{BOB}>",
        f"Subject: {what}",
        f"Date: {formatdate(localtime=True)}",
        f"Message-ID: <{secrets.token_hex(8)}@example.org>",
    ]
    return Letter(what, "".join(f"{line}\r\n" for line in [*header, *mime, "", *body]).encode(), quoted)


def _greeting() -> Letter:
    mime = ["MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit"]
    return _letter("First light", 20, ["Dear Bob,", "", f"\N{BLACK SUN WITH RAYS} {_MARK}.", "", "Alice"], mime)


def _dots() -> Letter:
    """What a careless server cuts short, or gives back with a dot more or less."""
    return _letter("Nothing but dots", 20, [".", "..", "", "...", ".QUIT", "", "."])


def _megabyte() -> Letter:
    return _letter("A megabyte", 2, [f"{'.' * (number % 3)}{number:05} {'light ' * 11}" for number in range(14_000)])
