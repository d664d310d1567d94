"""SASL exchanges as values: PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login), for SMTP AUTH (RFC 4954).

An exchange is pulled: `Exchange.step` takes what the client sent (decoded) and returns a `Challenge` to send or the
`Credentials` to check.  Whether they are right is for `mailsvc.accounts`; how lines are framed is for the server.

It serves whoever embeds the servers with a portal of cred; the service itself has `mailsvc.sasl`, from which base64 and
the error come.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from mailsvc.sasl.exchange import MalformedResponse


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the server sends next, before base64."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password to check.  ``authzid``: whom the client wants to act as, "" for itself."""

    username: bytes
    password: bytes = field(repr=False)
    authzid: bytes = b""


class Exchange:
    """One AUTH command from its initial response, or None, to its `Credentials`."""

    def __init__(self, mechanism: str) -> None:
        """``mechanism`` in upper case, one of `MECHANISMS` (KeyError otherwise)."""
        self._steps = MECHANISMS[mechanism]()
        self._started = False

    def begin(self, initial: bytes | None) -> Challenge | Credentials:
        """Start with the initial response; None means that the client waits for the first challenge."""
        first = next(self._steps)
        assert isinstance(first, Challenge), "every mechanism here lets the client speak first"
        return first if initial is None else self.step(initial)

    def step(self, response: bytes) -> Challenge | Credentials:
        """Take the client's decoded response.  Raises `MalformedResponse`."""
        return self._steps.send(response)


_Steps = Generator[Challenge | Credentials, bytes, None]


def _plain() -> _Steps:
    message = yield Challenge(b"")
    parts = message.split(b"\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise MalformedResponse("PLAIN takes [authzid] NUL name NUL password")
    yield Credentials(username=parts[1], password=parts[2], authzid=parts[0])


def _login() -> _Steps:
    username = yield Challenge(b"Username:")
    password = yield Challenge(b"Password:")
    if not username or not password:
        raise MalformedResponse("LOGIN takes a name and a password")
    yield Credentials(username=username, password=password)


MECHANISMS: dict[str, Callable[[], _Steps]] = {"PLAIN": _plain, "LOGIN": _login}
"""The mechanisms by name, in the order in which they are offered."""
