"""The dialogue of one AUTH command: base64 lines on one side, an `Exchange` on the other (RFC 4954 section 4).

What a mechanism says is the exchange's (`mailsvc.smtp.seams.Exchange`); who waits for whom is the server's.  Between
them: base64 taken strictly, ``=`` for an empty initial response, ``*`` to give up.
"""

from __future__ import annotations

from mailsvc.mail.reply import reply
from mailsvc.sasl.base64 import decode
from mailsvc.sasl.exchange import MalformedResponse
from mailsvc.smtp.seams import Authenticator, Challenge, Channel, Client, Exchange, LoggedIn, LoginFailed

UNKNOWN_MECHANISM = reply(504, "5.5.4", "Authentication mechanism not offered")
_ABORTED = reply(501, "5.7.0", "Authentication cancelled")
IMPOSSIBLE = reply(454, "4.7.0", "Temporary authentication failure")


class LoginDialogue:
    """One AUTH command, from its argument to its end."""

    def __init__(self, mechanism: str, exchange: Exchange) -> None:
        self.mechanism = mechanism
        self._exchange = exchange

    async def begin(self, argument: str) -> Challenge | LoggedIn | LoginFailed:
        """Start with AUTH's argument: the mechanism, and perhaps an initial response."""
        initial = argument.partition(" ")[2].strip()
        if initial in ("", "="):
            return await self._exchange.step(b"" if initial else None)
        return await self._decoded(initial.encode("ascii"))

    async def line(self, line: bytes) -> Challenge | LoggedIn | LoginFailed:
        """The client's next line.  Fails with `mailsvc.errors.TemporaryFailure`."""
        if line == b"*":
            self.cancel()
            return LoginFailed(_ABORTED, "", "the client gave up")
        return await self._decoded(line)

    def cancel(self) -> None:
        """Nobody waits for the outcome any more."""
        self._exchange.cancel()

    async def _decoded(self, text: bytes) -> Challenge | LoggedIn | LoginFailed:
        try:
            response = decode(text)
        except MalformedResponse as error:
            self.cancel()
            return LoginFailed(reply(501, "5.5.2", f"Authentication failed: {error}"), "", str(error))
        return await self._exchange.step(response)


def begin_login(argument: str, authenticator: Authenticator, client: Client, channel: Channel) -> LoginDialogue | None:
    """The dialogue for AUTH's argument; None when its mechanism is not offered."""
    mechanism = argument.partition(" ")[0].upper()
    exchange = authenticator.begin(mechanism, client, channel)
    return None if exchange is None else LoginDialogue(mechanism, exchange)
