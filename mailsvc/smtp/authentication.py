"""`mailsvc.smtp.seams.Authenticator` on the engine that POP3 uses as well: failures become replies (RFC 4954).

501 5.5.2 for what is malformed, 535 5.7.8 for every refused login, with one text for all that a guess could be; 454 is
the server's, from `TemporaryFailure`.  Why there is neither 534 nor 538: `mailsvc.accounts.authenticator`.
"""

from __future__ import annotations

from twisted.cred.error import UnauthorizedLogin

from mailsvc.accounts import authenticator as engine
from mailsvc.errors import LoginRefused
from mailsvc.mail.reply import reply
from mailsvc.sasl import exchange as sasl
from mailsvc.smtp.seams import Challenge, Channel, Client, LoggedIn, LoginFailed
from mailsvc.tls.identity import proven_key
from mailsvc.tls.server import EXPORTER, can_bind

_REFUSED = reply(535, "5.7.8", "Authentication credentials invalid")
_ACT_AS_OTHER = reply(535, "5.7.8", "Acting as another identity is not permitted")


class SaslAuthenticator:
    """Every mechanism that the engine offers on a client's channel."""

    def __init__(self, authenticator: engine.Authenticator) -> None:
        self._engine = authenticator

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """See `mailsvc.smtp.seams.Authenticator`."""
        # EHLO names them by the channel's facts alone; the binding itself is taken when an exchange begins.
        return self._engine.mechanisms(_channel(client, b"" if can_bind(client.tls) else None))

    def begin(self, mechanism: str, client: Client, channel: Channel) -> SaslExchange | None:
        """See `mailsvc.smtp.seams.Authenticator`."""
        binding = channel.exporter(EXPORTER, 32) if can_bind(client.tls) else None
        try:
            return SaslExchange(self._engine.begin(mechanism, _channel(client, binding)))
        except sasl.UnknownMechanism:
            return None


def _channel(client: Client, binding: bytes | None) -> sasl.Channel:
    """What the engine may know; a certificate that may stand for nothing is none to it, and EXTERNAL is not offered."""
    shown = client.tls.client if client.tls is not None and proven_key(client.tls.client) else None
    return sasl.Channel("smtp", client.peer, client.tls is not None, binding, shown)


class SaslExchange:
    """See `mailsvc.smtp.seams.Exchange`."""

    def __init__(self, exchange: engine.Exchange) -> None:
        self._exchange = exchange

    async def step(self, response: bytes | None) -> Challenge | LoggedIn | LoginFailed:
        """The client's next response, decoded.  Fails with `TemporaryFailure`."""
        try:
            outcome = await self._exchange.step(response)
        except sasl.MalformedResponse as error:
            return self._failed(501, "5.5.2", f"Authentication failed: {error}", str(error))
        except sasl.BindingRefused as error:
            return self._failed(535, "5.7.8", f"Authentication failed: {error}", str(error))
        except engine.ActingRefused as error:
            return LoginFailed(_ACT_AS_OTHER, self._name, str(error))
        except (LoginRefused, UnauthorizedLogin):
            return LoginFailed(_REFUSED, self._name)
        if isinstance(outcome, sasl.Challenge):
            return Challenge(outcome.data)
        return LoggedIn(outcome.address, outcome.id, self._exchange.mechanism, outcome.credential, outcome.changed)

    def cancel(self) -> None:
        """See `mailsvc.smtp.seams.Exchange`."""
        self._exchange.cancel()

    @property
    def _name(self) -> str:
        return self._exchange.name.decode("utf-8", "replace")

    def _failed(self, code: int, enhanced: str, text: str, why: str) -> LoginFailed:
        return LoginFailed(reply(code, enhanced, text), self._name, why)
