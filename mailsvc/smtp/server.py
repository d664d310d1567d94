"""The SMTP server: ``twisted.mail.smtp.ESMTP`` with its byte-facing half replaced (DESIGN section 4).

What is kept of the stock class: that it is one (for whoever embeds the factory), the greeting, the dispatch to
``do_VERB`` and ``ext_VERB`` methods, cred for the login.  What is replaced: everything that touches octets.  Lines and
bodies come from `mailsvc.wire`, what may run when from `mailsvc.smtp.session`, and every command ends in one `Reply`
that is written in one piece by `_answer`.

The hardest idea: a handler is either plain and returns its `Reply`, or ``async`` and returns it later; the conversation
takes no further command meanwhile.  So no handler ever has to ask what else is going on, and state is changed only
when the reply is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHandshakeListener, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.mail import smtp
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc import maillog
from mailsvc.accounts.login import Login
from mailsvc.accounts.realm import Account, IAccount
from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.mail.address import Address
from mailsvc.mail.channel import TLSFacts
from mailsvc.mail.envelope import Envelope, Origin
from mailsvc.mail.reply import Reply, reply
from mailsvc.smtp import sasl
from mailsvc.smtp.commands import CommandError, Mail, parse_command, parse_helo, parse_mail, parse_rcpt
from mailsvc.smtp.intake import NO_SPACE, BodyLimits, Intake, Reception
from mailsvc.smtp.modes import Mode
from mailsvc.smtp.recipients import ACCEPTED, judgement
from mailsvc.smtp.session import (
    MUST_STARTTLS,
    Session,
    after_greeting,
    after_login,
    after_mail,
    after_rcpt,
    after_starttls,
    after_transaction,
    extensions,
    refusal,
)
from mailsvc.smtp.trace import peer_literal, protocol_keyword
from mailsvc.tls.server import tls_facts
from mailsvc.wire.conversation import Conversation, Patience
from mailsvc.wire.lines import BareLineFeed, BodyEnd, BodyPiece, Event, Line, LineTooLong
from mailsvc.wire.sessions import Sessions, peer_name

_OK = reply(250, "2.0.0", "Ok")
_SENDER_OK = reply(250, "2.1.0", "Sender ok")
_GO_AHEAD = reply(354, "", "End the message with a line of one dot")
_READY_FOR_TLS = reply(220, "2.0.0", "Ready to start TLS")
_INJECTED = reply(554, "5.5.0", "Data was sent before the TLS handshake; closing", closes=True)
_NOT_VERIFIED = reply(252, "2.5.2", "Cannot VRFY user; send some mail, I will try")
_VRFY_WHOM = reply(501, "5.5.4", "Syntax: VRFY name")
_HELP = reply(214, "2.0.0", "EHLO HELO STARTTLS AUTH MAIL RCPT DATA RSET NOOP QUIT VRFY HELP", "See RFC 5321")
_LINE_TOO_LONG = reply(500, "5.5.6", "Line too long")
_BARE_LINE_FEED = reply(500, "5.5.2", "A line ends with CRLF, not with LF alone")
_LOGGED_IN = reply(235, "2.7.0", "Authentication succeeded")
_LOGIN_REFUSED = reply(535, "5.7.8", "Authentication credentials invalid")
_LOGIN_IMPOSSIBLE = reply(454, "4.7.0", "Temporary authentication failure")
_LOGIN_ABORTED = reply(501, "5.7.0", "Authentication cancelled")
_UNKNOWN_MECHANISM = reply(504, "5.5.4", "Authentication mechanism not offered")
_ACT_AS_OTHER = reply(535, "5.7.8", "Acting as another identity is not permitted")
_TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients")
_TROUBLE = reply(451, "4.3.0", "Local trouble; try again later")


Answer = Reply | Awaitable[Reply] | None
"""What a handler gives: its reply, the promise of one, or None when it has written what was to be said."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one listener holds its clients to.

    ``command_line`` and ``auth_line``: octets with CRLF.  ``errors``: refused commands before 421 ends the session.
    """

    mode: Mode
    hostname: str
    body: BodyLimits
    patience: Patience
    command_line: int = 2048
    auth_line: int = 12288
    recipients: int = 1000
    errors: int = 20


@implementer(IHandshakeListener)
class SMTPServer(smtp.ESMTP):
    """One client's session on one of the listeners."""

    factory: SMTPFactory

    def __init__(
        self,
        rules: Rules,
        intake: Intake,
        portal: Portal,
        tls: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
    ) -> None:
        smtp.ESMTP.__init__(self)
        self.host = rules.hostname.encode("ascii")
        self.conversation = Conversation(self, clock, rules.patience, rules.command_line)
        self._rules = rules
        self._intake = intake
        self._portal = portal
        self._tls = tls
        self._session = Session(rules.mode)
        self._facts: TLSFacts | None = None
        self._peer = "unknown"
        self._errors = 0
        self._exchange: sasl.Exchange | None = None
        self._mail: Mail | None = None
        self._recipients: dict[Address, int] = {}
        self._reception: Reception | None = None
        self._login: Deferred[Any] | None = None
        self._stopping = False

    # -- Twisted's side -------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet, or let the handshake come first; the stock class would start a timer of its own."""
        assert self.transport is not None
        self._peer = peer_name(self.transport.getPeer())
        maillog.connected(self._rules.mode.name, self._peer)
        self.conversation.connected(self.transport, handshake=self._rules.mode.implicit_tls)
        if not self._rules.mode.implicit_tls:
            self._greet()

    def handshakeCompleted(self) -> None:
        """TLS stands, by STARTTLS or from the first octet."""
        self._facts = tls_facts(self.transport)
        if self._facts is not None:
            maillog.secured(self._rules.mode.name, self._peer, self._facts)
        self._forget_transaction()
        self._session = after_starttls(self._session)
        self.conversation.handshake_completed()
        if self._rules.mode.implicit_tls:
            self._greet()

    def dataReceived(self, data: bytes) -> None:
        """Octets from the client."""
        self.conversation.data_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, with it a message that has not come to its end."""
        maillog.disconnected(self._rules.mode.name, self._peer, reason.getErrorMessage())
        self.conversation.connection_lost()
        if self._login is not None:
            # Nobody waits for the answer any more: give the place in the line to somebody else.
            self._login.cancel()
        # A message whose end has come is being stored: its handler has it, and discards it when it is done.
        self._forget_transaction()
        self.factory.sessions.ended(self)

    def greeting(self) -> bytes:
        """The text of the 220; like the stock class's, and without a version."""
        return f"{self._rules.hostname} ESMTP".encode("ascii")

    def _greet(self) -> None:
        self.conversation.write(reply(220, "", self.greeting().decode("ascii")).encode())

    # -- the conversation's side ----------------------------------------------------------------------------------

    def handle_event(self, event: Event) -> Coroutine[Any, Any, None] | None:
        """One line, one piece of a body, or its end."""
        match event:
            case BodyPiece(data):
                assert self._reception is not None
                self._reception.take(data)
                return None
            case Line(data):
                outcome = self._exchange_line(data) if self._exchange is not None else self._command(data)
            case BodyEnd():
                outcome = self._message_ended()
            case LineTooLong():
                self._end_exchange()
                outcome = _LINE_TOO_LONG
            case BareLineFeed():
                self._end_exchange()
                outcome = _BARE_LINE_FEED
        if outcome is None:
            return None
        if isinstance(outcome, Reply):
            self._answer(outcome)
            return None
        return self._answer_later(outcome)

    def handler_failed(self, failure: Failure) -> None:
        """Our own mistake: say 451, keep the session, and log it."""
        maillog.defect(self._rules.mode.name, self._peer, failure)
        self._end_exchange()
        if self._reception is not None:
            self._reception.fail()
        else:
            self._forget_transaction()
            self._answer(_TROUBLE)

    def patience_ended(self, waiting_for: str) -> bytes:
        """The last words to a client that let us wait."""
        maillog.refused(self._rules.mode.name, self._peer, "session", f"timed out waiting for {waiting_for}")
        return reply(421, "4.4.2", f"{self._rules.hostname} waited too long for {waiting_for}; closing").encode()

    def shut_down(self) -> None:
        """The service stops: end the session now, or as soon as what is under way has its answer."""
        self._stopping = True
        if self.conversation.idle:
            self._say_goodbye()

    def abort(self) -> None:
        """The service has no more time."""
        self.conversation.abort()

    def _say_goodbye(self) -> None:
        self.conversation.close(reply(421, "4.3.2", f"{self._rules.hostname} is shutting down").encode())

    async def _answer_later(self, outcome: Awaitable[Reply]) -> None:
        self._answer(await outcome)

    def _answer(self, answer: Reply) -> None:
        """Every command ends here, with one reply in one write."""
        # A 4xx is not the client's fault: 452 for one recipient after the other must not end in 421, or a message
        # with many recipients would never get through (RFC 5321 section 4.5.3.1.10).
        if answer.code >= 500:
            self._errors += 1
            if self._errors >= self._rules.errors and not answer.closes:
                maillog.refused(self._rules.mode.name, self._peer, "session", "too many errors")
                self.conversation.write(answer.encode())
                answer = reply(421, "4.7.0", f"{self._rules.hostname}: too many errors; closing", closes=True)
        if answer.closes:
            self.conversation.close(answer.encode())
            return
        self.conversation.write(answer.encode())
        if self._stopping and self._reception is None:
            self._say_goodbye()

    # -- commands -------------------------------------------------------------------------------------------------

    def _command(self, line: bytes) -> Answer:
        try:
            verb, argument = parse_command(line)
        except CommandError as error:
            if self._session.mode.requires_tls and not self._session.secured:
                # Before TLS a line that cannot be read is "everything else" too.
                return MUST_STARTTLS
            return error.reply
        refused = refusal(verb, argument, self._session)
        if refused is not None:
            return refused
        try:
            return self.lookupMethod(verb)(argument)
        except CommandError as error:
            return error.reply

    def lookupMethod(self, command: str) -> Callable[[str], Answer]:
        """The handler of a verb of the session table: ``do_VERB`` or ``ext_VERB``, as in the stock class."""
        handler: Callable[[str], Answer] | None = getattr(self, f"do_{command}", None)
        return handler if handler is not None else getattr(self, f"ext_{command}")

    def do_EHLO(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.1."""
        name = parse_helo(argument)
        self._forget_transaction()
        self._session = after_greeting(self._session, name, esmtp=True)
        offered = extensions(self._session, self._rules.body.message_size, tuple(sasl.MECHANISMS))
        return reply(250, "", f"{self._rules.hostname} greets {peer_literal(self._peer)}", *offered)

    def do_HELO(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.1."""
        name = parse_helo(argument)
        self._forget_transaction()
        self._session = after_greeting(self._session, name, esmtp=False)
        return reply(250, "", f"{self._rules.hostname} greets {peer_literal(self._peer)}")

    def ext_STARTTLS(self, argument: str) -> None:
        """RFC 3207.  The 220 is written by the conversation, because nothing may stand behind it."""
        pending = self.conversation.reader.pending
        if not self.conversation.start_tls(_READY_FOR_TLS.encode(), _INJECTED.encode(), self._tls):
            maillog.injection(self._rules.mode.name, self._peer, pending)

    def ext_AUTH(self, argument: str) -> Answer:
        """RFC 4954 section 4."""
        name, _, initial = argument.partition(" ")
        if name.upper() not in sasl.MECHANISMS:
            return _UNKNOWN_MECHANISM
        self._exchange = sasl.Exchange(name.upper())
        try:
            step = self._exchange.begin(sasl.decode_initial(initial.strip().encode("ascii")) if initial else None)
        except sasl.MalformedResponse as error:
            return self._malformed(error)
        return self._exchange_step(step)

    def _exchange_line(self, line: bytes) -> Answer:
        assert self._exchange is not None
        if line == b"*":
            self._end_exchange()
            return _LOGIN_ABORTED
        try:
            return self._exchange_step(self._exchange.step(sasl.decode(line)))
        except sasl.MalformedResponse as error:
            return self._malformed(error)

    def _exchange_step(self, step: sasl.Challenge | sasl.Credentials) -> Answer:
        if isinstance(step, sasl.Challenge):
            # A response may be longer than a command (RFC 4954 section 4: 12288 octets).
            self.conversation.reader.line_limit = self._rules.auth_line
            return reply(334, "", sasl.encode(step.data).decode("ascii"))
        self._end_exchange()
        return self._log_in(step)

    def _malformed(self, error: sasl.MalformedResponse) -> Reply:
        self._end_exchange()
        return reply(501, "5.5.2", f"Authentication failed: {error}")

    def _end_exchange(self) -> None:
        self._exchange = None
        self.conversation.reader.line_limit = self._rules.command_line

    async def _log_in(self, credentials: sasl.Credentials) -> Reply:
        login = Login(credentials.username, credentials.password, self._peer, "smtp")
        listener = self._rules.mode.name
        try:
            self._login = self._portal.login(login, None, IAccount)
            _, avatar, log_out = await self._login
        except UnauthorizedLogin:
            maillog.login_failed(listener, self._peer, credentials.username.decode("utf-8", "replace"))
            return _LOGIN_REFUSED
        except TemporaryFailure as error:
            maillog.unavailable(listener, self._peer, "login", error)
            return _LOGIN_IMPOSSIBLE
        log_out()
        account = cast(Account, avatar)
        if credentials.authzid not in (b"", credentials.username):
            return _ACT_AS_OTHER
        self._session = after_login(self._session, account.address)
        maillog.logged_in(listener, self._peer, str(account.address))
        return _LOGGED_IN

    def do_MAIL(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.2."""
        mail = parse_mail(
            argument,
            esmtp=self._session.esmtp,
            size_limit=self._rules.body.message_size,
            auth_offered=self._rules.mode.offers_auth,
        )
        no_room = self._intake.refusal_for_size(mail.size or 0)
        if no_room is not None:
            return no_room
        self._mail = mail
        self._recipients = {}
        self._session = after_mail(self._session)
        return _SENDER_OK

    def do_RCPT(self, argument: str) -> Answer:
        """RFC 5321 section 4.1.1.3."""
        address = parse_rcpt(argument, hostname=self._rules.hostname)
        if len(self._recipients) >= self._rules.recipients and address not in self._recipients:
            return _TOO_MANY_RECIPIENTS
        return self._judge_recipient(address)

    async def _judge_recipient(self, address: Address) -> Reply:
        try:
            facts = await self._intake.recipient(address)
        except TemporaryFailure as error:
            maillog.unavailable(self._rules.mode.name, self._peer, "recipient lookup", error)
            return _TROUBLE
        answer = judgement(facts, authenticated=self._session.login is not None)
        if answer is ACCEPTED and facts.account is not None:
            self._recipients[address] = facts.account
            self._session = after_rcpt(self._session)
        else:
            maillog.refused(self._rules.mode.name, self._peer, f"recipient <{address}>", str(answer))
        return answer

    def do_DATA(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.4."""
        try:
            self._reception = self._intake.reception(self._rules.body)
        except OSError as error:
            maillog.unavailable(self._rules.mode.name, self._peer, "taking a message", error)
            return NO_SPACE
        self.conversation.reader.read_dotted_body()
        self.conversation.await_body()
        return _GO_AHEAD

    async def _message_ended(self) -> Reply:
        reception, mail, recipients = self._reception, self._mail, self._recipients
        assert reception is not None and mail is not None
        # From here on the message is this handler's, also when the connection goes away meanwhile.
        self._reception = None
        self.conversation.body_ended()
        try:
            return await self._store(reception, mail, recipients)
        finally:
            reception.discard()
            self._forget_transaction()

    async def _store(self, reception: Reception, mail: Mail, recipients: dict[Address, int]) -> Reply:
        refused = reception.verdict()
        if refused is not None:
            maillog.refused(self._rules.mode.name, self._peer, "message", str(refused))
            return refused
        envelope = Envelope(mail.reverse_path, tuple(recipients), self._origin(), mail.body_8bit)
        try:
            trace_id = await self._intake.accept(envelope, tuple(recipients.values()), reception)
        except MailsvcError as error:
            # Also an account that was removed since RCPT: when the client tries again, RCPT will tell.
            maillog.unavailable(self._rules.mode.name, self._peer, "storing a message", error)
            return _TROUBLE
        maillog.accepted(
            trace_id, self._peer, envelope.sender, [str(recipient) for recipient in recipients], reception.scanner.size
        )
        return reply(250, "2.0.0", f"Ok: stored as {trace_id}")

    def _origin(self) -> Origin:
        session = self._session
        return Origin(self._peer, session.helo, protocol_keyword(session), self._facts, session.login)

    def do_RSET(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.5."""
        self._forget_transaction()
        return _OK

    def do_NOOP(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.9; an argument is ignored."""
        return _OK

    def do_VRFY(self, argument: str) -> Reply:
        """RFC 5321 section 3.5.3: it would tell strangers who has an account, so it tells nothing."""
        return _NOT_VERIFIED if argument else _VRFY_WHOM

    def do_HELP(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.8."""
        return _HELP

    def do_QUIT(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.10."""
        return reply(221, "2.0.0", f"{self._rules.hostname} closing connection", closes=True)

    def _forget_transaction(self) -> None:
        if self._reception is not None:
            self._reception.discard()
            self._reception = None
            self.conversation.body_ended()
        self._mail = None
        self._recipients = {}
        self._session = after_transaction(self._session)


class _Refuser(smtp.SMTP):
    """A client too many: one line, and the end."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(reply(421, "4.7.0", "Too many connections; try again later").encode())
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Nothing is read."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nothing is kept."""


class SMTPFactory(smtp.SMTPFactory):
    """Builds the sessions of one listener; ``sessions`` counts them, together with those of other listeners."""

    noisy = False

    def __init__(
        self,
        rules: Rules,
        intake: Intake,
        portal: Portal,
        tls: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
        sessions: Sessions,
    ) -> None:
        smtp.SMTPFactory.__init__(self, portal)
        self._portal = portal
        self.sessions = sessions
        self._rules = rules
        self._intake = intake
        self._tls = tls
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> SMTPServer | _Refuser | None:  # type: ignore[override]
        """A session for a new connection; one line of refusal when there are too many."""
        session = SMTPServer(self._rules, self._intake, self._portal, self._tls, self._clock)
        if not self.sessions.admit(session, peer_name(addr)):
            maillog.refused_connection(self._rules.mode.name, peer_name(addr), "too many connections")
            # Inside TLS a refusal would cost a handshake, which is what must be spared now.
            return None if self._rules.mode.implicit_tls else _Refuser()
        session.factory = self
        return session
