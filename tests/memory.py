"""A mail host in memory: the real servers, real TLS, a real sqlite, and no sockets, threads or time.

`MailHost` builds both servers as the service does and gives a `Client` for each connection.  A `Wire` is Twisted's own
`FileDescriptor` with the real ``startTLS`` of ``twisted.internet._newtls``, so that buffering, back pressure, the swap
of protocols at STARTTLS and aborting are not imitated; only the socket is.  Its reactor is a `Clock`: `settle` moves
octets and runs what is due until nothing moves, and time passes only when a test says so.

The hardest idea: `MemoryStore` answers in three ways.  At once, as if SQL took no time; *late*, from the reactor, after
everything that arrived before; or *held*, when the test says so.  A server that took its next command too early would
give other replies in the three.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import count, pairwise
from typing import IO, Any, Concatenate, ParamSpec, TypeVar, cast

from OpenSSL import SSL
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.internet import _newtls
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import _AbortingMixin
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailsvc.accounts.authenticator import Authenticator
from mailsvc.accounts.login import WrongLogin
from mailsvc.accounts.realm import PASSWORD as PASSWORD_CREDENTIAL
from mailsvc.accounts.realm import Account, AccountId, app_credential
from mailsvc.accounts.realm import portal as make_portal
from mailsvc.backup.judging import BackupRecipients
from mailsvc.backup.keys import Keys
from mailsvc.directory.lookup import TableDirectory
from mailsvc.directory.program import Ended
from mailsvc.directory.tables import Program
from mailsvc.errors import StorageFailure
from mailsvc.mail.address import AddressError, parse_address
from mailsvc.mail.message import MessageScanner, Summary
from mailsvc.mail.snapshot import MaildropItem
from mailsvc.pop3.mailbox import Maildrops
from mailsvc.pop3.rules import Helpers as POP3Helpers
from mailsvc.pop3.rules import Rules as POP3Rules
from mailsvc.pop3.server import POP3Factory
from mailsvc.smtp.defaults import PasswordAuthenticator
from mailsvc.smtp.intake import Intake
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS, Mode, mx
from mailsvc.smtp.reception import BodyLimits
from mailsvc.smtp.rules import Helpers
from mailsvc.smtp.rules import Rules as SMTPRules
from mailsvc.smtp.server import SMTPFactory
from mailsvc.storage import accounts, credentials, mailboxes
from mailsvc.storage.migrate import shipped_upgrades
from mailsvc.storage.rows import Cursor
from mailsvc.tls.credential import make_credential
from mailsvc.tls.server import ServerTLS
from mailsvc.tls.table import make_table
from mailsvc.wire.conversation import Patience
from mailsvc.wire.implicit import ImplicitTLSFactory
from mailsvc.wire.sessions import Sessions
from tests import pki

P = ParamSpec("P")
T = TypeVar("T")

HOSTNAME = pki.HOSTNAME
PEER = IPv4Address("TCP", "192.0.2.7", 40000)
HERE = IPv4Address("TCP", "192.0.2.1", 25)

MX = mx(requires_tls=True)
MX_OPTIONAL = mx(requires_tls=False)
MODES: dict[str, Mode] = {
    "mx": MX,
    "mx with tls = optional": MX_OPTIONAL,
    "submission": SUBMISSION,
    "submissions": SUBMISSIONS,
}

ALICE, BOB = "alice@example.org", "bob@example.org"
PASSWORD = "open sesame"


@cache
def server_tls() -> ServerTLS:
    """The TLS object of the hosts here."""
    issued = pki.credential()
    chain = (issued.certificate, pki.authority().certificate)
    return ServerTLS(make_table([make_credential(HOSTNAME, chain, issued.key)], HOSTNAME))


class MemoryReactor(Clock):
    """A clock that also moves octets: what a `FileDescriptor` wants of a reactor."""

    def __init__(self) -> None:
        super().__init__()
        # dicts, because they keep an order and sets do not
        self.readers: dict[Wire, None] = {}
        self.writers: dict[Wire, None] = {}

    def addReader(self, reader: Wire) -> None:
        self.readers[reader] = None

    def removeReader(self, reader: Wire) -> None:
        self.readers.pop(reader, None)

    def addWriter(self, writer: Wire) -> None:
        self.writers[writer] = None

    def removeWriter(self, writer: Wire) -> None:
        self.writers.pop(writer, None)

    def settle(self) -> None:
        """Move octets and run what is due now until nothing moves any more."""
        moved = True
        while moved:
            moved = any(call.getTime() <= self.seconds() for call in self.getDelayedCalls())
            for wire in tuple(self.writers):
                moved |= wire.write_out()
            for wire in tuple(self.readers):
                moved |= wire.deliver()
            self.advance(0)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.seconds() + seconds
        self.settle()
        while (due := [call.getTime() for call in self.getDelayedCalls() if call.getTime() <= end]) != []:
            self.advance(max(0.0, min(due) - self.seconds()))
            self.settle()
        self.advance(end - self.seconds())
        self.settle()


@implementer(ITCPTransport)
class Wire(_newtls.ConnectionMixin, FileDescriptor, _AbortingMixin, _newtls.ServerMixin):
    """The server's end of a connection.

    ``window``: how many more octets the client reads, None for all.  ``sent``: what it has read and nobody has taken.
    ``writes``: the same octets, as the pieces in which they left.  ``end``: why the connection ended.
    """

    def __init__(self, reactor: MemoryReactor, peer: object = PEER) -> None:
        super().__init__(reactor)  # type: ignore[arg-type]
        self.connected = 1
        self.window: int | None = None
        self.sent = bytearray()
        self.writes: list[bytes] = []
        self.no_delay = False
        self.end: Failure | None = None
        self.aborted = False
        self._arrived: deque[bytes] = deque()
        self._peer = peer

    def begin(self, protocol: IProtocol) -> None:
        """The connection is there."""
        self.protocol = protocol
        self.startReading()
        protocol.makeConnection(self)

    def arrive(self, segment: bytes) -> None:
        """A segment from the client; delivered when the server reads."""
        self._arrived.append(segment)

    @property
    def undelivered(self) -> int:
        """Segments that the server has not read."""
        return len(self._arrived)

    def deliver(self) -> bool:
        """Give the next segment to the protocol; return whether there was one."""
        if not self._arrived:
            return False
        self.protocol.dataReceived(self._arrived.popleft())
        return True

    def write_out(self) -> bool:
        """Write what the client takes; return whether anything happened."""
        before = len(self.writes)
        why = self.doWrite()
        if why is not None and self.end is None:
            self.connectionLost(Failure(why))
            return True
        return len(self.writes) > before

    def writeSomeData(self, data: bytes) -> int:
        taken = bytes(data if self.window is None else data[: self.window])
        if self.window is not None:
            self.window -= len(taken)
        if taken:
            self.sent += taken
            self.writes.append(taken)
        return len(taken)

    def startTLS(self, ctx: Any, normal: bool = True) -> None:
        _newtls.startTLS(self, ctx, normal, FileDescriptor)
        # Twisted takes the global reactor's clock here.
        cast(Any, self.protocol)._aggregator._clock = self.reactor

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        if self.end is not None:
            return
        self.end = reason
        super().connectionLost(reason)
        self.protocol.connectionLost(reason)

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return HERE

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpKeepAlive(self, enabled: bool) -> None:
        raise NotImplementedError

    def getTcpKeepAlive(self) -> bool:
        return False

    def loseWriteConnection(self) -> None:
        raise NotImplementedError


def whole(data: bytes) -> Iterator[bytes]:
    """One segment."""
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    """A segment for each octet."""
    return (data[place : place + 1] for place in range(len(data)))


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """``data`` cut at these places (those outside do nothing)."""
    marks = sorted({0, len(data), *(place for place in places if 0 < place < len(data))})
    return [data[start:end] for start, end in pairwise(marks)]


Cut = Callable[[bytes], Iterable[bytes]]


class Client:
    """The client's end of a connection: it sends segments and collects what comes back, in clear or in TLS."""

    def __init__(self, reactor: MemoryReactor, wire: Wire, cut: Cut = whole) -> None:
        self.wire = wire
        self.cut = cut
        self.saw_close_notify = False
        self.tls: SSL.Connection | None = None
        self._reactor = reactor
        self._received = bytearray()

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection."""
        return self.wire.end is not None

    def put(self, data: bytes) -> None:
        """Send without waiting for anything: the segments stand in the server's socket."""
        for segment in filter(None, self.cut(data)):
            if self.tls is None:
                self.wire.arrive(segment)
            else:
                self.tls.send(segment)
                self.wire.arrive(self._ciphertext())

    def send(self, data: bytes) -> None:
        """Send and let everything happen that follows from it."""
        self.put(data)
        self.settle()

    def settle(self) -> None:
        self._reactor.settle()
        self._collect()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._reactor.pass_time(seconds)
        self._collect()

    def take(self) -> bytes:
        """What has come since the last time."""
        self._collect()
        taken = bytes(self._received)
        self._received.clear()
        return taken

    def ask(self, line: bytes) -> bytes:
        """Send a line, return what comes back."""
        self.send(line + b"\r\n")
        return self.take()

    def begin_handshake(self, context: SSL.Context | None = None) -> None:
        """Put the ClientHello into the server's socket."""
        context = context or SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        self._go_on()

    def handshake(self) -> None:
        """Complete a TLS handshake."""
        self.begin_handshake()
        for _ in range(3):
            self.settle()

    def close_tls(self) -> None:
        """Answer the server's close_notify with ours."""
        assert self.tls is not None
        self.tls.shutdown()
        self.wire.arrive(self._ciphertext())
        self.settle()

    def hang_up(self, reason: type[Exception] = ConnectionLost) -> None:
        """The connection is gone."""
        self.wire.connectionLost(Failure(reason()))
        self._reactor.settle()

    def _collect(self) -> None:
        raw = bytes(self.wire.sent)
        self.wire.sent.clear()
        if self.tls is None:
            self._received += raw
            return
        if raw:
            self.tls.bio_write(raw)
        self._go_on()

    def _go_on(self) -> None:
        assert self.tls is not None
        try:
            self.tls.do_handshake()
            while True:
                self._received += self.tls.recv(1 << 15)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.saw_close_notify = True
        if octets := self._ciphertext():
            self.wire.arrive(octets)

    def _ciphertext(self) -> bytes:
        assert self.tls is not None
        octets = b""
        while True:
            try:
                octets += self.tls.bio_read(1 << 15)
            except SSL.WantReadError:
                return octets


