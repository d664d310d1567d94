"""One client's connection to an SMTP listener: everything but the commands (RFC 5321 sections 3.1, 3.8 and 4.2).

`SMTPConnection` greets, wipes the slate at the handshake, writes each reply in one piece, counts what must be counted,
and ends the session in every way in which one can end.  What the client says is for `mailsvc.smtp.server`, which fills
in the three methods at the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any

from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.mail import smtp
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.mail.channel import TLSFacts
from mailsvc.mail.reply import Reply, reply
from mailsvc.smtp.rules import Helpers, Rules
from mailsvc.smtp.seams import (
    Client,
    Guard,
)
from mailsvc.smtp.session import (
    Session,
    after_starttls,
)
from mailsvc.tls.server import keying_material, tls_facts
from mailsvc.wire.conversation import Conversation
from mailsvc.wire.lines import Event
from mailsvc.wire.sessions import peer_name

_TOO_OLD = reply(421, "4.4.2", "The session has lasted too long; connect again", closes=True)


@lru_cache(64)
def _greeting(text: bytes) -> bytes:
    """The 220; always the same, and said to every scanner that comes by."""
    return reply(220, "", text.decode("ascii")).encode()


@implementer(IHandshakeListener)
class SMTPConnection(smtp.ESMTP):
    """The connection's half of a session; `mailsvc.smtp.server.SMTPServer` is the other."""

    factory: Any

    def __init__(
        self, rules: Rules, helpers: Helpers, tls: IOpenSSLServerConnectionCreator, clock: IReactorTime
    ) -> None:
        smtp.ESMTP.__init__(self)
        self.host = rules.hostname.encode("ascii")
        self.conversation = Conversation(self, clock, rules.patience, rules.command_line)
        self._rules = rules
        self._helpers = helpers
        self._journal = helpers.journal
        self._tls = tls
        self._number = secrets.randbits(63)
        self._session = Session(rules.mode)
        self._facts: TLSFacts | None = None
        self._peer = "unknown"
        self._guard: Guard | None = None
        self._errors = 0
        self._handshaking = False
        self._clock = clock
        self._age: IDelayedCall | None = None
        self._last_words: Reply | None = None
        self._stopping = False
        self._told: tuple[Session, TLSFacts | None, str, Client] | None = None

    @property
    def client(self) -> Client:
        """All that is known of the other end now."""
        session = self._session
        # Asked for at least once for each command, and nearly always the same.
        if self._told is not None and self._told[0] is session:
            _, facts, peer, told = self._told
            if facts is self._facts and peer is self._peer:
                return told
        client = Client(
            self._number,
            self._rules.mode.name,
            self._peer,
            session.helo,
            self._facts,
            session.login,
            session.account,
            session.credential,
            session.changed,
            session.machine,
        )
        self._told = session, self._facts, self._peer, client
        return client

    # -- Twisted's side -------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet, or let the handshake come first; the stock class would start a timer of its own."""
        assert self.transport is not None
        self._peer = peer_name(self.transport.getPeer())
        self.conversation.connected(self.transport, handshake=self._rules.mode.implicit_tls)
        admitted = self._helpers.gate.admit(self.client)
        if isinstance(admitted, Reply):
            self._journal.turned_away(self.client, str(admitted))
            if self._rules.mode.implicit_tls:
                # To say it would cost a handshake, which is what must be spared now.
                self.conversation.abort()
            else:
                self.conversation.close(admitted.encode())
            return
        self._guard = admitted
        self._handshaking = self._rules.mode.implicit_tls
        self._journal.connected(self.client)
        self._age = self._clock.callLater(self._rules.session_seconds, self._too_old)
        if not self._rules.mode.implicit_tls:
            self.conversation.run(self._greet(admitted))

    def handshakeCompleted(self) -> None:
        """TLS stands, by STARTTLS or from the first octet."""
        self._facts = tls_facts(self.transport)
        self._handshaking = False
        self._journal.secured(self.client)
        self._abandon()
        self._session = after_starttls(self._session)
        self.conversation.handshake_completed()
        if self._rules.mode.implicit_tls and self._guard is not None:
            self.conversation.run(self._greet(self._guard))

    def dataReceived(self, data: bytes) -> None:
        """Octets from the client."""
        self.conversation.data_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, with it a message that has not come to its end."""
        if self._handshaking:
            self._journal.handshake_failed(self.client, reason.getErrorMessage())
        if self._guard is not None:
            self._journal.disconnected(self.client, reason.getErrorMessage())
        self.conversation.connection_lost()
        self._abandon()
        if self._guard is not None:
            self._guard.ended(self.client)
        if self._age is not None and self._age.active():
            self._age.cancel()
        self.factory.sessions.ended(self)

    def greeting(self) -> bytes:
        """The text of the 220; like the stock class's, and without a version."""
        return f"{self._rules.hostname} {'LMTP' if self._rules.mode.lmtp else 'ESMTP'}".encode("ascii")

    def exporter(self, label: bytes, length: int) -> bytes | None:
        """See `mailsvc.smtp.seams.Channel`."""
        return keying_material(self.transport, label, length) if self._session.secured else None

    async def _greet(self, guard: Guard) -> None:
        refused = await guard.greeting(self.client)
        early = self.conversation.reader.pending
        if refused is None and early and not self._rules.mode.implicit_tls:
            refused = guard.spoke_early(self.client, early)
        if refused is not None:
            self._journal.refused(self.client, "connection", str(refused))
            self.conversation.close(refused.encode())
            return
        if self._stopping:
            self._say_goodbye()
            return
        self.conversation.write(_greeting(self.greeting()))

    # -- ends ------------------------------------------------------------------------------------------------------

    def patience_ended(self, waiting_for: str) -> bytes:
        """The last words to a client that let us wait."""
        self._journal.refused(self.client, "session", f"timed out waiting for {waiting_for}")
        return reply(421, "4.4.2", f"{self._rules.hostname} waited too long for {waiting_for}; closing").encode()

    def shut_down(self) -> None:
        """The service stops: end the session now, or as soon as what is under way has its answer."""
        self._stopping = True
        if self.conversation.idle:
            self._say_goodbye()

    def _too_old(self) -> None:
        if not self.conversation.closing:
            self._journal.refused(self.client, "session", "it has lasted too long")
            self._last_words = _TOO_OLD
            # What is being stored gets its answer first; what is still on its way will not become a message.
            if self.conversation.idle or self.conversation.in_body:
                self.conversation.close(_TOO_OLD.encode())

    def abort(self) -> None:
        """The service has no more time."""
        self.conversation.abort()

    def _say_goodbye(self) -> None:
        self.conversation.close(reply(421, "4.3.2", f"{self._rules.hostname} is shutting down").encode())

    def _answer(self, answer: Reply, verb: str = "", *, more: bool = False) -> None:
        """Every command ends here, with one reply in one write.

        ``more``: another reply to the same command follows, so whatever ends the session waits for the last of them.
        """
        if answer.is_error:
            self._journal.answered(self.client, verb, answer)
        last = self._guard.answered(self.client, verb, answer) if self._guard is not None else None
        last = last or self._last_words
        # A 4xx is not the client's fault: 452 for one recipient after the other must not end in 421, or a message
        # with many recipients would never get through (RFC 5321 section 4.5.3.1.10).
        if answer.code >= 500:
            self._errors += 1
            if self._errors >= self._rules.errors:
                last = last or reply(421, "4.7.0", f"{self._rules.hostname}: too many errors; closing")
        if more:
            self._last_words = last
            self.conversation.write(answer.encode())
            return
        if answer.closes:
            self.conversation.close(answer.encode())
            return
        if last is not None:
            self._journal.refused(self.client, "session", str(last))
            self.conversation.close(answer.encode() + last.encode())
            return
        self.conversation.write(answer.encode())
        if self._stopping and not self.conversation.in_body:
            self._say_goodbye()

    # -- what the commands' half fills in --------------------------------------------------------------------------

    def handle_event(self, event: Event) -> Coroutine[Any, Any, None] | None:
        """One line, one piece of a body, or its end."""
        raise NotImplementedError

    def handler_failed(self, failure: Failure) -> None:
        """Our own mistake: say 451, keep the session, and log it."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """What was under way ends: the connection is gone, or TLS begins."""
        raise NotImplementedError
