"""`mailsvc send`: hand a message over now, watch it, and read in the end what became of it.

The message is a file, standard input, or made from options; it goes to a relay, to the MX hosts of each recipient's
domain, or into the service of this machine.  Nothing is queued: what is not taken is told, and trying again is the
user's (`mailsvc sendmail` queues).  What is done is `mailsvc.sending`'s; here are the options and the terminal.

The hardest idea is that the place must be said.  A default would be a guess about who shall see the message: sent
directly it shows this machine's address to strangers, given to a relay it shows them its content.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import click
from twisted.internet.defer import Deferred, maybeDeferred

from mailsvc.certkit.passphrase import passphrase_source
from mailsvc.certkit.places import AUTHORITY_CERTIFICATE, AUTHORITY_FOLDER
from mailsvc.cli import descriptors
from mailsvc.cli.main import Common
from mailsvc.cli.probe import run
from mailsvc.cli.secret import mechanism_option, new_secret, one_source, password_options
from mailsvc.cli.story import visible
from mailsvc.config import Configuration
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, parse_address
from mailsvc.relay.logins import SECRET_LIMIT, LoginKind, RelayLogin
from mailsvc.relay.means import Means, Places
from mailsvc.relay.outcome import Outcome
from mailsvc.relay.outgoing import Said, Timeouts
from mailsvc.relay.url import MX, Relay, parse_relay
from mailsvc.resolver import SystemResolver
from mailsvc.sending.api import Handed, delivering_with, new_message_id, own_address, prepared, wish
from mailsvc.sending.compose import Attachment, Draft, composed
from mailsvc.sending.delivering import Delivering, Manner, Place
from mailsvc.sending.header import addresses, recipients
from mailsvc.sending.letter import Letter, Limits, pieces_of, read_letter
from mailsvc.sending.local import local_relays
from mailsvc.sending.target import check_login, relay_of
from mailsvc.sending.verdict import facts, lines, verdict
from mailsvc.storage.beside import Beside
from mailsvc.tls.sealing import sealing_key

_LARGE = 1 << 20
"""Octets from which on the progress is shown."""

_STEP = 0.2
"""Seconds between two looks at the progress."""


class _Told(TypedDict):
    message_id: str
    size: int


@click.command()
@click.argument("to", metavar="[RECIPIENT]...", nargs=-1)
@click.option("--via", metavar="URL|HOST:PORT", help="By this relay: tls://mail.example.org:587, for example.")
@click.option("--mx", is_flag=True, help="Directly to the MX hosts of each recipient's domain.")
@click.option("--local", is_flag=True, help="Into the service of this machine.")
@click.option("--from", "-f", "sender", metavar="ADDRESS", help='The sender; "" for none. [default: From, or you]')
@click.option("--read-recipients", "-t", is_flag=True, help="Also to whom To, Cc and Bcc of the message name.")
@click.option("--file", "source", metavar="FILE", type=click.File("rb"), help="The message. [default: standard input]")
@click.option("--subject", metavar="TEXT", help="Make a message with this subject.")
@click.option("--body", metavar="TEXT", help='Its text; "-" reads it from standard input.')
@click.option("--attach", metavar="FILE", multiple=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--cc", metavar="ADDRESS", multiple=True, help="Who gets a copy.")
@click.option("--bcc", metavar="ADDRESS", multiple=True, help="Who gets one that the others do not see.")
@click.option("--name", metavar="NAME", default="", help="Your name, before the sender's address.")
@click.option("--user", metavar="NAME", help="Log in as this user; the password is asked for.")
@password_options
@mechanism_option
@click.option("--label", metavar="LABEL", help="Log in with credentials of `mailsvc route credentials`.")
@click.option("--helo", metavar="NAME", help="What EHLO says. [default: the name of this host]")
@click.option("--notify", metavar="WORDS", help="Reports: success,failure,delay or never (DSN).")
@click.option("--require-tls", is_flag=True, help="Only over verified TLS, on the whole way (REQUIRETLS).")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), help="The most seconds of each wait.")
@click.option("--verbose", "-v", is_flag=True, help="Show the dialogue; passwords are masked.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@click.pass_obj
def send(common: Common, /, to: Sequence[str], as_json: bool, verbose: bool, **options: Any) -> int:
    """Send a message now.

    Say where to: --via, --mx or --local. Nothing is queued: what is not taken at once is told.

    Exit status: 0 taken for everybody; 3 for some; 4 not now, try again later; 5 refused for good; 6 nothing was sent,
    because the login failed or the channel is less than was demanded. (1: mailsvc failed, 2: wrong usage.)
    """
    asked = _Asked(tuple(to), **options)
    asked.check()
    configuration = common.in_force().configuration
    hostname = asked.helo or configuration.hostname
    place = asked.place(configuration)
    letter, handed = asked.message(configuration, hostname)
    try:
        progress = _Progress(letter.size, shown=sys.stderr.isatty() and not verbose)
        outgoing = handed.outgoing(
            letter,
            wish(None if asked.notify is None else asked.notify.split(",")),
            require_tls=asked.require_tls,
            heard=progress.at,
        )
        manner = Manner(hostname, asked.timeouts(), say if verbose else None)

        async def work(reactor: Any) -> Mapping[Address, Outcome]:
            return await delivering(configuration, reactor).deliver(outgoing, place, manner)

        try:
            outcomes = run(work)
        finally:
            progress.end()
        told: _Told = {"message_id": handed.message_id, "size": letter.size}
    finally:
        letter.close()
    if as_json:
        sender = "" if handed.sender is None else str(handed.sender)
        click.echo(json.dumps(facts(outcomes, **told, sender=sender), indent=2))
    else:
        for line in lines(outcomes, **told):
            click.echo(visible(line))
    return verdict(outcomes).value


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options."""

    to: tuple[str, ...]
    via: str | None
    mx: bool
    local: bool
    sender: str | None
    read_recipients: bool
    source: BinaryIO | None
    subject: str | None
    body: str | None
    attach: Sequence[Path]
    cc: Sequence[str]
    bcc: Sequence[str]
    name: str
    user: str | None
    from_stdin: bool
    file: Path | None
    mechanisms: tuple[str, ...]
    label: str | None
    helo: str | None
    notify: str | None
    require_tls: bool
    timeout: float | None

    @property
    def _composes(self) -> bool:
        return self.subject is not None or self.body is not None or bool(self.attach)

    def check(self) -> None:
        """Raise click.UsageError for what contradicts itself."""
        if sum((self.via is not None, self.mx, self.local)) != 1:
            raise click.UsageError("say where to: --via URL, --mx or --local")
        if self._composes and self.source is not None:
            raise click.UsageError("--file is a whole message; --subject, --body and --attach make one")
        if self._composes and self.read_recipients:
            raise click.UsageError("-t reads the recipients of a whole message")
        if not self._composes and (self.cc or self.name):
            raise click.UsageError("--cc and --name go with --subject, --body or --attach")
        if not (self.to or self.cc or self.bcc or self.read_recipients):
            raise click.UsageError("name a recipient, or give -t")
        one_source(self.from_stdin, self.file)
        if self.user is None and (self.from_stdin or self.file is not None):
            raise click.UsageError("a password goes with --user NAME")
        if self.user is None and self.mechanisms:
            raise click.UsageError("--mechanism goes with --user NAME; credentials of a --label have their own")
        if self.user is not None and (self.mx or self.label is not None):
            raise click.UsageError("a login belongs to one relay, and --label has a user of its own")
        if self.label is not None and self.via is None:
            raise click.UsageError("--label goes with --via")
        if self.from_stdin and (self.body == "-" or (self.source is None and not self._composes)):
            raise click.UsageError("standard input is the message already; use --password-file, or --file FILE")

    def login(self) -> RelayLogin | None:
        """The login, its password asked for."""
        if self.user is None:
            return None
        secret = new_secret(f"Password for {self.user}", self.from_stdin, self.file, SECRET_LIMIT, known=True)
        return RelayLogin("login", LoginKind.PASSWORD, self.user, secret, tuple(dict.fromkeys(self.mechanisms)))

    def place(self, configuration: Configuration) -> Place:
        """Where to; the password is asked for when it may be sent there."""
        if self.mx:
            return Place(MX)
        logs_in = self.user is not None
        if self.local:
            place = _local(configuration, login=logs_in)
        else:
            relay = relay_of(self.via or "", login=logs_in or self.label is not None)
            place = Place(relay if self.label is None else _labelled(relay, self.label))
        if logs_in:
            check_login(place.relay)
        return replace(place, login=self.login())

    def timeouts(self) -> Timeouts:
        """RFC 5321's, or less."""
        usual = Timeouts()
        if self.timeout is None:
            return usual
        most = self.timeout
        return Timeouts(**{each.name: min(most, getattr(usual, each.name)) for each in fields(Timeouts)})

    def message(self, configuration: Configuration, hostname: str) -> tuple[Letter, Handed]:
        """The message as it goes out, and its envelope."""
        limits = Limits(configuration.smtp.message_size, configuration.smtp.header_size)
        named = addresses((*self.to, *self.cc, *self.bcc))
        if self._composes:
            letter = read_letter([self._composed(hostname)], limits)
        else:
            source = self.source or _stdin("the message")
            letter = read_letter(pieces_of(source), limits)
        try:
            if self.read_recipients:
                named = tuple(dict.fromkeys((*named, *recipients(letter.head, "")[0])))
            sender = self.sender
            if sender is None and self._composes:
                sender = str(self._writer(hostname))
            return prepared(letter, named, sender, hostname)
        except BaseException:
            letter.close()
            raise

    def _writer(self, hostname: str) -> Address:
        if self.sender:
            return parse_address(self.sender)
        if self.user is not None and "@" in self.user:
            return parse_address(self.user)
        return own_address(hostname)

    def _composed(self, hostname: str) -> bytes:
        text = self.body or ""
        if text == "-":
            text = _stdin("the text").read(64 << 20).decode("utf-8", "replace")
        draft = Draft(
            self._writer(hostname),
            addresses(self.to),
            self.subject or "",
            text if text.endswith("\n") or not text else f"{text}\n",
            addresses(self.cc),
            self.name,
            [Attachment(path.name, path.read_bytes()) for path in self.attach],
        )
        return composed(draft, date=formatdate(time.time(), localtime=True), message_id=new_message_id(hostname))


