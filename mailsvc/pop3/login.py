"""The dialogue of one AUTH command: base64 lines on one side, an exchange of the engine on the other (RFC 5034).

The engine (`mailsvc.accounts.authenticator`) is the one that SMTP has, so that a mechanism, a refused login and its
delay are the same there and here; base64 is `mailsvc.sasl.base64`.  Here is what is POP3's own: ``=``, ``*``, and which
reply a failure becomes.
"""

from __future__ import annotations

from twisted.cred.error import UnauthorizedLogin

from mailsvc.accounts.authenticator import ActingRefused, Exchange
from mailsvc.accounts.realm import Account
from mailsvc.errors import LoginRefused, TemporaryFailure
from mailsvc.pop3.texts import Reply, says
from mailsvc.sasl.base64 import decode, decode_initial
from mailsvc.sasl.exchange import BindingRefused, Challenge, MalformedResponse


class Cancelled(LoginRefused):
    """The client gave up with ``*``."""


FAILURES: tuple[type[Exception], ...] = (LoginRefused, UnauthorizedLogin, MalformedResponse, TemporaryFailure)
"""What a login can fail with; `failure_reply` knows them all."""


def failure_reply(error: Exception) -> Reply:
    """What the client hears: one text for all that a guess could be (RFC 3206 section 5, RFC 5034 section 4)."""
    match error:
        case TemporaryFailure():
            return says("no_login")
        case MalformedResponse():
            return says("malformed_auth")
        case Cancelled():
            return says("cancelled")
        case ActingRefused():
            return says("acting")
        case BindingRefused():
            return says("binding")
        case _:
            return says("wrong_login")


class LoginDialogue:
    """One AUTH command from its initial response to its end."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def mechanism(self) -> str:
        """The mechanism's name."""
        return self._exchange.mechanism

    @property
    def name(self) -> str:
        """Whom the client wants to be, once it is known."""
        return self._exchange.name.decode("utf-8", "replace")

    async def begin(self, initial: bytes | None) -> Challenge | Account:
        """Start with what stands behind the mechanism.  Fails with one of `FAILURES`."""
        return await self._exchange.step(None if initial is None else decode_initial(initial))

    async def line(self, line: bytes) -> Challenge | Account:
        """The client's next line.  Fails with one of `FAILURES`."""
        if line == b"*":
            raise Cancelled("the client gave up")
        return await self._exchange.step(decode(line))

    def cancel(self) -> None:
        """Nobody waits for the outcome any more: give the place in the line to somebody else."""
        self._exchange.cancel()
