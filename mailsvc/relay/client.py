"""One conversation with a mail server that takes mail from us: SMTP or LMTP (RFC 5321, RFC 2033).

How to use it::

    conversation = await connect(reactor, Where("mx.example.org", ("192.0.2.1",)), How(relay, hostname, tls))
    outcomes = await conversation.deliver(outgoing)     # any number of messages, one after another
    await conversation.quit()

`connect` raises `Refused`, whose ``outcome`` says why there is no session; `deliver` raises nothing that can be
foreseen.  What is said is decided by `mailsvc.relay.opening` and `mailsvc.relay.delivery`; `mailsvc.relay.driver` does
it on a Twisted reactor.  Finding hosts, their order and what policies demand of them is `mailsvc.relay.attempt`'s.

The hardest idea is what may be tried again in another way, because every second try is where a demand could get lost.
There are two.  ``smtp+tls`` whose handshake broke connects again in clear, and only when *nothing* is demanded
(`How.demanded` is PLAIN); ``ssl`` goes from STARTTLS to TLS from the first octet, both under the same demand.  Neither
follows after something that looks like an attack: a server that was refused for its certificate, or one that answered
what it had not been asked (RFC 3207 section 6, CVE-2011-0411).  Then the mail waits.

The other: being cancelled is an answer, too.  When mailsvc stops in the middle the connection is cut, and `deliver`
still returns its outcomes, because only it knows whether the end of the content had left.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.interfaces import IStreamClientEndpoint

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address
from mailsvc.relay import channel
from mailsvc.relay.asking import asking
from mailsvc.relay.delivery import Progress, delivery
from mailsvc.relay.dialogue import Broken, Session, Terms
from mailsvc.relay.driver import CANCELLED, Driver
from mailsvc.relay.logins import RelayLogin
from mailsvc.relay.opening import Refused, check, opening
from mailsvc.relay.outcome import Outcome, Phase, by_no_connection
from mailsvc.relay.outgoing import Outgoing, Record, Said, Timeouts
from mailsvc.relay.stream import Stream
from mailsvc.relay.url import Relay, Tls, Way
from mailsvc.tls.client import ClientTLS, Destination
from mailsvc.tls.credential import Credential
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.levels import Level
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.policy import ServerPolicy

__all__ = ["Conversation", "How", "Outgoing", "Refused", "Where", "connect", "server_policy"]


@dataclass(frozen=True, slots=True)
class Where:
    """A server.  ``host``: its name, which its certificate must bear.  ``addresses``: IP addresses to try in turn as
    long as nobody listens there, or none to have the reactor look the name up.  ``path``: a UNIX socket instead.

    Ports are the relay's (`Relay.ways`).
    """

    host: str
    addresses: tuple[str, ...] = ()
    path: str = ""


@dataclass(frozen=True, slots=True)
class How:
    """What the conversation must be.

    ``relay``: how TLS begins and what the URL demands; of an MX host, the relay of the MX route.  ``required``: what
    policies demand beyond it (DANE, MTA-STS, REQUIRETLS); the stricter of the two holds.  ``tls``: checks certificates
    and must be made for at least that level (`server_policy`); None only where TLS is never used.  ``hostname``: what
    EHLO says.  ``tlsa`` and ``tlsa_names``: as for `ClientTLS.to`.  ``listener`` is told each line as it is said.
    """

    relay: Relay
    hostname: str
    tls: ClientTLS | None = None
    required: Level = Level.PLAIN
    tlsa: tuple[TLSARecord, ...] = ()
    tlsa_names: tuple[str, ...] = ()
    login: RelayLogin | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    listener: Callable[[Said], None] | None = None

    @property
    def demanded(self) -> Level:
        """The least that the channel must be."""
        return max(self.required, self.relay.required)


def server_policy(relay: Relay, required: Level = Level.PLAIN, credential: Credential | None = None) -> ServerPolicy:
    """What a `ClientTLS` for this relay must demand.  ``required``: as in `How`."""
    return ServerPolicy(max(relay.required, required), relay.trust, credential)


async def connect(reactor: Any, where: Where, how: How) -> Conversation:
    """A session with a server that fulfils every demand.  Raises `Refused`; ValueError for a `How` that contradicts
    itself.

    ``reactor``: IReactorTime, IReactorTCP, and IReactorUNIX for a socket; IReactorPluggableNameResolver for names.
    """
    if how.tls is None and how.relay.tls is not Tls.NEVER:
        raise ValueError("a relay with TLS needs a ClientTLS")
    if how.tls is not None and how.tls.policy.required < how.demanded:
        raise ValueError("the ClientTLS demands less than the relay and the policies do")
    record = Record(how.listener)
    ways = how.relay.ways
    failures: list[Refused] = []
    for number, way in enumerate(ways):
        try:
            return await _by_way(reactor, where, how, way, record, more=number + 1 < len(ways))
        except Refused as refused:
            failures.append(refused)
            if refused.outcome.phase is Phase.AUTH or _is_final(refused):
                break
    raise _all_of(failures)


async def _by_way(reactor: Any, where: Where, how: How, way: Way, record: Record, *, more: bool) -> Conversation:
    """``more``: there is another way, so that a server that says nothing is not waited for as long."""
    try:
        return await _to_host(reactor, where, how, way, record, more=more)
    except Refused as refused:
        broken = refused.broken
        in_tls = broken is not None and (broken.tls or refused.outcome.phase is Phase.TLS)
        if way.tls is not Tls.TRY or how.demanded > Level.PLAIN or not in_tls or _is_final(refused):
            raise
        record.add("--", f"{refused.outcome.text}: once more in plain text, which is allowed here")
        return await _to_host(reactor, where, how, Way(way.port, Tls.NEVER), record, more=False)


def _is_final(refused: Refused) -> bool:
    """Whether no other way is tried: it looks like an attack, or we have ended it ourselves."""
    broken = refused.broken
    return broken is not None and (broken.refused or broken.injected or broken.cancelled)


async def _to_host(reactor: Any, where: Where, how: How, way: Way, record: Record, *, more: bool) -> Conversation:
    timeouts = replace(how.timeouts, greeting=how.timeouts.probe) if more else how.timeouts
    local = bool(where.path)
    terms = Terms(
        where.host or "the local socket",
        how.hostname,
        way.tls,
        # Nobody on a network can listen to a UNIX socket; what the URL says of it holds.
        how.relay.required if local else how.demanded,
        lmtp=how.relay.is_lmtp,
        local=local,
        login=how.login,
        timeouts=timeouts,
    )
    check(terms)
    failures: list[Refused] = []
    for address, endpoint in _endpoints(reactor, where, way.port, timeouts.connect):
        stream = Stream(reactor, record)
        record.add("--", f"connecting to {address}")
        try:
            await channel.connect(endpoint, stream, timeouts.connect, reactor)
        except channel.NotReached as error:
            failures.append(Refused(by_no_connection(f"{terms.host} [{address}]: {error}", terms.host)))
            continue
        except CancelledError as error:
            broken = Broken(CANCELLED, cancelled=True)
            outcome = by_no_connection(f"{terms.host}: {broken}", terms.host)
            raise Refused(outcome, orderly=False, broken=broken) from error
        driver = Driver(stream, _destination(where, how, way, address), timeouts)
        try:
            session = await driver.run(opening(terms))
        except Refused as refused:
            await _part(stream, timeouts, orderly=refused.orderly)
            raise
        except BaseException:
            stream.abort()
            raise
        return Conversation(driver, session, record)
    raise _all_of(failures)


def _all_of(failures: list[Refused]) -> Refused:
    """The last failure, which also tells of those before."""
    last = failures[-1]
    texts = list(dict.fromkeys(each.outcome.text for each in failures))
    return Refused(replace(last.outcome, text="; ".join(texts)), orderly=last.orderly, broken=last.broken)


def _endpoints(reactor: Any, where: Where, port: int, seconds: float) -> Iterator[tuple[str, IStreamClientEndpoint]]:
    if where.path:
        yield where.path, UNIXClientEndpoint(reactor, where.path, timeout=seconds)
        return
    for address in where.addresses or (where.host,):
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        try:
            version = ipaddress.ip_address(address).version
        except ValueError:
            yield shown, HostnameEndpoint(reactor, address.encode("ascii"), port, timeout=seconds)
            continue
        made = TCP6ClientEndpoint if version == 6 else TCP4ClientEndpoint
        yield shown, made(reactor, address, port, timeout=seconds)


def _destination(where: Where, how: How, way: Way, address: str) -> Callable[[], Destination]:
    def made() -> Destination:
        if how.tls is None:
            raise Broken("TLS is needed and not set up here", tls=True)
        try:
            return how.tls.to(where.host, way.port, host=address, tlsa=how.tlsa, tlsa_names=how.tlsa_names)
        except MailsvcError as error:
            raise Broken(str(error), tls=True) from error

    return made


async def _part(stream: Stream, timeouts: Timeouts, *, orderly: bool) -> None:
    """End the connection; politely when the server still listens.  Never raises."""
    try:
        if orderly and stream.is_quiet:
            stream.keep_session()
            stream.say_all([("QUIT", "QUIT")])
            await stream.hear(timeouts.quit, "the answer to QUIT")
            await stream.close(timeouts.quit)
    except (channel.ChannelFailure, CancelledError):
        pass
    finally:
        stream.abort()


class Conversation:
    """A session with a server, made by `connect`.  One message at a time."""

    def __init__(self, driver: Driver, session: Session, record: Record) -> None:
        self._driver = driver
        self._session = session
        self._record = record
        self._progress = Progress()
        self._busy = False

    @property
    def host(self) -> str:
        """The server's name."""
        return self._session.terms.host

    @property
    def peer(self) -> str:
        """The IP address; "" for a UNIX socket."""
        return self._driver.stream.peer

    @property
    def identity(self) -> ServerIdentity | None:
        """What was seen of the server; None without TLS."""
        return None if self._session.secured is None else self._session.secured.identity

    @property
    def level(self) -> Level:
        """What the channel proves."""
        return self._session.level

    @property
    def tls(self) -> str:
        """The channel in words; "" without TLS."""
        return self._session.tls

    @property
    def keywords(self) -> Mapping[str, str]:
        """The extensions that the server has, in upper case, with their parameters."""
        return self._session.keywords

    @property
    def dialogue(self) -> tuple[Said, ...]:
        """What was said, without secrets and content; of a long conversation the end."""
        return self._record.lines

    @property
    def transactions(self) -> int:
        """How many were begun."""
        return self._progress.transactions

    @property
    def usable(self) -> bool:
        """Whether another message may be given to it now.  A server may end an idle session at any time, so that the
        first outcome of a message that waited in vain tells it (phases RESET and MAIL, code 0 or 421)."""
        return self._progress.usable and not self._busy and self._driver.stream.is_quiet

    async def deliver(self, outgoing: Outgoing) -> Mapping[Address, Outcome]:
        """Give a message to the server: an outcome for each recipient.  After it look at `usable`."""
        if self._busy:
            raise ValueError("a conversation delivers one message at a time")
        self._busy = True
        try:
            return await self._driver.run(delivery(self._session, outgoing, self._progress), outgoing)
        except BaseException:
            self._progress.usable = False
            raise
        finally:
            self._busy = False
            if not self._progress.usable:
                self._driver.stream.abort()

    async def ask(self, sender: Address | None, recipient: Address) -> Outcome:
        """Whether the server would take mail from ``sender`` (None: the null sender) for ``recipient``; none is given.

        For a conversation of its own: nothing is delivered in it before or after.
        """
        self._progress.usable = False
        return await self._driver.run(asking(self._session, sender, recipient))

    async def quit(self) -> None:
        """Say goodbye and end the connection.  Never raises."""
        self._progress.usable = False
        await _part(self._driver.stream, self._session.terms.timeouts, orderly=not self._busy)

    def abort(self) -> None:
        """Cut the connection."""
        self._progress.usable = False
        self._driver.stream.abort()
