"""The POP3 server: ``twisted.mail.pop3.POP3`` with its byte-facing half replaced (DESIGN section 4; RFC 1939).

As in `mailsvc.smtp.server`, the stock class gives its name, the dispatch to ``do_VERB`` and cred; lines come from
`mailsvc.wire`, the rules from `mailsvc.pop3.session` and `mailsvc.pop3.maildrop`.  A handler returns the whole reply,
or is ``async`` and writes a long one in pieces, waiting whenever the client has not read the last ones.

The hardest idea: the maildrop's lock must come back in every case: QUIT, a lost connection, a login that succeeds after
the client has gone, deletes that are being committed when the client goes.  So the lock belongs to the
`OpenMaildrop`, the session releases it in `_leave`, and both ends of the race call that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHandshakeListener, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.mail import pop3
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.accounts.login import Login
from mailsvc.accounts.realm import Account, IAccount
from mailsvc.errors import TemporaryFailure
from mailsvc.journal import ConnectionJournal, Journal
from mailsvc.mail.event import LIST_LIMIT
from mailsvc.pop3.mailbox import MaildropInUse, Maildrops, OpenMaildrop
from mailsvc.pop3.maildrop import Maildrop, NoSuchMessage
from mailsvc.pop3.session import CommandError, State, capabilities, parse_command, refusal
from mailsvc.storage.mailboxes import MaildropItem
from mailsvc.tls.server import tls_facts
from mailsvc.wire.conversation import Conversation, Patience
from mailsvc.wire.lines import BareLineFeed, Event, Line, LineTooLong, stuffed
from mailsvc.wire.sessions import Sessions, peer_name

_LINES_AT_ONCE = 500
"""So many lines of a listing are written before the client must have read the earlier ones."""

Answer = str | Awaitable[str | None] | None
"""A handler's reply without its line end; None when it has written what was to be said."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one listener holds its clients to; ``command_line`` in octets with CRLF, ``errors`` before it ends."""

    name: str
    implicit_tls: bool
    hostname: str
    patience: Patience
    command_line: int = 2048
    errors: int = 20