def _local(configuration: Configuration, *, login: bool) -> Place:
    authority = (Path(configuration.certs) / AUTHORITY_FOLDER / AUTHORITY_CERTIFICATE).absolute()
    ca = str(authority) if os.access(authority, os.R_OK) else None
    for relay, found in local_relays(configuration, login=login, ca=ca):
        return Place(relay, found)
    which = "listen.submissions or listen.submission" if login else "listen.smtp or listen.lmtp"
    raise MailsvcError(f"the configuration names no listener that can be reached from here; see {which}")


def _labelled(relay: Relay, label: str) -> Relay:
    scheme, _, rest = str(relay).partition("://")
    if relay.label is not None:
        raise click.UsageError("the URL names credentials already; leave out --label")
    return parse_relay(f"{scheme}://{label}@{rest}")


def delivering(configuration: Configuration, reactor: Any) -> Delivering:
    """What hands messages over, with the logins and certificates of this machine."""
    means = means_of(configuration, reactor)
    private = configuration.relay.private_networks
    return delivering_with(reactor, SystemResolver(reactor), configuration.certs, means=means, private=private)


def means_of(configuration: Configuration, reactor: Any) -> Means:
    """The logins and certificates of this machine, for a process that does nothing else."""
    file = configuration.relay.credentials_file
    places = Places(
        configuration.certs,
        passphrase_source(os.environ),
        lambda: sealing_key(configuration.certificates.key_file, os.environ),
        Path(file) if file else None,
    )

    def at_once(work: Callable[[], object]) -> Deferred[object]:
        # Nobody else is waiting for this reactor.
        return maybeDeferred(work)

    return Means(Beside(configuration.database), reactor, places, at_once)


def _stdin(what: str) -> BinaryIO:
    if sys.stdin.isatty():
        click.echo(f"Type {what}, and Ctrl-D at its end:", err=True)
    return sys.stdin.buffer


def say(said: Said) -> None:
    """Show a line of a dialogue."""
    descriptors.complain(f"{said.who} {visible(said.text)}")


class _Progress:
    """How much of a large message is sent, on a terminal."""

    def __init__(self, size: int, *, shown: bool) -> None:
        self._size = size
        self._shown = shown and size >= _LARGE
        self._last = 0.0
        self._dirty = False

    def at(self, octets: int) -> None:
        """So many octets have been taken."""
        now = time.monotonic()
        if not self._shown or (now - self._last < _STEP and octets < self._size):
            return
        self._last, self._dirty = now, True
        percent = octets * 100 // self._size
        click.echo(f"\r{octets / 1e6:.1f} of {self._size / 1e6:.1f} MB, {percent} %", nl=False, err=True)

    def end(self) -> None:
        """Leave the line."""
        if self._dirty:
            click.echo("", err=True)
