"""An exchange of one AUTH command, pulled step by step: what a mechanism wants next, as values.

A mechanism is a generator: it yields what it wants (a `Challenge` to be sent, a password to be checked, a verifier to
be found) and is sent the answer (the client's octets, a `Verifier`).  So a mechanism reads from top to bottom like its
RFC, while whoever drives it (`mailsvc.accounts.authenticator`) may take as long as a database takes.

The hardest idea: a mechanism never says who has logged in.  It says what would have to be true (`PasswordLogin`,
`Proof`, `CertificateLogin`), the driver finds out, and it is over when the driver has what it wants.  No code in this
package can let anybody in by mistake.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from mailsvc.errors import LoginRefused, MailsvcError


class MalformedResponse(MailsvcError):
    """The client's response is not what the mechanism or base64 allows; the exchange is over."""


class UnknownMechanism(MailsvcError):
    """The mechanism is not offered on this channel."""


class BindingRefused(LoginRefused):
    """What the client says of channel binding does not fit what we offer: a mistake, or a man in the middle."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the server sends next, before base64; the answer to it is the client's octets."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A name and a password to check; ends the exchange.  ``authzid``: whom the client wants to act as, or b""."""

    username: bytes
    password: bytes = field(repr=False)
    authzid: bytes = b""


@dataclass(frozen=True, slots=True)
class CertificateLogin:
    """The client points to its TLS certificate (RFC 4422 appendix A); ends the exchange."""

    authzid: bytes


@dataclass(frozen=True, slots=True)
class VerifierWanted:
    """SCRAM begins: the answer to it is the `Salting` of this name, which exists for every name there can be."""

    username: bytes


@dataclass(frozen=True, slots=True)
class Proven:
    """The client has taken note of our proof (SCRAM's last step); ends the exchange."""


Steps = Generator[Any, Any, None]
"""Yields what is in this module, or a `mailsvc.sasl.scram.Proof`; the docstring of each says what is sent back."""


@dataclass(frozen=True, slots=True)
class Channel:
    """What a mechanism and its driver may know of the connection.

    ``protocol``: "smtp" or "pop3".  ``peer``: the client's address.  ``binding``: the tls-exporter data (RFC 9266),
    None where there is none; then the PLUS mechanism is not offered.  ``certificate``: whatever stands for the client's
    verified certificate, None when there is none.
    """

    protocol: str
    peer: str
    secured: bool
    binding: bytes | None = field(default=None, repr=False)
    certificate: object | None = None
