"""Where a message is handed in, as a person writes it: the URL of a relay, or HOST and PORT.

Pure.  The URL says everything (`mailsvc.relay.url`); without one the port says how TLS begins, as the port's own
standard does: 465 is TLS from the first octet (RFC 8314), 587 is submission, where STARTTLS is demanded (RFC 8314
section 4.1: a password is sent there), 25 is mail between servers, where TLS is tried.

The hardest idea is that a password changes the meaning of a port.  On port 25 TLS is opportunistic, but not for who
logs in: then it is demanded there too, and a URL whose channel may be plain is refused together with a login.
"""

from __future__ import annotations

from mailsvc.errors import MailsvcError
from mailsvc.relay.url import Relay, RelayError, Scheme, parse_relay
from mailsvc.tls.levels import Level

_SCHEMES = {
    25: Scheme.SMTP_TLS,
    2525: Scheme.SMTP_TLS,
    465: Scheme.SMTPS,
    2465: Scheme.SMTPS,
    587: Scheme.TLS,
    2587: Scheme.TLS,
}


def relay_of(text: str, *, login: bool = False) -> Relay:
    """The relay that ``text`` means: a URL, HOST:PORT with a port that is known, or HOST (port 587 with a login, else
    25).  Raises `RelayError`."""
    if "://" in text:
        return parse_relay(text)
    host, bracket, rest = text.partition("]") if text.startswith("[") else (text, "", "")
    name, colon, number = rest.partition(":") if bracket else host.partition(":")
    place = f"{host}{bracket}" if bracket else name
    if not place or (bracket and name):
        raise RelayError("give a URL like tls://mail.example.org:587, or HOST:PORT")
    if not colon:
        number = "587" if login else "25"
    if not (number.isascii() and number.isdigit() and int(number[:6]) in _SCHEMES):
        known = ", ".join(str(port) for port in _SCHEMES if port < 1024)
        raise RelayError(
            f"{text[:80]!a}: only of the ports {known} it is known how TLS begins there; for another write the URL,"
            " tls://HOST:PORT or smtps://HOST:PORT"
        )
    port = int(number)
    scheme = Scheme.TLS if login and _SCHEMES[port] is Scheme.SMTP_TLS else _SCHEMES[port]
    return parse_relay(f"{scheme.value}://{place}:{port}")


def check_login(relay: Relay) -> None:
    """Raise `mailsvc.errors.MailsvcError` when a password has no business on the channel to ``relay``."""
    if relay.is_mx or relay.scheme is Scheme.BACKUP:
        raise MailsvcError("a login belongs to one relay; name its host")
    if relay.required is Level.PLAIN and not relay.path:
        raise MailsvcError(
            f"{relay}: the channel may be plain text, so no password goes over it; use tls://, smtps:// or ssl://"
        )
    if relay.label is not None:
        raise MailsvcError(f"{relay}: it names credentials already; leave out the label, or the login")
