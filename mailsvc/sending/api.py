"""`mailsvc.send`: the public Python API for sending a message.

How to use it, in a program with Twisted or with asyncio::

    sent = await mailsvc.send(message, to="bob@example.net", via="tls://mail.example.org:587", login=("me", "secret"))
    sent.check()                          # raises mailsvc.NotDelivered, which says whom it has not reached and why
    sent.outcomes["bob@example.net"]      # an Outcome: which server took it, over which channel, what it said

Handing over is `mailsvc.sending.delivering`'s, the message `mailsvc.sending.letter`'s.

The hardest idea is who awaits.  A Twisted coroutine waits for Deferreds and an asyncio task for futures, and each
breaks on the other's.  So `send` looks whether an asyncio task is running and gives what can be awaited there.  With
asyncio the reactor must be Twisted's asyncio reactor on that loop, and be started, because something has to move the
octets; a task that waited for any other would wait for ever, so it is told instead.
"""

from __future__ import annotations

import asyncio
import getpass
import io
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate
from pathlib import Path
from secrets import token_hex
from types import MappingProxyType
from typing import IO, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool

from mailsvc.certkit.passphrase import passphrase_source
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, AddressError, parse_address, parse_domain
from mailsvc.mail.wishes import Wish, envelope_id, notifications, returned_part
from mailsvc.mtasts.fetch import sts_facts
from mailsvc.relay.logins import LoginKind, RelayLogin
from mailsvc.relay.means import Means, Places
from mailsvc.relay.outcome import Kind, Outcome
from mailsvc.relay.outgoing import Outgoing, Said, Timeouts
from mailsvc.relay.reach import networks
from mailsvc.relay.url import MX, Relay
from mailsvc.resolver import Resolver, SystemResolver
from mailsvc.sending.delivering import Delivering, Manner, Memory, Place, nothing_remembered
from mailsvc.sending.header import MessageError, completed, recipients, sender_of
from mailsvc.sending.letter import Letter, Limits, pieces_of, read_letter
from mailsvc.sending.target import check_login, relay_of
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.levels import Level
from mailsvc.tls.policy import ServerPolicy

Addresses = str | Address | Iterable[str | Address]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a message.

    ``outcomes``: by recipient, as it was given.  ``message_id``: the Message-ID that it has.
    """

    outcomes: Mapping[str, Outcome]
    message_id: str

    @property
    def delivered(self) -> tuple[str, ...]:
        """For whom a server has taken the message."""
        return self._of(Kind.DELIVERED)

    @property
    def deferred(self) -> tuple[str, ...]:
        """For whom it was not taken now, and may be later."""
        return self._of(Kind.DEFERRED)

    @property
    def failed(self) -> tuple[str, ...]:
        """For whom it was refused for good."""
        return self._of(Kind.FAILED)

    def check(self) -> None:
        """Raise `NotDelivered` unless everybody's server has taken the message."""
        if self.deferred or self.failed:
            raise NotDelivered(self)

    def _of(self, kind: Kind) -> tuple[str, ...]:
        return tuple(address for address, outcome in self.outcomes.items() if outcome.kind is kind)


class NotDelivered(MailsvcError):
    """Not every recipient was reached; ``sent`` says whom and why.  ``temporary``: nobody was refused for good."""

    def __init__(self, sent: Sent) -> None:
        lines = [f"{address}: {sent.outcomes[address].text}" for address in (*sent.failed, *sent.deferred)]
        super().__init__("\n".join(lines))
        self.sent = sent

    @property
    def temporary(self) -> bool:
        """Whether trying again later may help everybody who was not reached."""
        return not self.sent.failed


