"""The open sessions of a service: how many there may be, and how they end when it stops.

A factory asks `Sessions.admit` before it builds a session and tells `Sessions.ended` when the connection is gone.  What
a session says when it is asked to end is the session's own (`Session.shut_down`).

The hardest idea: who gets a place.  A fixed share for each client is too small on a quiet day or too large on a bad
one, so a client may hold as many places as are still free: one alone gets half of all, the next half of what is left,
and there is always a place for one who comes new.  `mailsvc.gate.places` adds limits that are the same on every day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed

from mailsvc.gate.places import Places


class Session(Protocol):
    """What a listener's session can be asked."""

    def shut_down(self) -> None:
        """End soon and in order: now when idle, else when what is under way has its answer."""

    def abort(self) -> None:
        """End now."""


_FEW = 10
"""So many sessions a client may always hold while there is any place: when it is crowded a share may become less."""


class Sessions:
    """At most ``limit`` sessions at a time; one client at most as many as there are free places left.

    ``client_of`` tells from the name of a peer whose client it is: all addresses of one network are one client.
    ``places`` knows the fixed limits of an address and a network, None for no such limits.
    """

    def __init__(self, limit: int, client_of: Callable[[str], str] = str, places: Places | None = None) -> None:
        self._limit = limit
        self._places = places
        self._client_of = client_of
        self._open: dict[Session, tuple[str, str]] = {}
        self._held: Counter[str] = Counter()
        self._emptied: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, session: Session, peer: str) -> bool:
        """Count the session in, unless there are too many, of all or of this peer's network."""
        if self.refusal(peer) is not None:
            return False
        client = self._client_of(peer)
        self._open[session] = (client, peer)
        self._held[client] += 1
        if self._places is not None:
            self._places.take(peer)
        return True

    def refusal(self, peer: str) -> str | None:
        """Why one more session of ``peer`` would be too many, in words that it may hear; None when it is not."""
        free = self._limit - len(self._open)
        if free <= 0 or self._held[self._client_of(peer)] >= max(free, _FEW):
            return "too many connections"
        return None if self._places is None else self._places.refusal(peer)

    def ended(self, session: Session) -> None:
        """The session's connection is gone."""
        held = self._open.pop(session, None)
        if held is not None:
            client, peer = held
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]
            if self._places is not None:
                self._places.leave(peer)
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