@implementer(IHandshakeListener)
class POP3Server(pop3.POP3):
    """One client's session."""

    factory: POP3Factory  # type: ignore[assignment]

    def __init__(
        self,
        rules: Rules,
        maildrops: Maildrops,
        portal: Portal,
        tls: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
        journal: Journal,
    ) -> None:
        self.conversation = Conversation(self, clock, rules.patience, rules.command_line)
        self._rules = rules
        self._maildrops = maildrops
        self._portal = portal
        self._tls = tls
        self._state = State.AUTHORIZATION
        self._secured = False
        self._service_journal = journal
        self._journal: ConnectionJournal = journal.connection(rules.name, "unknown")
        self._peer = "unknown"
        self._errors = 0
        self._username: bytes | None = None
        self._account: Account | None = None
        self._open: OpenMaildrop | None = None
        self._retrieved = 0
        self._fetched: list[int] = []
        self._leaving = False
        self._login: Deferred[Any] | None = None
        self._stopping = False

    # -- Twisted's side -------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet, or let the handshake come first."""
        assert self.transport is not None
        self._peer = peer_name(self.transport.getPeer())
        self._journal = self._service_journal.connection(self._rules.name, self._peer)
        self._journal.connected()
        if self._rules.implicit_tls:
            self._journal.handshake_begun()
        self.conversation.connected(self.transport, handshake=self._rules.implicit_tls)
        if not self._rules.implicit_tls:
            self._greet()

    def handshakeCompleted(self) -> None:
        """TLS stands, by STLS or from the first octet; what was said in clear is forgotten (RFC 2595 section 4)."""
        facts = tls_facts(self.transport)
        if facts is not None:
            self._journal.secured(facts)
        self._secured = True
        self._username = None
        self.conversation.handshake_completed()
        if self._rules.implicit_tls:
            self._greet()

    def dataReceived(self, data: bytes) -> None:
        """Octets from the client."""
        self.conversation.data_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: marks are dropped, nothing is deleted (RFC 1939 section 6)."""
        if self._account is not None and not self._leaving:
            self._tell_of_maildrop(self._account, (), orderly=False)
        self._journal.disconnected(reason.getErrorMessage())
        self.conversation.connection_lost()
        if self._login is not None:
            # Nobody waits for the answer any more: give the place in the line to somebody else.
            self._login.cancel()
        if not self._leaving:
            self._leave()
        self.factory.sessions.ended(self)

    def _tell_of_maildrop(self, account: Account, removed: Sequence[int], *, orderly: bool, deleted: int = 0) -> None:
        self._journal.maildrop_closed(
            str(account.address),
            retrieved=self._retrieved,
            deleted=deleted,
            orderly=orderly,
            fetched=self._fetched,
            removed=removed,
        )

    def _greet(self) -> None:
        self._write(f"+OK {self._rules.hostname} POP3 ready")

    def _leave(self) -> None:
        maildrop, self._open = self._open, None
        if maildrop is not None:
            maildrop.release()

    # -- the conversation's side ----------------------------------------------------------------------------------

    def handle_event(self, event: Event) -> Coroutine[Any, Any, None] | None:
        """One line."""
        match event:
            case Line(data):
                outcome = self._command(data)
            case LineTooLong():
                outcome = "-ERR the line is too long"
            case BareLineFeed():
                outcome = "-ERR a line ends with CRLF, not with LF alone"
            case _:
                raise AssertionError("POP3 has no bodies to read")
        if outcome is None or isinstance(outcome, str):
            self._answer(outcome)
            return None
        return self._answer_later(outcome)

    def handler_failed(self, failure: Failure) -> None:
        """Our own mistake: say so, keep the session, and log it."""
        self._journal.defect(failure)
        self._answer("-ERR [SYS/TEMP] local trouble; try again later")

    def patience_ended(self, waiting_for: str) -> bytes:
        """The last words to a client that let us wait: none, RFC 1939 section 3 wants the connection closed without."""
        self._journal.refused("session", f"timed out waiting for {waiting_for}")
        return b""

    def shut_down(self) -> None:
        """The service stops: end the session now, or as soon as what is under way has its answer."""
        self._stopping = True
        if self.conversation.idle:
            self._say_goodbye()

    def abort(self) -> None:
        """The service has no more time."""
        self.conversation.abort()

    def _say_goodbye(self) -> None:
        self.conversation.close(b"-ERR [SYS/TEMP] the service is shutting down; nothing is deleted\r\n")

    async def _answer_later(self, outcome: Awaitable[str | None]) -> None:
        self._answer(await outcome)

    def _answer(self, answer: str | None) -> None:
        if answer is not None:
            self._write(answer)
            if answer.startswith("-ERR"):
                self._journal.answered("command", answer)
                self._errors += 1
                if self._errors >= self._rules.errors:
                    self._journal.refused("session", "too many errors")
                    self.conversation.close()
        if self._stopping:
            self._say_goodbye()

    def _write(self, answer: str) -> None:
        # Nothing of the client's own words is in a reply, so that ASCII is sure.
        self.conversation.write(answer.encode("ascii") + b"\r\n")

    # -- commands -------------------------------------------------------------------------------------------------

    def _command(self, line: bytes) -> Answer:
        try:
            verb, arguments = parse_command(line)
            refused = refusal(verb, len(arguments), self._state, secured=self._secured)
            if refused is not None:
                return f"-ERR {refused}"
            handler: Callable[..., Answer] = getattr(self, f"do_{verb}")
            return handler(*arguments)
        except (CommandError, NoSuchMessage) as error:
            return f"-ERR {error}"

    def do_CAPA(self) -> str:
        """RFC 2449 section 5."""
        lines = capabilities(self._state, secured=self._secured)
        return "\r\n".join(("+OK capabilities follow", *lines, "."))

    def do_STLS(self) -> None:
        """RFC 2595 section 4."""
        pending = self.conversation.reader.pending
        if not self.conversation.start_tls(
            b"+OK begin TLS\r\n", b"-ERR data was sent before the TLS handshake; closing\r\n", self._tls
        ):
            self._journal.injected(pending)
        else:
            self._journal.handshake_begun()

    def do_QUIT(self) -> Answer:
        """RFC 1939 sections 4 and 6: the deletes are committed before +OK is said."""
        if self._open is None:
            self.conversation.close(b"+OK bye\r\n")
            return None
        return self._update(self._open)

    async def _update(self, maildrop: OpenMaildrop) -> None:
        self._leaving = True
        last_words = b"+OK bye\r\n"
        try:
            removed = [item.message_id for item in maildrop.messages.marked]
            deleted = await maildrop.commit()
            account = self._account
            assert account is not None
            self._tell_of_maildrop(account, removed, orderly=True, deleted=deleted)
        except TemporaryFailure as error:
            self._journal.unavailable("deleting messages", error)
            last_words = b"-ERR [SYS/TEMP] some deleted messages are not removed\r\n"
        finally:
            self._leave()
        self.conversation.close(last_words)

    def do_USER(self, name: bytes) -> str:
        """RFC 1939 section 7: the same answer for every name."""
        self._username = name
        return "+OK now the password"

    def do_PASS(self, password: bytes) -> Answer:
        """RFC 1939 section 7; the password is the rest of the line, spaces and all."""
        username, self._username = self._username, None
        if username is None:
            return "-ERR send USER first"
        return self._log_in(Login(username, password, self._peer, "pop3"))

    async def _log_in(self, login: Login) -> str | None:
        try:
            self._login = self._portal.login(login, None, IAccount)
            _, avatar, log_out = await self._login
            log_out()
            account = cast(Account, avatar)
            maildrop = await self._maildrops.open(account.id)
        except UnauthorizedLogin:
            answer = "-ERR [AUTH] the name or the password is wrong"
            self._journal.login_failed(login.username.decode("utf-8", "replace"), "USER", answer)
            return answer
        except MaildropInUse as error:
            answer = f"-ERR [IN-USE] {error}"
            self._journal.refused("maildrop", answer, recipients=(str(account.address),))
            return answer
        except TemporaryFailure as error:
            self._journal.unavailable("login", error)
            return "-ERR [SYS/TEMP] login is not possible now; try again later"
        if self.conversation.lost or self.conversation.closing:
            maildrop.release()
            return None
        self._open, self._account = maildrop, account
        self._state = State.TRANSACTION
        self._journal.logged_in(str(account.address), "USER")
        return f"+OK {maildrop.messages.count} messages, {maildrop.messages.octets} octets"

    @property
    def _maildrop(self) -> OpenMaildrop:
        assert self._open is not None, "the session table lets no command in here before login"
        return self._open

    @property
    def _messages(self) -> Maildrop[MaildropItem]:
        return self._maildrop.messages

    def do_STAT(self) -> str:
        """RFC 1939 section 5."""
        return f"+OK {self._messages.count} {self._messages.octets}"

    def do_LIST(self, argument: bytes | None = None) -> Answer:
        """RFC 1939 section 5."""
        messages = self._messages
        if argument is not None:
            number = messages.number(argument)
            return f"+OK {number} {messages.item(number).size}"
        first = f"+OK {messages.count} messages, {messages.octets} octets"
        return self._list(first, (f"{number} {item.size}" for number, item in messages.listing()))

    def do_UIDL(self, argument: bytes | None = None) -> Answer:
        """RFC 1939 section 7."""
        messages = self._messages
        if argument is not None:
            number = messages.number(argument)
            return f"+OK {number} {messages.item(number).uidl}"
        return self._list("+OK", (f"{number} {item.uidl}" for number, item in messages.listing()))

    async def _list(self, first: str, lines: Iterable[str]) -> None:
        block = [first]
        for line in lines:
            block.append(line)
            if len(block) == _LINES_AT_ONCE:
                self._write("\r\n".join(block))
                block = []
                await self.conversation.drained()
        block.append(".")
        self._write("\r\n".join(block))

    def do_RETR(self, argument: bytes) -> Answer:
        """RFC 1939 section 5: the octets that were stored, with dots stuffed."""
        number = self._messages.number(argument)
        return self._send(number, f"+OK {self._messages.item(number).size} octets", None)

    def do_TOP(self, argument: bytes, lines: bytes) -> Answer:
        """RFC 1939 section 7: the header, the empty line, and so many lines of the body."""
        number = self._messages.number(argument)
        if not (lines.isdigit() and len(lines) <= 10):
            return "-ERR a number of lines is needed"
        return self._send(number, "+OK top of message follows", int(lines))

    async def _send(self, number: int, first: str, body_lines: int | None) -> str | None:
        """Write message ``number`` whole, or its header and ``body_lines`` lines of its body."""
        begun = False
        at_line_start = True
        try:
            async for piece in self._maildrop.content(number):
                if begun and body_lines is not None:
                    piece, body_lines = _first_lines(piece, body_lines)
                octets = stuffed(piece, at_line_start)
                # One write for the status line and the header: small messages leave in one segment.
                self.conversation.write(octets if begun else first.encode("ascii") + b"\r\n" + octets)
                begun = True
                at_line_start = piece.endswith(b"\n") if piece else at_line_start
                await self.conversation.drained()
                if body_lines == 0:
                    break
        except TemporaryFailure as error:
            self._journal.unavailable("reading a message", error)
            if not begun:
                return "-ERR [SYS/TEMP] the message cannot be read now; try again later"
            # Inside a message there is no way to say "error": a cut connection is the only honest end.
            self.conversation.abort()
            return None
        self.conversation.write(b".\r\n" if at_line_start else b"\r\n.\r\n")
        if body_lines is None:
            self._retrieved += 1
            if len(self._fetched) < LIST_LIMIT:
                self._fetched.append(self._messages.item(number).message_id)
        return None

    def do_DELE(self, argument: bytes) -> str:
        """RFC 1939 section 5."""
        number = self._messages.number(argument)
        self._messages.delete(number)
        return f"+OK message {number} deleted"

    def do_RSET(self) -> str:
        """RFC 1939 section 5."""
        self._messages.reset()
        return f"+OK {self._messages.count} messages, {self._messages.octets} octets"

    def do_NOOP(self) -> str:
        """RFC 1939 section 5."""
        return "+OK"


def _first_lines(piece: bytes, lines: int) -> tuple[bytes, int]:
    """The first ``lines`` lines of ``piece``, and how many of them are still missing."""
    end = 0
    while lines:
        found = piece.find(b"\n", end)
        if found < 0:
            return piece, lines
        end = found + 1
        lines -= 1
    return piece[:end], 0


class _Refuser(Protocol):
    """A client too many: one line, and the end."""

    def __init__(self, why: str) -> None:
        self._why = why

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(f"-ERR [SYS/TEMP] {self._why}; try again later\r\n".encode("ascii"))
        self.transport.loseConnection()


class POP3Factory(ServerFactory):
    """Builds the sessions of one listener; ``sessions`` counts them, together with those of other listeners."""

    noisy = False

    def __init__(
        self,
        rules: Rules,
        maildrops: Maildrops,
        portal: Portal,
        tls: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
        sessions: Sessions,
        journal: Journal | None = None,
    ) -> None:
        self.sessions = sessions
        self._journal = journal or Journal(None, clock)
        self._rules = rules
        self._maildrops = maildrops
        self._portal = portal
        self._tls = tls
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A session for a new connection; one line of refusal when there are too many."""
        session = POP3Server(self._rules, self._maildrops, self._portal, self._tls, self._clock, self._journal)
        peer = peer_name(addr)
        if not self.sessions.admit(session, peer):
            why = self.sessions.refusal(peer) or "too many connections"
            self._journal.turned_away(self._rules.name, peer, why)
            # Inside TLS a refusal would cost a handshake, which is what must be spared now.
            return None if self._rules.implicit_tls else _Refuser(why)
        session.factory = self
        return session