@cache
def _tables() -> sqlite3.Connection:
    """What `empty_database` copies; nobody else gets it, so it stays empty."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for upgrade in shipped_upgrades():
        connection.executescript(upgrade.sql)
    return connection


def empty_database() -> sqlite3.Connection:
    """A database in memory with the newest schema and no mail; its transactions are the caller's.

    A copy, because running all upgrades takes thirty times as long, and thousands of tests want one.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _tables().backup(connection)
    return connection


class MemoryStore:
    """The two verbs of `mailsvc.storage.store.Store` on one sqlite connection in memory.

    ``late``: answer from the reactor.  ``held``: collect the work until `release`.  ``failure``: what everything fails
    with meanwhile.  ``room``: the octets that the disk has left.  ``calls``: the names of the functions that ran.
    ``cancelled``: of those whose answer nobody wanted any more.
    """

    def __init__(self, clock: Clock, *, late: bool = False) -> None:
        self.connection = empty_database()
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.late = late
        self.held = False
        self.failure: Exception | None = None
        self.room = 1 << 40
        self.calls: list[str] = []
        self.cancelled: list[str] = []
        self._clock = clock
        self._waiting: deque[Callable[[], None]] = deque()

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return self._do(fn.__name__, lambda txn: fn(txn, *args, **kwargs))

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return self._do(fn.__name__, lambda txn: fn(txn, *args, **kwargs))

    def has_room_for(self, octets: int) -> bool:
        return octets <= self.room

    @property
    def waiting(self) -> int:
        """How much work is held."""
        return len(self._waiting)

    def release(self, many: int = 1000) -> None:
        """Do so much of the work that is held."""
        for _ in range(min(many, len(self._waiting))):
            self._waiting.popleft()()

    def forget(self) -> None:
        """What is held is never done: whoever wanted it is dead."""
        self._waiting.clear()

    def now(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of a cursor at once, for a test's own use."""
        return fn(cast(Cursor, self.connection.cursor()), *args, **kwargs)

    def _do(self, name: str, work: Callable[[Cursor], T]) -> Deferred[T]:
        answer: Deferred[T] = Deferred(lambda _: self.cancelled.append(name))

        def run() -> None:
            self.calls.append(name)
            cursor = self.connection.cursor()
            cursor.execute("SAVEPOINT job")
            try:
                if self.failure is not None:
                    raise self.failure
                result = work(cast(Cursor, cursor))
            except Exception:
                failure = Failure()
                cursor.execute("ROLLBACK TO job")
                cursor.execute("RELEASE job")
                if not answer.called:
                    answer.errback(failure)
                return
            cursor.execute("RELEASE job")
            if not answer.called:
                answer.callback(result)

        if self.held:
            self._waiting.append(run)
        elif self.late:
            self._clock.callLater(0, run)
        else:
            run()
        return answer


@implementer(ICredentialsChecker)
class PlainChecker:
    """Compares passwords as they stand in the table: hashing has tests of its own, and takes real time."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.logins: list[Any] = []
        self.app_passwords: dict[str, int] = {}

    def requestAvatarId(self, credentials: Any) -> Deferred[AccountId]:  # type: ignore[override]
        self.logins.append(credentials)
        try:
            key = parse_address(credentials.username.decode("utf-8")).key
        except (AddressError, UnicodeDecodeError):
            key = "@"

        def judged(row: accounts.AccountRow | None) -> AccountId:
            app_password = self.app_passwords.get(credentials.password.decode("utf-8", "replace"))
            if row is not None and app_password is not None:
                return AccountId(row.id, row.address, app_credential(app_password))
            if row is None or row.disabled or row.password_hash != credentials.password.decode("utf-8", "replace"):
                raise WrongLogin
            return AccountId(row.id, row.address)

        return self._store.read(accounts.account, key).addCallback(judged)


BODY_LIMITS = BodyLimits(
    message_size=1 << 20,
    header_size=1 << 16,
    received_fields=100,
    refuse_long_lines=False,
    in_memory=4096,
    folder=None,
)


class FakePrograms:
    """Programs that ended before they began: ``ends`` says how, by their paths; ``given`` is what they got."""

    def __init__(self) -> None:
        self.ends: dict[str, Ended] = {}
        self.given: list[tuple[Program, dict[str, str], bytes]] = []

    async def run(self, program: Program, environment: Mapping[str, str], prefix: bytes, message: IO[bytes]) -> Ended:
        message.seek(0)
        self.given.append((program, dict(environment), prefix + message.read()))
        return self.ends.get(program.argv[0], Ended(0))


class MailHost:
    """A host for example.org with the accounts `ALICE` and `BOB`, whose password is `PASSWORD`.

    Trace ids are ID1, ID2, ...; the clock stands at 0 (1 January 1970) until a test lets time pass.
    """

    def __init__(self, *, late: bool = False, cut: Cut = whole, limit: int = 50) -> None:
        self.reactor = MemoryReactor()
        self.store = MemoryStore(self.reactor, late=late)
        self.sessions = Sessions(limit)
        self.patience = Patience()
        self.body = BODY_LIMITS
        self.checker = PlainChecker(self.store)
        self.maildrops = Maildrops(self.store, self.reactor)
        self.clients: list[Client] = []
        self._portal = make_portal(self.checker)
        self.readers = POP3Helpers(self.maildrops, Authenticator(self._portal))
        numbers = count(1)
        self.programs = FakePrograms()
        self.intake = Intake(
            self.store, self.reactor, HOSTNAME, programs=self.programs, new_id=lambda: f"ID{next(numbers)}"
        )
        backups = BackupRecipients(self.store, Keys(self.reactor, maybeDeferred))
        directory = TableDirectory(self.store, self.reactor, HOSTNAME, programs=True, backups=backups)
        self.helpers = Helpers(self.intake, directory, PasswordAuthenticator(self._portal))
        self.cut = cut
        self.add_user(ALICE)
        self.add_user(BOB)

    def add_user(self, address: str, password: str = PASSWORD) -> int:
        return self.store.now(accounts.add_account, parse_address(address), password, 0.0)

    def account_id(self, address: str) -> int:
        row = self.store.now(accounts.account, parse_address(address).key)
        assert row is not None
        return row.id

    def account(self, address: str, credential: str = PASSWORD_CREDENTIAL) -> Account:
        """What a login as this gives."""
        return Account(self.account_id(address), parse_address(address), credential)

    def smtp_factory(self, mode: Mode = MX, **rules: Any) -> SMTPFactory:
        made = replace(SMTPRules(mode, HOSTNAME, self.body, self.patience), **rules)
        return SMTPFactory(made, self.helpers, server_tls(), self.reactor, self.sessions)

    def pop3_factory(self, *, implicit_tls: bool = False, **rules: Any) -> POP3Factory:
        name = "pop3s" if implicit_tls else "pop3"
        made = replace(POP3Rules(name, implicit_tls, HOSTNAME, self.patience), **rules)
        return POP3Factory(made, self.readers, server_tls(), self.reactor, self.sessions)

    def connect(
        self, factory: IProtocolFactory, *, inside_tls: bool = False, peer: IAddress = PEER, window: int | None = None
    ) -> Client:
        """A connection to ``factory``; with ``inside_tls`` the handshake is the caller's."""
        if inside_tls:
            factory = ImplicitTLSFactory(server_tls(), False, factory, self.reactor)
        protocol = factory.buildProtocol(peer)
        assert protocol is not None
        wire = Wire(self.reactor, peer)
        wire.window = window
        client = Client(self.reactor, wire, self.cut)
        self.clients.append(client)
        wire.begin(protocol)
        client.settle()
        return client

    def smtp(self, mode: Mode = MX, *, window: int | None = None, **rules: Any) -> Client:
        """A fresh connection to an SMTP listener, before its first word."""
        return self.connect(self.smtp_factory(mode, **rules), inside_tls=mode.implicit_tls, window=window)

    def pop3(self, *, implicit_tls: bool = False, window: int | None = None, **rules: Any) -> Client:
        """A fresh connection to a POP3 listener, before its first word."""
        factory = self.pop3_factory(implicit_tls=implicit_tls, **rules)
        return self.connect(factory, inside_tls=implicit_tls, window=window)

    def mx_client(self, **rules: Any) -> Client:
        """A client of the MX listener that has said EHLO, without TLS, where that is optional."""
        client = self.smtp(MX_OPTIONAL, **rules)
        client.ask(b"EHLO client.example.net")
        return client

    def secured_smtp(self, mode: Mode = MX, **rules: Any) -> Client:
        """A client that has done STARTTLS and said EHLO."""
        client = self.smtp(mode, **rules)
        if not mode.implicit_tls:
            client.ask(b"STARTTLS")
        client.handshake()
        client.ask(b"EHLO client.example.net")
        return client

    def secured_pop3(self, **rules: Any) -> Client:
        """A POP3 client that has done STLS."""
        client = self.pop3(**rules)
        client.ask(b"STLS")
        client.handshake()
        client.take()
        return client

    def reader(self, address: str = ALICE, password: str = PASSWORD, *, utf8: bool = False, **rules: Any) -> Client:
        """A POP3 client that has logged in; ``utf8``: it has said UTF8 before, and gets what is stored."""
        client = self.secured_pop3(**rules)
        if utf8:
            client.ask(b"UTF8")
        client.ask(b"USER " + address.encode())
        client.ask(b"PASS " + password.encode())
        return client

    def add_device(self, label: str, address: str = ALICE) -> str:
        """Add an app password, which is its label."""
        key = parse_address(address).key
        number = self.store.now(credentials.add_app_password, key, label, "", f"digest of {label}", "", 0.0)
        self.checker.app_passwords[label] = number
        return label

    def put_message(self, octets: bytes, *addresses: str, piece: int = mailboxes.PART_LIMIT) -> int:
        """Store a message as it stands (no trace header), its body in pieces of this size."""
        scanner = MessageScanner()
        scanner.feed(octets)
        scanner.close()
        header, body = octets[: scanner.header_size], octets[scanner.header_size :]
        summary = Summary(len(octets), len(header), sha256(octets).hexdigest(), None, None, None, None)
        new = mailboxes.NewMessage("ID0", "", self.reactor.seconds(), b"", summary)
        pieces = [body[start : start + piece] for start in range(0, len(body), piece)]
        ids = [self.account_id(address) for address in addresses or (ALICE,)]
        return self.store.now(mailboxes.deliver, new, header, pieces, ids)

    def mail_of(self, address: str = ALICE) -> list[bytes]:
        """The messages of an account as they are stored, trace header and all."""
        return [
            b"".join(self._parts(self.account_id(address), item))
            for item in self.store.now(mailboxes.snapshot, self.account_id(address))
        ]

    def bodies_of(self, address: str = ALICE) -> list[bytes]:
        """The messages of an account as their senders sent them."""
        return [without_trace(message) for message in self.mail_of(address)]

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.store.connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def _parts(self, account_id: int, item: MaildropItem) -> Iterator[bytes]:
        yield from self.store.now(mailboxes.openings, account_id, [item.uid]).get(item.uid, [])

    def end(self) -> None:
        """Hang up whatever is still connected."""
        self.store.held = False
        self.store.release()
        for client in self.clients:
            if not client.is_closed:
                client.hang_up(ConnectionDone)
        self.reactor.settle()


def without_trace(message: bytes) -> bytes:
    """``message`` without the fields that the server has put in front."""
    lines = message.split(b"\r\n")
    assert lines[0].startswith(b"Return-Path: <"), lines[0]
    assert lines[1].startswith(b"Delivered-To: "), lines[1]
    assert lines[2].startswith(b"Received: from "), lines[2]
    first = 3
    # The last line of our Received field is its date.
    while not lines[first].endswith(b" +0000"):
        assert lines[first].startswith(b"\t"), lines[first]
        first += 1
    return b"\r\n".join(lines[first + 1 :])


def unstuffed(reply: bytes) -> bytes:
    """The octets of a multi-line POP3 reply: no first line, no final dot, no stuffed dots."""
    first, _, rest = reply.partition(b"\r\n")
    assert first.startswith(b"+OK"), first
    assert rest == b".\r\n" or rest.endswith(b"\r\n.\r\n"), rest[-20:]
    text = (b"\r\n" + rest)[:-3]
    return text.replace(b"\r\n.", b"\r\n")[2:]


class MailCase(SynchronousTestCase):
    """A test with hosts of its own; at its end nothing may be left: no session, no timer, no spool, no lock."""

    def setUp(self) -> None:
        self.hosts: list[MailHost] = []

    def host(self, **settings: Any) -> MailHost:
        host = MailHost(**settings)
        self.hosts.append(host)
        return host

    def tearDown(self) -> None:
        for host in self.hosts:
            self.check_end(host)

    def check_end(self, host: MailHost) -> None:
        host.end()
        left = [str(call) for call in host.reactor.getDelayedCalls()]
        self.assertEqual(left, [], "timers were left behind")
        self.assertEqual(len(host.sessions), 0, "sessions were left behind")
        self.assertEqual(host.maildrops._holds, {}, "a maildrop is still locked")
        host.store.connection.close()


def log_lines(action: Callable[[], object]) -> list[str]:
    """What is written to the log meanwhile."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        action()
    finally:
        globalLogPublisher.removeObserver(observe)
    return lines


class Silent(Protocol):
    """A protocol that does nothing."""


def storage_failure() -> StorageFailure:
    """A failure as the database reports it."""
    return StorageFailure("the disk of the database /srv/mail is full; make room and mailsvc goes on by itself")


def pieces_of(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """``data`` in pieces of these sizes, then the rest."""
    places, at = [], 0
    for size in sizes:
        at += size
        places.append(at)
    return cut_at(data, places)
