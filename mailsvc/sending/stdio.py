"""SMTP on standard input and output (``sendmail -bs``): the SMTP server of the service, for the one who has started it.

It is `mailsvc.smtp.server.SMTPServer` with all its rules, on the store of `mailsvc.sending.handing`.  No TLS and no
login: the client is the parent process, and there is nobody between.

The hardest idea is the end of the input.  A script writes its commands and closes the pipe, and Twisted tells of that
as of a connection that is gone, with commands unread.  So the end waits until the server has taken what is there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from mailsvc.config import Configuration
from mailsvc.sending.handing import Door, NoLogins
from mailsvc.smtp.modes import STDIO
from mailsvc.smtp.rules import Helpers, Rules
from mailsvc.smtp.server import SMTPFactory, SMTPServer
from mailsvc.wire.conversation import Patience
from mailsvc.wire.sessions import Sessions

_LOOK = 0.01
"""Seconds between two looks at whether everything was taken."""


async def serve(reactor: Any, configuration: Configuration, door: Door, stdin: int = 0, stdout: int = 1) -> None:
    """Talk on these descriptors until the client ends it."""
    door = replace(door, clock=reactor)
    limits = configuration.smtp
    rules = Rules(
        STDIO,
        configuration.hostname,
        door.limits,
        Patience(command=configuration.timeouts.command, body=configuration.timeouts.body_progress),
        limits.command_line,
        limits.auth_line,
        limits.recipients,
        limits.errors,
        limits.messages,
        limits.commands,
        limits.session_seconds,
    )
    helpers = Helpers(door.intake(), door.directory(), NoLogins())
    # No TLS is offered, so nobody asks for it.
    factory = SMTPFactory(rules, helpers, cast(IOpenSSLServerConnectionCreator, None), reactor, Sessions(1))
    session = factory.buildProtocol(None)
    assert isinstance(session, SMTPServer)
    ended: Deferred[None] = Deferred()
    _Pipes(session, ended, stdin, stdout, reactor)
    await ended


class _Pipes(StandardIO):
    """Standard input and output as the transport of an SMTP session."""

    def __init__(self, session: SMTPServer, ended: Deferred[None], stdin: int, stdout: int, reactor: Any) -> None:
        self._session = session
        self._ended = ended
        self._reactor = reactor
        super().__init__(session, stdin, stdout, reactor)  # type: ignore[call-arg]  # the stub is that of Windows

    def abortConnection(self) -> None:
        """End it without another word."""
        self.loseConnection()

    def _readConnectionLost(self, reason: Failure) -> None:
        conversation = self._session.conversation
        if self.disconnected:
            return
        if conversation.reader.pending and not conversation.closing and not conversation.needs_more:
            self._reactor.callLater(_LOOK, self._readConnectionLost, reason)
            return
        super()._readConnectionLost(reason)  # type: ignore[misc]

    def _writeConnectionLost(self, reason: Failure) -> None:
        super()._writeConnectionLost(reason)  # type: ignore[misc]
        if not self.disconnected:
            # Who cannot hear an answer is given none: what was not committed by now is not.
            self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)  # type: ignore[misc]
        if not self._ended.called:
            self._ended.callback(None)
