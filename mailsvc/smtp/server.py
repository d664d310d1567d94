"""The SMTP server: ``twisted.mail.smtp.ESMTP`` with its byte-facing half replaced (DESIGN section 4).

What is kept of the stock class: that it is one (for whoever embeds the factory), the greeting, the dispatch to
``do_VERB`` and ``ext_VERB`` methods, cred for the login.  What is replaced: everything that touches octets.  Lines and
bodies come from `mailsvc.wire`, what may run when from `mailsvc.smtp.session`, and every command ends in one `Reply`
that is written in one piece by `mailsvc.smtp.connection.SMTPConnection`.

The hardest idea: a handler is either plain and returns its `Reply`, or ``async`` and returns it later; the conversation
takes no further command meanwhile.  So no handler ever has to ask what else is going on, and state is changed only
when the reply is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.mail import smtp
from twisted.python.failure import Failure

from mailsvc.errors import TemporaryFailure
from mailsvc.mail.envelope import Origin
from mailsvc.mail.reply import Reply, reply
from mailsvc.sasl.base64 import encode
from mailsvc.smtp.commands import (
    Chunk,
    CommandError,
    Mail,
    parse_bdat,
    parse_command,
    parse_helo,
    parse_mail,
    parse_rcpt,
)
from mailsvc.smtp.connection import SMTPConnection
from mailsvc.smtp.extensions import Figures, keywords, parameters
from mailsvc.smtp.login import IMPOSSIBLE, UNKNOWN_MECHANISM, LoginDialogue, begin_login
from mailsvc.smtp.reception import NO_SPACE, Reception
from mailsvc.smtp.recipients import ACCEPTED, BOUNCES_ONLY
from mailsvc.smtp.rules import Helpers, Rules
from mailsvc.smtp.seams import (
    Challenge,
    Client,
    LoggedIn,
    LoginFailed,
)
from mailsvc.smtp.session import (
    MUST_STARTTLS,
    after_chunk,
    after_greeting,
    after_login,
    after_mail,
    after_rcpt,
    after_recognition,
    after_transaction,
    refusal,
    wants_login,
)
from mailsvc.smtp.trace import peer_literal, protocol_keyword
from mailsvc.smtp.transaction import Finisher, Transaction
from mailsvc.wire.lines import BareLineFeed, BodyEnd, BodyPiece, Event, Line, LineTooLong
from mailsvc.wire.sessions import Sessions, peer_name

_OK = reply(250, "2.0.0", "Ok")
_SENDER_OK = reply(250, "2.1.0", "Sender ok")
_GO_AHEAD = reply(354, "", "End the message with a line of one dot")
_READY_FOR_TLS = reply(220, "2.0.0", "Ready to start TLS")
_INJECTED = reply(554, "5.5.0", "Data was sent before the TLS handshake; closing", closes=True)
_NOT_VERIFIED = reply(252, "2.5.2", "Cannot VRFY user; send some mail, I will try")
_VRFY_WHOM = reply(501, "5.5.4", "Syntax: VRFY name")
_VRFY_UTF8 = reply(553, "5.6.7", "The name holds UTF-8, for which VRFY must end in SMTPUTF8")
_TOO_MANY_MESSAGES = reply(421, "4.7.0", "Too many messages in one session; connect again", closes=True)
_TOO_MANY_COMMANDS = reply(421, "4.7.0", "Too many commands in one session; connect again", closes=True)
_HELP = reply(214, "2.0.0", "EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP", "See RFC 5321")
_LINE_TOO_LONG = reply(500, "5.5.6", "Line too long")
_BARE_LINE_FEED = reply(500, "5.5.2", "A line ends with CRLF, not with LF alone")
_LOGGED_IN = reply(235, "2.7.0", "Authentication succeeded")
_TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients")
_TROUBLE = reply(451, "4.3.0", "Local trouble; try again later")

Answer = Reply | Awaitable[Reply | None] | None
"""What a handler gives: its reply, the promise of one, or None when it has written what was to be said."""


class SMTPServer(SMTPConnection):
    """One client's session on one of the listeners: what it says, and what it is told."""

    factory: SMTPFactory

    def __init__(
        self, rules: Rules, helpers: Helpers, tls: IOpenSSLServerConnectionCreator, clock: IReactorTime
    ) -> None:
        super().__init__(rules, helpers, tls, clock)
        # Only users read the reply as the verdict; a server that waits for it may give up and come again.
        hold_reply = rules.hold_reply if rules.mode.requires_login else 0.0
        self._finisher = Finisher(helpers.intake, helpers.senders, helpers.journal, hold_reply)
        self._finishing: Transaction | None = None
        self._login: LoginDialogue | None = None
        self._transaction: Transaction | None = None
        self._chunk: tuple[Chunk, Reply | None] | None = None
        self._messages = 0
        self._commands = 0

    def handle_event(self, event: Event) -> Coroutine[Any, Any, None] | None:
        """One line, one piece of a body, or its end."""
        match event:
            case BodyPiece(data):
                self._take(data)
                return None
            case Line(data):
                return self._login_line(self._login, data) if self._login is not None else self._command(data)
            case BodyEnd():
                return self._message_ended() if self._chunk is None else self._chunk_ended(*self._chunk)
            case LineTooLong():
                self._end_login()
                self._answer(_LINE_TOO_LONG)
            case BareLineFeed():
                self._end_login()
                self._answer(_BARE_LINE_FEED)
        return None

    def handler_failed(self, failure: Failure) -> None:
        """Our own mistake: say 451, keep the session, and log it."""
        self._journal.defect(self.client, failure.value or RuntimeError("unknown"))
        self._end_login()
        if self.conversation.in_body:
            if self._receiving is not None:
                self._receiving.fail()
        else:
            self._forget_transaction()
            self._answer(_TROUBLE)

    def _abandon(self) -> None:
        if self._login is not None:
            # Nobody waits for the answer any more: give the place in the line to somebody else.
            self._login.cancel()
        # A message whose end has come is being stored: its handler has it, and discards it when it is done.
        if self._finishing is not None:
            self._finishing.client_gone()
        self._forget_transaction()

    # -- commands -------------------------------------------------------------------------------------------------

    async def _command(self, line: bytes) -> None:
        verb = ""
        try:
            verb, argument = parse_command(line)
            answer = await (self.do_BDAT(argument) if verb == "BDAT" else self._permitted(verb, argument))
        except CommandError as error:
            # Before TLS a line that cannot be read is "everything else" too.
            unreadable = not verb and self._session.mode.requires_tls and not self._session.secured
            answer = MUST_STARTTLS if unreadable else error.reply
        if answer is not None:
            self._answer(answer, verb)

    async def _permitted(self, verb: str, argument: str) -> Reply | None:
        refused = await self._refusal(verb, argument)
        if refused is not None or self.conversation.lost:
            return refused
        answer = self.lookupMethod(verb)(argument)
        return answer if answer is None or isinstance(answer, Reply) else await answer

    async def _refusal(self, verb: str, argument: str) -> Reply | None:
        self._commands += 1
        if self._commands > self._rules.commands:
            return _TOO_MANY_COMMANDS
        if verb == "MAIL" and self._session.secured and wants_login(self._session):
            try:
                await self._recognise()
            except TemporaryFailure as error:
                self._journal.unavailable(self.client, "looking up a certificate", error)
                return _TROUBLE
        refused = refusal(verb, argument, self._session)
        if refused is None and self._guard is not None:
            refused = await self._guard.command(self.client, verb, argument)
            if refused is not None:
                self._journal.refused(self.client, verb, str(refused))
        return refused

    async def _recognise(self) -> None:
        """Who cannot log in may be a machine that need not; asked at each MAIL, so that none outlives its row."""
        before, machine = self._session.machine, await self._helpers.machines.recognise(self.client)
        self._session = after_recognition(self._session, machine)
        if machine is not None and machine != before:
            self._journal.noted(self.client, f"is the relay client {machine.label}, by its certificate")

    def lookupMethod(self, command: str) -> Callable[[str], Answer]:
        """The handler of a verb of the session table: ``do_VERB`` or ``ext_VERB``, as in the stock class."""
        handler: Callable[[str], Answer] | None = getattr(self, f"do_{command}", None)
        return handler if handler is not None else getattr(self, f"ext_{command}")

    def do_EHLO(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.1."""
        name = parse_helo(argument)
        self._forget_transaction()
        self._session = after_greeting(self._session, name, esmtp=True)
        offered = keywords(self._session, self._figures)
        return reply(250, "", f"{self._rules.hostname} greets {peer_literal(self._peer)}", *offered)

    def do_LHLO(self, argument: str) -> Reply:
        """RFC 2033 section 4.1."""
        return self.do_EHLO(argument)

    @property
    def _figures(self) -> Figures:
        rules = self._rules
        latest = datetime.fromtimestamp(self._helpers.intake.now + rules.hold_seconds, UTC)
        return Figures(
            rules.body.message_size,
            rules.messages,
            rules.recipients,
            self._helpers.authenticator.mechanisms(self.client),
            rules.hold_seconds,
            latest.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def do_HELO(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.1."""
        name = parse_helo(argument)
        self._forget_transaction()
        self._session = after_greeting(self._session, name, esmtp=False)
        return reply(250, "", f"{self._rules.hostname} greets {peer_literal(self._peer)}")

    def ext_STARTTLS(self, argument: str) -> None:
        """RFC 3207.  The 220 is written by the conversation, because nothing may stand behind it."""
        pending = self.conversation.reader.pending
        self._handshaking = self.conversation.start_tls(_READY_FOR_TLS.encode(), _INJECTED.encode(), self._tls)
        if not self._handshaking:
            self._journal.injection(self.client, pending)

    def ext_AUTH(self, argument: str) -> Answer:
        """RFC 4954 section 4."""
        login = begin_login(argument, self._helpers.authenticator, self.client, self)
        if login is None:
            return UNKNOWN_MECHANISM
        self._login = login
        return self._login_step(login, login.begin(argument))

    async def _login_line(self, login: LoginDialogue, line: bytes) -> None:
        self._answer(await self._login_step(login, login.line(line)), "AUTH")

    async def _login_step(self, login: LoginDialogue, step: Awaitable[Challenge | LoggedIn | LoginFailed]) -> Reply:
        try:
            outcome = await step
        except TemporaryFailure as error:
            self._end_login()
            self._journal.unavailable(self.client, "login", error)
            return IMPOSSIBLE
        if isinstance(outcome, Challenge):
            # A response may be longer than a command (RFC 4954 section 4: 12288 octets).
            self.conversation.reader.line_limit = self._rules.auth_line
            return reply(334, "", encode(outcome.data))
        self._end_login()
        if isinstance(outcome, LoginFailed):
            self._journal.login_failed(self.client, login.mechanism, outcome)
            return outcome.answer
        self._session = after_login(self._session, outcome.login, outcome.account, outcome.credential, outcome.changed)
        self._journal.logged_in(self.client, login.mechanism)
        return _LOGGED_IN

    def _end_login(self) -> None:
        self._login = None
        self.conversation.reader.line_limit = self._rules.command_line

    async def do_MAIL(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.2."""
        mail = parse_mail(
            argument,
            esmtp=self._session.esmtp,
            offered=parameters("MAIL", self._session, self._figures),
            size_limit=self._rules.body.message_size,
        )
        if self._messages >= self._rules.messages:
            return _TOO_MANY_MESSAGES
        release_at = self._release_time(mail)
        refused = self._helpers.intake.refusal_for_size(mail.size or 0)
        if refused is None:
            try:
                refused = await self._sender_refusal(mail)
            except TemporaryFailure as error:
                self._journal.unavailable(self.client, "checking the sender", error)
                return _TROUBLE
        if refused is not None:
            self._journal.refused(self.client, "MAIL", str(refused))
            return refused
        self._transaction = Transaction(mail, release_at)
        self._session = after_mail(self._session)
        return _SENDER_OK

    async def _sender_refusal(self, mail: Mail) -> Reply | None:
        if self.client.is_ours:
            return await self._helpers.senders.at_mail(self.client, mail.reverse_path)
        if self._rules.mode.for_servers:
            return await self._helpers.memory.at_mail(self.client, mail.reverse_path)
        return None

    def _release_time(self, mail: Mail) -> float | None:
        """When the message may be seen; None for at once (RFC 4865 section 4)."""
        now = self._helpers.intake.now
        release_at = mail.hold_until if mail.hold_for is None else now + mail.hold_for
        if release_at is not None and release_at > now + self._rules.hold_seconds:
            raise CommandError(reply(501, "5.5.4", f"A message is held for {self._rules.hold_seconds} s at most"))
        return None if release_at is None or release_at <= now else release_at

    async def do_RCPT(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.3."""
        transaction = self._transaction
        assert transaction is not None
        address, wish = parse_rcpt(
            argument,
            hostname=self._rules.hostname,
            esmtp=self._session.esmtp,
            offered=parameters("RCPT", self._session, self._figures),
            utf8=transaction.mail.smtputf8,
        )
        if len(transaction.recipients) >= self._rules.recipients and address not in transaction.recipients:
            return _TOO_MANY_RECIPIENTS
        refused = None if self._guard is None else await self._guard.recipient(self.client, address)
        if refused is None:
            try:
                destination = await self._helpers.directory.resolve(address, self.client, transaction.mail.size or 0)
            except TemporaryFailure as error:
                self._journal.unavailable(self.client, "recipient lookup", error)
                return _TROUBLE
            refused = destination.refusal
            if refused is None and destination.bounces_only and transaction.mail.reverse_path is not None:
                refused = BOUNCES_ONLY
        if refused is not None:
            sender = transaction.mail.reverse_path
            self._journal.recipient_refused(self.client, str(sender or ""), address, refused)
            return refused
        transaction.add(address, destination, wish)
        self._session = after_rcpt(self._session)
        return ACCEPTED

    def do_DATA(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.4."""
        refused = self._begin_reception()
        if refused is not None:
            return refused
        self.conversation.reader.read_dotted_body()
        self.conversation.await_body()
        return _GO_AHEAD

    def _begin_reception(self) -> Reply | None:
        assert self._transaction is not None
        try:
            self._transaction.reception = self._helpers.intake.reception(self._rules.body, self._helpers.bodies)
        except OSError as error:
            self._journal.unavailable(self.client, "taking a message", error)
            return NO_SPACE
        return None

    async def do_BDAT(self, argument: str) -> Reply | None:
        """RFC 3030 section 2.  Its octets come whatever we answer, so they are read also when it is refused."""
        chunk = parse_bdat(argument)
        try:
            refused = await self._refusal("BDAT", argument)
        except Exception as error:
            # The chunk must be read all the same, or its octets would be taken for commands.
            self._journal.defect(self.client, error)
            refused = _TROUBLE
        if self.conversation.lost or (refused is not None and refused.closes):
            return refused
        if refused is None and self._receiving is None:
            refused = self._begin_reception()
        if refused is None and self._receiving is not None:
            self._receiving.announce(chunk.octets)
        self._chunk = (chunk, refused)
        self.conversation.reader.read_counted_body(chunk.octets)
        self.conversation.await_body()
        return None

    async def _chunk_ended(self, chunk: Chunk, refused: Reply | None) -> None:
        self._chunk = None
        self.conversation.body_ended()
        reception = self._receiving
        if refused is None and chunk.last:
            await self._message_ended()
        elif refused is None and reception is not None:
            self._session = after_chunk(self._session)
            self._answer(reception.refusal or reply(250, "2.0.0", f"{chunk.octets} octets taken"), "BDAT")
        else:
            self._answer(refused or _TROUBLE, "BDAT")

    @property
    def _receiving(self) -> Reception | None:
        return None if self._transaction is None else self._transaction.reception

    def _take(self, piece: bytes) -> None:
        reception = self._receiving
        if reception is not None and (self._chunk is None or self._chunk[1] is None):
            reception.take(piece)

    async def _message_ended(self) -> None:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        self._finishing = transaction
        # From here on the message is this handler's, also when the connection goes away meanwhile.
        self.conversation.body_ended()
        self._messages += 1
        client = self.client
        try:
            outcome = await self._finisher.outcome(transaction, client, self._origin(transaction.mail))
        except Exception as error:
            self._journal.defect(client, error)
            outcome = _TROUBLE
        finally:
            self._finishing = None
            transaction.discard()
            self._forget_transaction()
        if not self._rules.mode.lmtp:
            assert isinstance(outcome, Reply)
            if not outcome.is_error and self._rules.mode.for_servers:
                self._helpers.memory.accepted(client, transaction.mail.reverse_path)
            self._answer(outcome, ".")
            return
        left = len(transaction.named)
        for address in transaction.named:
            left -= 1
            answer = outcome if isinstance(outcome, Reply) else outcome[address]
            answer = replace(answer, lines=(f"<{address}> {answer.lines[0]}", *answer.lines[1:]))
            self._answer(answer, ".", more=left > 0)

    def _origin(self, mail: Mail) -> Origin:
        session = self._session
        keyword = protocol_keyword(session, utf8=mail.smtputf8)
        machine = "" if session.machine is None else session.machine.label
        return Origin(self._peer, session.helo, keyword, self._facts, session.login, self._number, machine)

    def do_RSET(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.5."""
        self._forget_transaction()
        return _OK

    def do_NOOP(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.9; an argument is ignored."""
        return _OK

    def do_VRFY(self, argument: str) -> Reply:
        """RFC 5321 section 3.5.3: it would tell strangers who has an account, so it tells nothing."""
        name = argument.removesuffix(" SMTPUTF8")
        if not name.isascii() and name == argument:
            # RFC 6531 section 3.7.4.2: the parameter allows UTF-8.
            return _VRFY_UTF8
        return _NOT_VERIFIED if name else _VRFY_WHOM

    def do_HELP(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.8."""
        return _HELP

    def do_QUIT(self, argument: str) -> Reply:
        """RFC 5321 section 4.1.1.10."""
        return reply(221, "2.0.0", f"{self._rules.hostname} closing connection", closes=True)

    def _forget_transaction(self) -> None:
        self._chunk = None
        self.conversation.body_ended()
        if self._transaction is not None:
            self._transaction.discard()
            self._transaction = None
        self._session = after_transaction(self._session)


class _Refuser(smtp.SMTP):
    """A client too many: one line, and the end."""

    def __init__(self, why: str) -> None:
        smtp.SMTP.__init__(self)
        self._why = why

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(reply(421, "4.7.0", f"{self._why.capitalize()}; try again later").encode())
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
        helpers: Helpers,
        tls: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
        sessions: Sessions,
    ) -> None:
        smtp.SMTPFactory.__init__(self)
        self.sessions = sessions
        self._rules = rules
        self._helpers = helpers
        self._tls = tls
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> SMTPServer | _Refuser | None:  # type: ignore[override]
        """A session for a new connection; one line of refusal when there are too many."""
        session = SMTPServer(self._rules, self._helpers, self._tls, self._clock)
        peer = peer_name(addr)
        if not self.sessions.admit(session, peer):
            why = self.sessions.refusal(peer) or "too many connections"
            self._helpers.journal.turned_away(Client(0, self._rules.mode.name, peer), why)
            # Inside TLS a refusal would cost a handshake, which is what must be spared now.
            return None if self._rules.mode.implicit_tls else _Refuser(why)
        session.factory = self
        return session
