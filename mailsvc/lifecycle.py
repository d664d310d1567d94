"""Starting and stopping the service in order; `mailsvc.service` puts together what is started here.

The hardest idea is the order of things.  Start: ports are bound while we may still be root; the database is opened as
the user that we stay, and only then does the reactor run.  Stop: no new connections, then the sessions end, then what
they wrote is committed, then the database closes; each waits for the one before, the sessions not longer than
``timeouts.shutdown``.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from mailsvc.accounts.login import PasswordChecker
from mailsvc.backup.keeping import ListKeeper
from mailsvc.clock import ClockWatch
from mailsvc.config import Configuration
from mailsvc.directory.running import Programs
from mailsvc.errors import StartRefused
from mailsvc.gate.shortage import Shortage
from mailsvc.hints import first_steps
from mailsvc.journal import Journal
from mailsvc.outgoing import Outgoing
from mailsvc.pop3.housekeeping import Housekeeper
from mailsvc.storage.database import Database
from mailsvc.tls.live import LiveCertificates
from mailsvc.tls.trust import LiveTrust
from mailsvc.wire.proxied import ProxiedFactory
from mailsvc.wire.sessions import Sessions

_log = Logger("mailsvc")


@dataclass
class Listener:
    """One endpoint; ``port`` while it is open."""

    name: str
    description: str
    endpoint: IStreamServerEndpoint
    factory: IProtocolFactory
    port: IListeningPort | None = None


class MailService(MultiService):
    """Everything that `make_service` assembled, as one service.

    ``listeners`` in the order of DESIGN section 8; their ports are open between start and stop.
    """

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        database: Database,
        checker: PasswordChecker,
        sessions: Sessions,
        journal: Journal,
        programs: Programs,
        certificates: LiveCertificates,
        trust: LiveTrust,
        housekeeper: Housekeeper,
        outgoing: Outgoing,
        lists: ListKeeper,
    ) -> None:
        super().__init__()
        self.configuration = configuration
        self.database = database
        self.listeners: list[Listener] = []
        self._reactor = reactor
        self._checker = checker
        self._sessions = sessions
        self._journal = journal
        self._programs = programs
        self._certificates = certificates
        self._trust = trust
        self._housekeeper = housekeeper
        self._outgoing = outgoing
        self._lists = lists
        self._shortage = Shortage(reactor.seconds)
        self._clock_watch = ClockWatch(reactor)

    def listen(self, name: str, endpoints: tuple[str, ...], factory: IProtocolFactory) -> None:
        """Serve ``factory`` on each of these Twisted endpoint strings, from the start on."""
        for description in endpoints:
            proxied = description.startswith("haproxy:")
            endpoint = serverFromString(self._reactor, description.removeprefix("haproxy:"))
            patience = self.configuration.timeouts.handshake
            served = ProxiedFactory(factory, self._reactor, patience) if proxied else factory
            self.listeners.append(Listener(name, description, endpoint, served))

    def privilegedStartService(self) -> None:
        """Bind every port, while we may still be root; `StartRefused` names all that cannot be had."""
        super().privilegedStartService()
        problems = [problem for listener in self.listeners if (problem := _open(listener)) is not None]
        if problems:
            self._close_ports()
            raise StartRefused(problems)

    def startService(self) -> None:
        """Open the database as the user that we stay, and say what is served once the reactor runs."""
        try:
            self.database.open()
        except StartRefused:
            self._close_ports()
            raise
        super().startService()
        globalLogPublisher.addObserver(self._shortage)
        self._clock_watch.start()
        self._checker.start()
        self._journal.start()
        self._housekeeper.start()
        self._outgoing.start()
        self._lists.start()
        self._reactor.callWhenRunning(self._announce)
        self._reactor.callWhenRunning(self._certificates.start)
        self._reactor.callWhenRunning(self._trust.start)

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when the database is closed."""
        return Deferred.fromCoroutine(self._stop())

    def hurry(self) -> None:
        """While stopping: wait for no session any more."""
        self._sessions.abort()
        self._programs.stop()
        self._outgoing.hurry()

    def reload(self) -> None:
        """Look at the certificates now, ours and the CAs of our clients."""
        self._certificates.reloader.reload()
        self._trust.reload()

    async def _stop(self) -> None:
        await self._close_ports()
        # First those who wait for the answer to a login: a wrong one is held back longer than we have time.
        logins_ended = self._checker.stop()
        emptied = self._sessions.shut_down()
        deadline = self._reactor.callLater(self.configuration.timeouts.shutdown, self.hurry)
        await emptied
        if deadline.active():
            deadline.cancel()
        await logins_ended
        await self._certificates.stop()
        await self._trust.stop()
        await self._housekeeper.stop()
        await self._lists.stop()
        # Behind the sessions, of which some wait for the first attempt of what they have submitted.
        await self._outgoing.stop()
        # What the last sessions did is told too.
        await self._journal.stop()
        await self.database.close()
        await super().stopService()
        self._clock_watch.stop()
        globalLogPublisher.removeObserver(self._shortage)

    def _close_ports(self) -> Deferred[Any]:
        closing = []
        for listener in self.listeners:
            port, listener.port = listener.port, None
            if port is not None:
                closing.append(maybeDeferred(port.stopListening))
        return gatherResults(closing)

    def _announce(self) -> None:
        for listener in self.listeners:
            if listener.port is not None:
                _log.info("{name:<12} listening on {where}", name=listener.name, where=_where(listener.port.getHost()))
        _log.info("mail is kept in {database}", database=self.database.name)
        for line in first_steps(self.configuration, self.database.name, self._ports()):
            _log.info("{line}", line=line)

    def _ports(self) -> dict[str, tuple[str, int]]:
        """(host, port) of the first TCP listener of each name."""
        ports: dict[str, tuple[str, int]] = {}
        for listener in self.listeners:
            address: Any = listener.port.getHost() if listener.port is not None else None
            if hasattr(address, "port"):
                ports.setdefault(listener.name, (address.host, address.port))
        return ports


def _open(listener: Listener) -> str | None:
    """Open the listener's port; return why it cannot be."""
    outcome: list[IListeningPort | Failure] = []
    listener.endpoint.listen(listener.factory).addBoth(outcome.append)
    if not outcome:
        return f"{listener.name}: {listener.description} did not open at once; use an endpoint that does (tcp:, unix:)"
    [result] = outcome
    if not isinstance(result, Failure):
        listener.port = result
        return None
    error = result.value
    reason = error.socketError if isinstance(error, CannotListenError) else error
    words = (getattr(reason, "strerror", None) or str(reason)).lower()
    cure = _CURES.get(getattr(reason, "errno", None) or 0, "")
    return (
        f"cannot listen on {listener.description} for {listener.name}: {words};"
        f" {cure}choose another endpoint with --{listener.name}"
    )


_CURES = {
    errno.EADDRINUSE: "stop the program that uses it, or ",
    errno.EACCES: "below port 1024 that needs root, or in a unit of systemd AmbientCapabilities=CAP_NET_BIND_SERVICE; ",
    errno.EADDRNOTAVAIL: "this machine has no such address; ",
}


def _where(address: Any) -> str:
    if hasattr(address, "port"):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{host}:{address.port}"
    name = getattr(address, "name", None)
    return os.fsdecode(name) if name else str(address)
