"""What is demanded of a TLS peer, as values: of a server that we connect to, of a client that connects to us.

A policy says what must be; what was found is a `ServerIdentity` (`mailsvc.tls.client`) or a
`ClientCertificate` (`mailsvc.mail.channel`). Nothing on the wire ever changes a policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from mailsvc.tls.credential import Credential
from mailsvc.tls.levels import Level
from mailsvc.tls.roots import NoRoots, Trust


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """What we demand of servers, and what we show them.

    `required`: a connection that proves less is refused before the first octet of the application. Everything
    is checked and reported at every level. `credential`: the client certificate for servers that ask for one
    (RFC 8446 section 4.4.2); it is shown to nobody that is refused.
    """

    required: Level = Level.NAME
    trust: Trust = field(default_factory=Trust)
    credential: Credential | None = None


class Asking(Enum):
    """Whether a listener asks its clients for a certificate."""

    OFF = "off"
    """Never."""
    ASK = "ask"
    """It asks; none, or one that does not pass, is recorded and the session goes on."""
    REQUIRE = "require"
    """Without one that passes every check there is no session."""


@dataclass(frozen=True, slots=True)
class ClientCertificatePolicy:
    """What a listener demands of its clients' certificates. The system's roots are never meant: the public CAs
    do not say who may log in."""

    asking: Asking = Asking.OFF
    trust: Trust = field(default_factory=lambda: Trust(NoRoots()))


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """What one listener does differently from others that show the same certificates.

    `tickets`: sessions may be resumed, where clients are not asked for a certificate (a resumed session is not
    checked).
    """

    clients: ClientCertificatePolicy = field(default_factory=ClientCertificatePolicy)
    tickets: bool = True
