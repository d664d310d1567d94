"""The POP3 server: ``twisted.mail.pop3.POP3`` with its byte-facing half replaced (DESIGN section 4; RFC 1939).

As in `mailsvc.smtp.server`, the stock class gives its name, the dispatch to ``do_VERB`` and cred; lines come from
`mailsvc.wire`, the rules from `mailsvc.pop3.session` and `mailsvc.pop3.maildrop`.  A handler returns the whole reply,
or is ``async`` and writes a long one in pieces.  Here are the commands about the session itself: who is there, what can
be done, and its end; those about messages are in `mailsvc.pop3.handout`, the connection in `mailsvc.pop3.connection`.

The hardest idea: USER and PASS, and every mechanism of AUTH, come together in `_log_in`.  The same account, limits and
maildrop follow from all of them, and every failure goes through `mailsvc.pop3.login.failure_reply`, so that there is
one place to look at for what a stranger may learn.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory

from mailsvc.accounts.login import Login
from mailsvc.accounts.realm import Account, IAccount
from mailsvc.errors import TemporaryFailure
from mailsvc.journal import Journal
from mailsvc.pop3.connection import Answer
from mailsvc.pop3.handout import Handout
from mailsvc.pop3.login import FAILURES, LoginDialogue, failure_reply
from mailsvc.pop3.mailbox import LoginEnded, MaildropInUse, OpenMaildrop
from mailsvc.pop3.rules import Helpers, Rules
from mailsvc.pop3.session import Offer, State, capabilities
from mailsvc.pop3.texts import LANGUAGES, Refusal, Reply, language_for, says
from mailsvc.sasl.base64 import encode
from mailsvc.sasl.exchange import Challenge, Channel, UnknownMechanism
from mailsvc.tls.identity import proven_key
from mailsvc.tls.server import channel_binding
from mailsvc.wire.sessions import Sessions, peer_name


class POP3Server(Handout):
    """One client's session."""

    factory: POP3Factory  # type: ignore[assignment]

    def __init__(
        self,
        rules: Rules,
        helpers: Helpers,
        tls: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
        journal: Journal,
    ) -> None:
        super().__init__(rules, tls, clock, journal)
        self._helpers = helpers
        self._dialogue: LoginDialogue | None = None
        self._admitted: int | None = None

    def do_CAPA(self) -> None:
        """RFC 2449 section 5."""
        admission, channel = self._helpers.admission, self._channel()
        mechanisms = self._helpers.authenticator.mechanisms(channel)
        expire = self._helpers.maildrops.expiry if self._open is None else self._open.expiry
        offer = Offer(mechanisms, expire, admission.delay, self._rules.implementation)
        self._write_lines(says("capabilities"), capabilities(offer, secured=self._secured))

    def do_LANG(self, wish: bytes | None = None) -> Reply | None:
        """RFC 6856 section 3.2."""
        if wish is None:
            self._write_lines(says("languages"), (f"{tag} {name}" for tag, name in LANGUAGES.items()))
            return None
        language = language_for(wish.decode("ascii", "replace"), self._rules.language)
        if language is None:
            return says("no_language")
        self._language = language
        return says("language", data=language)

    def do_UTF8(self) -> Reply:
        """RFC 6856 section 2.1."""
        self._utf8 = True
        return says("utf8")

    def do_STLS(self) -> None:
        """RFC 2595 section 4."""
        pending = self.conversation.reader.pending
        go_ahead, injected = self._octets(says("begin_tls")), self._octets(says("injected"))
        if not self.conversation.start_tls(go_ahead, injected, self._tls):
            self._journal.injected(pending)
        else:
            self._journal.handshake_begun()

    def do_QUIT(self) -> Answer:
        """RFC 1939 sections 4 and 6: the deletes are committed before +OK is said."""
        if self._open is None:
            self.conversation.close(self._octets(says("bye")))
            return None
        return self._update(self._open)

    async def _update(self, maildrop: OpenMaildrop) -> None:
        self._leaving = True
        last_words = says("bye")
        try:
            await maildrop.commit()
        except LoginEnded as error:
            last_words = says("login_ended")
            self._journal.refused("deleting", f"{last_words.line()}: {error}")
        except TemporaryFailure as error:
            self._journal.unavailable("deleting messages", error)
            last_words = says("not_removed")
        finally:
            self._leave()
            assert self._account is not None, "nobody else has a maildrop"
            # Also what was done before it failed: somebody will ask where these messages are.
            self._tell_of_maildrop(self._account, maildrop.removed, maildrop.carried)
        self.conversation.close(self._octets(last_words))

    # -- logging in -----------------------------------------------------------------------------------------------

    def do_USER(self, name: bytes) -> Reply:
        """RFC 1939 section 7: the same answer for every name, which may be UTF-8 (RFC 6856 section 2.2)."""
        self._username = name
        return says("password")

    def do_PASS(self, password: bytes) -> Answer:
        """RFC 1939 section 7; the password is the rest of the line, spaces and all."""
        username, self._username = self._username, None
        if username is None:
            return says("user_first")
        return self._log_in_with(Login(username, password, self._peer, "pop3"))

    async def _log_in_with(self, login: Login) -> Reply | None:
        try:
            self._login = self._helpers.authenticator.portal.login(login, None, IAccount)
            _, avatar, log_out = await self._login
        except FAILURES as error:
            return self._refused(error, login.username.decode("utf-8", "replace"), "USER")
        log_out()
        return await self._log_in(cast(Account, avatar), "USER")

    def do_AUTH(self, mechanism: bytes | None = None, initial: bytes | None = None) -> Answer:
        """RFC 5034 section 4; alone it lists the mechanisms, as servers did before there was CAPA."""
        self._username = None
        if mechanism is None:
            offered = self._helpers.authenticator.mechanisms(self._channel())
            self._write_lines(says("mechanisms"), offered)
            return None
        try:
            exchange = self._helpers.authenticator.begin(mechanism.decode("ascii", "replace"), self._channel())
        except UnknownMechanism:
            return says("mechanism")
        self._login = self._dialogue = dialogue = LoginDialogue(exchange)
        return self._step(dialogue, dialogue.begin(initial))

    def _channel(self) -> Channel:
        binding = channel_binding(self.transport) if self._secured else None
        # One that may stand for nothing is none, and EXTERNAL is not offered.
        certificate = self._certificate if proven_key(self._certificate) else None
        return Channel("pop3", self._peer, self._secured, binding, certificate)

    def _line(self, line: bytes) -> Answer:
        if self._dialogue is not None:
            return self._step(self._dialogue, self._dialogue.line(line))
        return super()._line(line)

    def _end_dialogue(self) -> None:
        self._dialogue = None
        self.conversation.reader.line_limit = self._rules.command_line

    async def _step(self, dialogue: LoginDialogue, step: Awaitable[Challenge | Account]) -> Reply | None:
        try:
            outcome = await step
        except FAILURES as error:
            self._end_dialogue()
            return self._refused(error, dialogue.name, dialogue.mechanism)
        if isinstance(outcome, Challenge):
            # A response may be longer than a command.
            self.conversation.reader.line_limit = self._rules.auth_line
            self._write(f"+ {encode(outcome.data)}")
            return None
        self._end_dialogue()
        return await self._log_in(outcome, dialogue.mechanism)

    def _refused(self, error: Exception, name: str, mechanism: str) -> Reply:
        answer = failure_reply(error)
        if isinstance(error, TemporaryFailure):
            self._journal.unavailable("login", error)
        else:
            why = "" if answer.text == "wrong_login" else str(error)
            self._journal.login_failed(name, mechanism, answer.line(), why)
        return answer

    async def _log_in(self, account: Account, mechanism: str) -> Reply | None:
        """Somebody is who he says he is: open his maildrop, if he may have a session now."""
        try:
            maildrop = await self._enter(account)
        except (MaildropInUse, Refusal) as error:
            answer = error.reply if isinstance(error, Refusal) else says("in_use")
            self._journal.refused("maildrop", answer.line(), recipients=(str(account.address),))
            return answer
        except FAILURES as error:
            return self._refused(error, str(account.address), mechanism)
        if self.conversation.lost or self.conversation.closing:
            maildrop.release()
            self._leave()
            return None
        now = self._clock.seconds()
        self._helpers.admission.begun(account.id, account.credential, now, by_device=maildrop.by_device)
        self._open, self._account = maildrop, account
        self._state = State.TRANSACTION
        self._commands = 0
        self._journal.logged_in(str(account.address), mechanism)
        return says("maildrop", messages=maildrop.messages.count, octets=maildrop.messages.octets)

    async def _enter(self, account: Account) -> OpenMaildrop:
        self._helpers.admission.enter(account.id, account.credential, self._clock.seconds())
        self._admitted = account.id
        try:
            return await self._helpers.maildrops.open(account, utf8=self._utf8)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        super()._leave()
        admitted, self._admitted = self._admitted, None
        if admitted is not None:
            self._helpers.admission.leave(admitted)


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
        helpers: Helpers,
        tls: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
        sessions: Sessions,
        journal: Journal | None = None,
    ) -> None:
        self.sessions = sessions
        self._journal = journal or Journal(None, clock)
        self._rules = rules
        self._helpers = helpers
        self._tls = tls
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A session for a new connection; one line of refusal when there are too many."""
        session = POP3Server(self._rules, self._helpers, self._tls, self._clock, self._journal)
        peer = peer_name(addr)
        if not self.sessions.admit(session, peer):
            why = self.sessions.refusal(peer) or "too many connections"
            self._journal.turned_away(self._rules.name, peer, why)
            # Inside TLS a refusal would cost a handshake, which is what must be spared now.
            return None if self._rules.implicit_tls else _Refuser(why)
        session.factory = self
        return session