def send(
    message: Message | bytes | str | IO[bytes],
    to: Addresses | None = None,
    *,
    via: str | Relay | None = None,
    sender: str | Address | None = None,
    login: tuple[str, str] | RelayLogin | None = None,
    hostname: str | None = None,
    notify: Sequence[str] | None = None,
    ret: str | None = None,
    envid: str | None = None,
    require_tls: bool = False,
    timeouts: Timeouts | None = None,
    listener: Callable[[Said], None] | None = None,
    certs: str | Path = "certs",
    limit: int = 64 << 20,
    resolver: Resolver | None = None,
    reactor: Any = None,
    private_networks: Sequence[str] = (),
) -> Awaitable[Sent]:
    """Hand a message over now; await the result in a Twisted coroutine or in an asyncio task.

    ``message``: an `email.message.Message`, or the text of one as octets, text, or an open file in binary mode; line
    ends of any kind.  It gets From, Date and Message-ID where they are missing, and loses Bcc.
    ``to``: addresses; None for those of To, Cc and Bcc.
    ``via``: the URL of a relay (``tls://mail.example.org:587``, ``smtps://``, ``ssl://``, ``smtp+tls://``, ``smtp://``,
    ``lmtp://``) or HOST:PORT with a port of mail; None for the MX hosts of each recipient's domain, with what DANE and
    MTA-STS demand of them; a URL without a host (``tls://``) for those hosts under that demand.
    ``sender``: the reverse path; None for the one of Sender or From, "" for the null sender.
    ``login``: user and password; only over a channel that is guaranteed to be encrypted.
    ``hostname``: what EHLO says; None for this machine's full name.
    ``notify`` (of "SUCCESS", "FAILURE", "DELAY", or "NEVER"), ``ret`` ("FULL", "HDRS") and ``envid``: RFC 3461.
    ``require_tls``: RFC 8689: every server on the way must be verified, or it is not sent.
    ``timeouts``: seconds of each wait.  ``listener``: told each line of the dialogues, secrets masked.
    ``certs``: the folder of certificates for ``cert=NAME`` in a URL.  ``limit``: octets of the message.
    ``reactor``: None for the one of this process.
    ``private_networks``: networks that are not of the internet, to which mail goes when an MX record says so
    (``["10.1.0.0/16"]``); to a ``via`` it goes anywhere.

    Raises, when it is awaited, `mailsvc.errors.MailsvcError` with a sentence for what cannot be tried at all: an
    address (`mailsvc.mail.address.AddressError`), a URL (`mailsvc.relay.url.RelayError`), a message
    (`mailsvc.sending.header.MessageError`).  What a server or the network does is no exception but an `Outcome`.
    """
    made = _send(
        message,
        to,
        _Options(
            via,
            sender,
            login,
            hostname,
            notify,
            ret,
            envid,
            require_tls,
            timeouts or Timeouts(),
            listener,
            Path(certs),
            limit,
            resolver,
            reactor,
            private_networks,
        ),
    )
    try:
        loop = asyncio.get_running_loop() if asyncio.current_task() is not None else None
    except RuntimeError:  # no loop runs
        loop = None
    if loop is None:
        return made
    if reactor is None and not _serves(loop):
        made.close()
        refused = loop.create_future()
        refused.set_exception(MailsvcError(_NO_REACTOR))
        return refused
    return Deferred.fromCoroutine(made).asFuture(loop)


_NO_REACTOR = (
    "mailsvc.send is awaited in an asyncio task, and Twisted's asyncio reactor does not run on the loop of that task;"
    " begin the program with twisted.internet.asyncioreactor.install(loop) and let reactor.run() run the loop, or, in a"
    " loop that runs already, say reactor.startRunning(installSignalHandlers=False) before, and at the end"
    ' reactor.fireSystemEvent("shutdown")'
)


