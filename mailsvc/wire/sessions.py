"""The open sessions of a service: how many there may be, and how they end when it stops.

A factory asks `Sessions.admit` before it builds a session and tells `Sessions.ended` when the connection is gone.  What
a session says when it is asked to end is the session's own (`Session.shut_down`).
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed


class Session(Protocol):
    """What a listener's session can be asked."""

    def shut_down(self) -> None:
        """End soon and in order: now when idle, else when what is under way has its answer."""

    def abort(self) -> None:
        """End now."""


class Sessions:
    """At most ``limit`` sessions at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Session] = set()
        self._emptied: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, session: Session) -> bool:
        """Count the session in, unless there are too many."""
        if len(self._open) >= self._limit:
            return False
        self._open.add(session)
        return True

    def ended(self, session: Session) -> None:
        """The session's connection is gone."""
        self._open.discard(session)
        if not self._open:
            waiting, self._emptied = self._emptied, []
            for deferred in waiting:
                deferred.callback(None)

    def shut_down(self) -> Deferred[None]:
        """Ask every session to end; fires when the last one has."""
        for session in tuple(self._open):
            session.shut_down()
        if not self._open:
            return succeed(None)
        deferred: Deferred[None] = Deferred()
        self._emptied.append(deferred)
        return deferred

    def abort(self) -> None:
        """End all that are left."""
        for session in tuple(self._open):
            session.abort()


def peer_name(address: object) -> str:
    """The client's IP address, or "local" where there is none (a UNIX socket)."""
    return address.host if isinstance(address, (IPv4Address, IPv6Address)) else "local"
