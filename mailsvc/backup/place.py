"""The URL where a primary offers its lists: ``https://mx1.example.org:8443?cert=mx2&pin=...``.

What stands behind the ``?`` is what it is in the URL of a relay (`mailsvc.relay.url`), and means the same: which
certificate we show, which CAs or which key the primary must have.  The hardest idea is that nothing may be left out:
the channel is mutual TLS or there is none, so ``cert=`` is demanded, and ``verify=none`` only goes with a pin.
"""

from __future__ import annotations

import re

from mailsvc.relay.url import Relay, RelayError, parse_relay
from mailsvc.tls.levels import Level

_HTTPS = re.compile(r"https://(?=[^?]+:[0-9]+/?(?:\?|\Z))", re.IGNORECASE)


def primary_of(text: str) -> Relay:
    """What is demanded of the channel to the primary.  Raises `RelayError` with the mistake and its cure."""
    found = _HTTPS.match(text)
    if found is None:
        raise RelayError("the URL of a primary is https://HOST:PORT, with the port of its [listen] recipients")
    try:
        relay = parse_relay(f"smtps://{text[found.end() :]}")
    except RelayError as error:
        raise RelayError(str(error).replace("smtps://", "https://")) from None
    if not relay.host or relay.label is not None:
        raise RelayError(
            "the URL of a primary has a host and no login; its client is known by the key of a certificate"
        )
    if relay.cert is None:
        raise RelayError("name the client certificate that we show to the primary: ?cert=FOLDER, its full path")
    if relay.required < Level.NAME:
        raise RelayError("the primary must be known: by its name (verify=name) or by its key (verify=none&pin=SHA256)")
    return relay


def list_url(relay: Relay, domain: str) -> str:
    """Where the list of ``domain`` is fetched."""
    host = f"[{relay.host}]" if ":" in relay.host else relay.host
    return f"https://{host}:{relay.port}/recipients/{domain}"