def _serves(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the reactor of this process moves octets on `loop`.  It installs none: the program chooses."""
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

    reactor: Any = sys.modules.get("twisted.internet.reactor")
    return (
        isinstance(reactor, AsyncioSelectorReactor)
        and getattr(reactor, "_asyncioEventloop", loop) is loop
        and bool(getattr(reactor, "running", True))
    )


@dataclass(frozen=True, slots=True)
class _Options:
    via: str | Relay | None
    sender: str | Address | None
    login: tuple[str, str] | RelayLogin | None = field(repr=False)
    hostname: str | None
    notify: Sequence[str] | None
    ret: str | None
    envid: str | None
    require_tls: bool
    timeouts: Timeouts
    listener: Callable[[Said], None] | None
    certs: Path
    limit: int
    resolver: Resolver | None
    reactor: Any
    private_networks: Sequence[str]


async def _send(message: Message | bytes | str | IO[bytes], to: Addresses | None, options: _Options) -> Sent:
    reactor = options.reactor
    if reactor is None:
        from twisted.internet import reactor as running

        reactor = running
    hostname = options.hostname or own_name()
    place = _place(options)
    letter = read_letter(_pieces(message), Limits(options.limit, min(options.limit, 2 << 20)))
    try:
        letter, envelope = prepared(letter, to, options.sender, hostname)
        outgoing = envelope.outgoing(letter, wish(options.notify), options.ret, options.envid, options.require_tls)
        resolver = options.resolver or SystemResolver(reactor)
        delivering = delivering_with(reactor, resolver, options.certs, private=options.private_networks)
        manner = Manner(hostname, options.timeouts, options.listener)
        outcomes = await delivering.deliver(outgoing, place, manner)
    finally:
        letter.close()
    return Sent(MappingProxyType({str(each): outcome for each, outcome in outcomes.items()}), envelope.message_id)


@dataclass(frozen=True, slots=True)
class Handed:
    """From whom a message is and to whom it goes; ``message_id`` as its header has it."""

    sender: Address | None
    recipients: tuple[Address, ...]
    message_id: str

    def outgoing(
        self,
        letter: Letter,
        wanted: Wish | None = None,
        ret: str | None = None,
        envid: str | None = None,
        require_tls: bool = False,
        heard: Callable[[int], None] = lambda octets: None,
    ) -> Outgoing:
        """What a conversation is given.  Raises `MessageError` for what RFC 3461 does not know."""
        try:
            returned = None if ret is None else returned_part(ret)
            identifier = None if envid is None else envelope_id(envid)
        except ValueError as error:
            raise MessageError(str(error)) from None
        return Outgoing(
            self.sender,
            self.recipients,
            letter.content(heard),
            letter.size,
            {} if wanted is None else dict.fromkeys(self.recipients, wanted),
            returned,
            identifier,
            smtputf8=letter.is_utf8,
            body_8bit=letter.is_8bit,
            require_tls=require_tls,
        )


def prepared(
    letter: Letter, to: Addresses | None, sender: str | Address | None, hostname: str, *, name: str = ""
) -> tuple[Letter, Handed]:
    """The message as it goes out, and its envelope.  Raises `MessageError`, `AddressError`."""
    everybody = recipients(letter.head, "")[0] if to is None else _addresses(to)
    if not everybody:
        raise MessageError("the message has no recipient; name one, or write To into its header")
    reverse: Address | None
    if sender is None:
        reverse = sender_of(letter.head, "") or own_address(hostname)
    else:
        reverse = parse_address(str(sender)) if str(sender) else None
    now = time.time()
    identifier = new_message_id(hostname)
    writer = reverse or own_address(hostname)
    head = completed(letter.head, sender=writer, name=name, date=formatdate(now, localtime=True), message_id=identifier)
    found = next(head.values(b"message-id"), b"").decode("utf-8", "replace")
    return letter.with_head(head), Handed(reverse, everybody, found)


def delivering_with(
    reactor: Any,
    resolver: Resolver,
    certs: Path,
    *,
    means: Means | None = None,
    remembered: Callable[[str], Any] = nothing_remembered,
    ours: Iterable[str] = (),
    private: Collection[str] = (),
) -> Delivering:
    """What hands messages over, with MTA-STS asked anew for each domain.

    ``private``: networks not of the internet to which MX records may lead; raises MailsvcError for what is none.
    """
    try:
        networks(private)
    except ValueError as why:
        raise MailsvcError(f"a private network is not one: {why}") from None
    fetching: list[ClientTLS] = []

    async def sts(domain: str) -> Any:
        if not fetching:
            fetching.append(ClientTLS(ServerPolicy(Level.NAME)))
        return await sts_facts(domain, resolver, fetching[0], reactor, seconds=20.0)

    if means is None:
        places = Places(certs, passphrase_source(os.environ), lambda: None)
        means = Means(Memory(nothing_remembered), reactor, places, _in_thread(reactor))
    return Delivering(reactor, resolver, sts, means, remembered=remembered, ours=ours, private=private)


def new_message_id(hostname: str) -> str:
    """A Message-ID that nobody else has (RFC 5322 section 3.6.4)."""
    return f"<{int(time.time()):x}.{token_hex(10)}@{hostname}>"


def own_name() -> str:
    """This machine's full name, "localhost" when it has none that others may be told."""
    try:
        return parse_domain(socket.getfqdn().removesuffix("."))
    except AddressError:
        return "localhost"


def own_address(hostname: str) -> Address:
    """The address of whoever runs this process.  Raises `AddressError`."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return parse_address(f"{name}@{hostname}")


def wish(notify: Sequence[str] | None) -> Wish | None:
    """What the sender wants to hear.  Raises `MessageError`."""
    if notify is None:
        return None
    try:
        return Wish(notifications(",".join(notify)))
    except ValueError as error:
        raise MessageError(str(error)) from None


def _place(options: _Options) -> Place:
    login = options.login
    if isinstance(login, tuple):
        login = RelayLogin("login", LoginKind.PASSWORD, *login)
    if options.via is None:
        relay = MX
    elif isinstance(options.via, Relay):
        relay = options.via
    else:
        relay = relay_of(options.via, login=login is not None)
    if login is not None:
        check_login(relay)
    return Place(relay, (), login)


def _in_thread(reactor: Any) -> Callable[[Callable[[], object]], Deferred[object]]:
    """Runs what blocks: in a thread where the reactor has some."""
    if not IReactorThreads.providedBy(reactor):
        return lambda work: maybeDeferred(work)
    return lambda work: deferToThreadPool(reactor, reactor.getThreadPool(), work)


def _addresses(to: Addresses) -> tuple[Address, ...]:
    given = [to] if isinstance(to, (str, Address)) else list(to)
    return tuple(dict.fromkeys(each if isinstance(each, Address) else parse_address(each) for each in given))


def _pieces(message: Any) -> Iterable[bytes]:
    match message:
        case Message():
            # A subject and a name have a form in ASCII (RFC 2047); an address beyond it has none.
            mailboxes = [each for value in message.values() for each in getattr(value, "addresses", ())]
            return _flat(message, SMTP if all(each.addr_spec.isascii() for each in mailboxes) else SMTPUTF8)
        case str():
            return [message.encode("utf-8", "surrogateescape")]
        case bytes() | bytearray() | memoryview():
            return [bytes(message)]
        case io.TextIOBase():
            raise MessageError("the file of the message must be opened in binary mode")
        case _ if hasattr(message, "read"):
            return pieces_of(message)
    raise MessageError("the message must be an email.message.Message, text, octets or a file in binary mode")


def _flat(message: Message, policy: Any) -> Iterable[bytes]:
    try:
        return [message.as_bytes(policy=policy)]
    except (UnicodeError, LookupError, ValueError) as error:
        raise MessageError(f"the message cannot be written: {error}") from None
