"""One client's connection to a POP3 listener: everything but the commands (RFC 1939 sections 3 and 6).

`POP3Connection` greets, forgets at the handshake, writes each reply in one piece, counts what must be counted, and ends
the session in every way in which one can end; also when what it has logged in with is taken back meanwhile.  The
commands are in `mailsvc.pop3.handout` (what is done with messages) and `mailsvc.pop3.server` (who is there); both are
built on this class.

The hardest idea: the maildrop's lock must come back in every case: QUIT, a lost connection, a login that succeeds after
the client has gone, deletes that are being committed when the client goes.  So the lock belongs to the
`OpenMaildrop`, the session releases it in `_leave`, and both ends of the race call that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.mail import pop3
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.accounts.realm import Account
from mailsvc.gate.manners import FOREIGN
from mailsvc.journal import ConnectionJournal, Journal
from mailsvc.mail.channel import NOT_ASKED, ClientCertificate
from mailsvc.pop3.login import LoginDialogue
from mailsvc.pop3.mailbox import Carried, OpenMaildrop
from mailsvc.pop3.rules import Rules
from mailsvc.pop3.session import State, parse_command, refusal
from mailsvc.pop3.texts import DEFAULT, Refusal, Reply, says
from mailsvc.tls.server import tls_facts
from mailsvc.wire.conversation import Conversation
from mailsvc.wire.lines import BareLineFeed, Event, Line, LineTooLong
from mailsvc.wire.sessions import peer_name

Answer = Reply | Awaitable[Reply | None] | None
"""A handler's reply; None when it has written what was to be said."""


@implementer(IHandshakeListener)
class POP3Connection(pop3.POP3):
    """The connection's half of a session."""

    factory: Any

    def __init__(
        self,
        rules: Rules,
        tls: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
        journal: Journal,
    ) -> None:
        self.conversation = Conversation(self, clock, rules.patience, rules.command_line)
        self._rules = rules
        self._tls = tls
        self._state = State.AUTHORIZATION
        self._secured = False
        self._certificate: ClientCertificate = NOT_ASKED
        self._service_journal = journal
        self._journal: ConnectionJournal = journal.connection(rules.name, "unknown")
        self._peer = "unknown"
        self._clock = clock
        self._errors = 0
        self._commands = 0
        self._language = DEFAULT
        # Whether the client takes UTF-8 in messages (RFC 6856 section 2).
        self._utf8 = False
        self._username: bytes | None = None
        self._account: Account | None = None
        self._open: OpenMaildrop | None = None
        self._retrieved = 0
        self._fetched: list[int] = []
        self._leaving = False
        self._login: Deferred[Any] | LoginDialogue | None = None
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
            self._certificate = facts.client
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
            self._tell_of_maildrop(self._account, (), None)
        self._journal.disconnected(reason.getErrorMessage())
        self.conversation.connection_lost()
        if self._login is not None:
            # Nobody waits for the answer any more: give the place in the line to somebody else.
            self._login.cancel()
        if not self._leaving:
            self._leave()
        self.factory.sessions.ended(self)

    def _tell_of_maildrop(self, account: Account, removed: Sequence[int], done: Carried | None) -> None:
        self._journal.maildrop_closed(
            str(account.address),
            account.credential,
            retrieved=self._retrieved,
            fetched=self._fetched,
            removed=removed,
            done=done,
        )

    def _greet(self) -> None:
        greeting = self._rules.greeting
        self._write(f"+OK {greeting}" if greeting else says("ready", hostname=self._rules.hostname).line())

    def _leave(self) -> None:
        maildrop, self._open = self._open, None
        if maildrop is not None:
            maildrop.release()

    # -- the conversation's side ----------------------------------------------------------------------------------

    def handle_event(self, event: Event) -> Coroutine[Any, Any, None] | None:
        """One line."""
        match event:
            case Line(data):
                outcome = self._line(data)
            case LineTooLong():
                self._end_dialogue()
                outcome = says("line_too_long")
            case BareLineFeed():
                self._end_dialogue()
                outcome = says("bare_line_feed")
            case _:
                raise AssertionError("POP3 has no bodies to read")
        if outcome is None or isinstance(outcome, Reply):
            self._answer(outcome)
            return None
        return self._answer_later(outcome)

    def handler_failed(self, failure: Failure) -> None:
        """Our own mistake: say so, keep the session, and log it."""
        self._journal.defect(failure)
        self._end_dialogue()
        self._answer(says("trouble"))

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
        self.conversation.close(self._octets(says("stopping")))

    async def _answer_later(self, outcome: Awaitable[Reply | None]) -> None:
        self._answer(await outcome)

    def _answer(self, answer: Reply | None) -> None:
        if answer is not None:
            self.conversation.write(self._octets(answer))
            if answer.is_error:
                self._journal.answered("command", answer.line())
                self._errors += 1
                if self._errors >= self._rules.errors:
                    self._end("too many errors")
                elif answer.text == "commands":
                    self._end("too many commands")
        if self._stopping:
            self._say_goodbye()

    def _end(self, why: str) -> None:
        self._journal.refused("session", why)
        self.conversation.close()

    def _octets(self, answer: Reply) -> bytes:
        """The line in the language of the session, with its end: ASCII before LANG, UTF-8 after it."""
        return answer.line(self._language).encode("utf-8") + b"\r\n"

    def _write(self, text: str) -> None:
        self.conversation.write(text.encode("utf-8") + b"\r\n")

    def _write_lines(self, first: Reply, lines: Iterable[str]) -> None:
        """A multi-line reply of bounded length, none of whose lines begins with a dot."""
        self._write("\r\n".join((first.line(self._language), *lines, ".")))

    # -- commands -------------------------------------------------------------------------------------------------

    def _line(self, line: bytes) -> Answer:
        """What a line of the client comes to: a command, here."""
        return self._command(line)

    def _end_dialogue(self) -> None:
        """What was begun with more than one line is over; here there is nothing of the kind."""

    def _command(self, line: bytes) -> Answer:
        self._commands += 1
        early = self._state is State.AUTHORIZATION
        if self._commands > (self._rules.early_commands if early else self._rules.commands):
            return says("commands")
        try:
            verb, arguments = parse_command(line)
            if verb in FOREIGN:
                self.conversation.write(self._octets(says("unknown")))
                self._end("this is a mail server, not one of the Web")
                return None
            refused = refusal(verb, len(arguments), self._state, secured=self._secured)
            if refused is not None:
                return refused
            handler: Callable[..., Answer] = getattr(self, f"do_{verb}")
            # QUIT finds out by itself, in the transaction that deletes.
            if self._open is not None and verb != "QUIT" and self._open.is_due:
                return self._if_login_holds(self._open, handler, arguments)
            return handler(*arguments)
        except Refusal as error:
            return error.reply

    async def _if_login_holds(
        self, maildrop: OpenMaildrop, handler: Callable[..., Answer], arguments: Sequence[bytes]
    ) -> Reply | None:
        """Carry out a command, unless the login that it rests on is over."""
        holds = await maildrop.login_holds()
        if self.conversation.lost or self.conversation.closing:
            return None
        if not holds:
            last_words = says("login_ended")
            self._journal.refused("session", last_words.line())
            self._leave()
            self.conversation.close(self._octets(last_words))
            return None
        try:
            outcome = handler(*arguments)
        except Refusal as error:
            return error.reply
        return outcome if outcome is None or isinstance(outcome, Reply) else await outcome
