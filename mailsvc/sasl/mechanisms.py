"""The mechanisms by name: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login), EXTERNAL (RFC 4422), SCRAM.

Which of them are offered is decided here from the channel alone, so that what EHLO and CAPA say and what AUTH takes
are one list.  None is offered outside TLS: not even SCRAM, whose proof hides the password from a listener who is
honest enough not to try passwords on it, and whose session would go on in clear.
"""

from __future__ import annotations

from mailsvc.sasl.exchange import (
    CertificateLogin,
    Challenge,
    Channel,
    MalformedResponse,
    PasswordLogin,
    Steps,
    UnknownMechanism,
)
from mailsvc.sasl.scram import scram

LONGEST_NAME = 1024
"""Octets of a name or an authzid: four times what an address can have."""


def offered(channel: Channel, *, scram: bool, external: bool) -> tuple[str, ...]:
    """The mechanisms that hold on ``channel``, the strongest first.

    ``scram``: there are verifiers; ``external``: there is somebody who knows whose a certificate is.
    """
    if not channel.secured:
        return ()
    names: list[str] = []
    if scram and channel.binding is not None:
        names.append("SCRAM-SHA-256-PLUS")
    if scram:
        names.append("SCRAM-SHA-256")
    if external and channel.certificate is not None:
        names.append("EXTERNAL")
    return (*names, "PLAIN", "LOGIN")


def begin(mechanism: str, channel: Channel, nonce: str) -> Steps:
    """The exchange of ``mechanism`` (upper case, one that is `offered`); ``nonce``: fresh, printable, no comma."""
    match mechanism:
        case "PLAIN":
            return _plain()
        case "LOGIN":
            return _login()
        case "EXTERNAL":
            return _external()
        case "SCRAM-SHA-256":
            return scram(nonce, channel.binding, plus=False)
        case "SCRAM-SHA-256-PLUS":
            return scram(nonce, channel.binding, plus=True)
    raise UnknownMechanism("this mechanism is not offered")


def _plain() -> Steps:
    message = yield Challenge(b"")
    parts = message.split(b"\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise MalformedResponse("PLAIN takes [authzid] NUL name NUL password")
    authzid, username, password = parts
    yield PasswordLogin(_bounded(username), password, _bounded(authzid))


def _login() -> Steps:
    username = yield Challenge(b"Username:")
    password = yield Challenge(b"Password:")
    if not username or not password or b"\0" in username + password:
        raise MalformedResponse("LOGIN takes a name and a password")
    yield PasswordLogin(_bounded(username), password)


def _external() -> Steps:
    authzid = yield Challenge(b"")
    if b"\0" in authzid:
        raise MalformedResponse("EXTERNAL takes an identity or nothing")
    yield CertificateLogin(_bounded(authzid))


def _bounded(name: bytes) -> bytes:
    if len(name) > LONGEST_NAME:
        raise MalformedResponse(f"a name is longer than {LONGEST_NAME} octets")
    return name
