"""The POP3 server: ``twisted.mail.pop3.POP3`` with its byte-facing half replaced (DESIGN section 4; RFC 1939).

As in `mailsvc.smtp.server`, the stock class gives its name, the dispatch to ``do_VERB`` and cred; lines come from
`mailsvc.wire`, the rules from `mailsvc.pop3.session` and `mailsvc.pop3.maildrop`.  A handler returns the whole reply,
or is ``async`` and writes a long one in pieces.  Here are the commands about the session itself: who is there, what can
be done, and its end; those about messages are in `mailsvc.pop3.handout`, the connection in `mailsvc.pop3.connection`.
"""

from __future__ import annotations

from typing import cast

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory

from mailsvc.accounts.login import Login
from mailsvc.accounts.realm import Account, IAccount
from mailsvc.errors import TemporaryFailure
from mailsvc.journal import Journal
from mailsvc.pop3.connection import Answer
from mailsvc.pop3.handout import Handout
from mailsvc.pop3.mailbox import MaildropInUse, Maildrops, OpenMaildrop
from mailsvc.pop3.rules import Rules
from mailsvc.pop3.session import State, capabilities
from mailsvc.wire.sessions import Sessions, peer_name


class POP3Server(Handout):
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
        super().__init__(rules, tls, clock, journal)
        self._maildrops = maildrops
        self._portal = portal

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
            removed = [maildrop.messages.message_id(number) for number in maildrop.messages.marked]
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
