"""TLS sessions of outbound connections, kept so that the next connection need not do a full handshake.

OpenSSL checks no certificate when a session is resumed (RFC 8446 section 2.2). So a session is kept together
with what the check of its first handshake saw, the certificates and the errors, and that `Evidence` is judged
anew on every connection: for the name that is wanted now, the pins and TLSA records of now, and the time of
now. Nothing else is carried over. Keeping and offering is left to `mailsvc.tls.client`.

Three rules make a kept session safe. It is found only by whoever asks for the same host, port, name and
policy. It is handed out once (RFC 8446 appendix C.4: a ticket that is used twice lets a listener link the
two). And it is forgotten when its time is over or its certificates', and the oldest when there are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from OpenSSL import SSL

from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.verify import Evidence

SESSIONS_LIMIT = 1000
LIFETIME = timedelta(hours=1)
"""RFC 8446 section 4.6.1 allows seven days; a certificate that was replaced or revoked should be noticed sooner."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Who may use a kept session: only a connection to the same place, for the same name, under the same policy."""

    host: str
    port: int
    server_name: str
    policy: ServerPolicy


@dataclass(frozen=True, slots=True)
class KeptSession:
    """A session, the context that it belongs to (pyOpenSSL takes no other), and the evidence of its first handshake."""

    session: SSL.Session
    context: SSL.Context
    evidence: Evidence
    first: datetime
    """When that first handshake was; a session of a resumed session keeps it, so no chain of them lives on."""


@dataclass(slots=True)
class SessionStore:
    """The kept sessions, one for each key. `now` tells the time, aware of its zone."""

    now: Callable[[], datetime]
    limit: int = SESSIONS_LIMIT
    lifetime: timedelta = LIFETIME
    _kept: OrderedDict[SessionKey, KeptSession] = field(default_factory=OrderedDict, repr=False)

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: SessionKey, kept: KeptSession) -> None:
        """Keep a session in place of an older one."""
        self._kept.pop(key, None)
        self._kept[key] = kept
        while len(self._kept) > self.limit:
            self._kept.popitem(last=False)

    def take(self, key: SessionKey) -> KeptSession | None:
        """The session for this key, which is thereby gone; None when there is none or its time is over."""
        kept = self._kept.pop(key, None)
        if kept is None or not kept.first <= self.now() <= self._end(kept):
            return None
        return kept

    def _end(self, kept: KeptSession) -> datetime:
        return min([kept.first + self.lifetime, *(each.not_valid_after_utc for each in kept.evidence.chain)])
