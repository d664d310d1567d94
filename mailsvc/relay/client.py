"""One conversation with a mail server that takes mail from us: SMTP or LMTP (RFC 5321, RFC 2033)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mailsvc.relay.logins import RelayLogin
from mailsvc.relay.outgoing import Outgoing, Said, Timeouts
from mailsvc.relay.url import Relay
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.levels import Level

__all__ = ["How", "Outgoing", "Where"]


@dataclass(frozen=True, slots=True)
class Where:
    """A server.  ``host``: its name, which its certificate must bear; ``addresses``: IP addresses to try in turn, or
    none to have the reactor look the name up.  ``path``: a UNIX socket instead.  Ports are the relay's (`Relay.ways`).
    """

    host: str
    addresses: tuple[str, ...] = ()
    path: str = ""


@dataclass(frozen=True, slots=True)
class How:
    """What the conversation must be.

    ``relay``: how TLS begins and what the URL demands; of an MX host, the relay of the MX route.  ``required``: what
    policies demand beyond it (DANE, MTA-STS, REQUIRETLS); the stricter of the two holds.  ``tls``: checks certificates;
    its policy must demand that level (`server_policy`); None only where TLS is never used.  ``hostname``: what EHLO
    says.  ``tlsa`` and ``tlsa_names``: as for `ClientTLS.to`.  ``listener`` is told each line as it is said.
    """

    relay: Relay
    hostname: str
    tls: ClientTLS | None = None
    required: Level = Level.PLAIN
    tlsa: tuple[TLSARecord, ...] = ()
    tlsa_names: tuple[str, ...] = ()
    login: RelayLogin | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    listener: Callable[[Said], None] | None = None

    @property
    def demanded(self) -> Level:
        """The least that the channel must be."""
        return max(self.required, self.relay.required)
