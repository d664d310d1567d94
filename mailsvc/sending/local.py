"""Where the service of this machine takes mail, from its configuration: for ``mailsvc send --local`` and sendmail.

Pure.  The hardest idea is whom to believe on one's own machine.  A password goes to nobody whose name was not verified,
here as elsewhere: any user can listen on a port that the service has left.  Without a login only the message is shown,
and on loopback that is what handing it in means.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from mailsvc.config import Configuration
from mailsvc.config.endpoint import endpoint_parts
from mailsvc.relay.url import Relay, Scheme, Verify


def local_relays(
    configuration: Configuration, *, login: bool, ca: str | None
) -> Iterator[tuple[Relay, tuple[str, ...]]]:
    """Relays with the addresses to connect to, the best first; listeners that cannot be told from outside are left out.

    ``login``: where users log in, else where mail for our own domains is taken.  ``ca``: the file with the private CA
    of the service, None when there is none.
    """
    listen, name = configuration.listen, configuration.hostname
    if not login:
        for endpoint in listen.lmtp:
            if path := _socket(endpoint):
                yield Relay(Scheme.LMTP, "", 0, Verify.NONE, path), ()
    kinds = [(Scheme.SMTPS, listen.submissions), (Scheme.TLS, listen.submission)] if login else []
    for scheme, endpoints in kinds or [(Scheme.TLS, listen.smtp)]:
        for endpoint in endpoints:
            place = _place(endpoint)
            if place is None:
                continue
            address, port = place
            verified = login or ca is not None or not ipaddress.ip_address(address).is_loopback
            verify = Verify.NAME if verified else Verify.NONE
            yield Relay(scheme, name, port, verify, ca=ca if verified else None), (address,)


def _socket(endpoint: str) -> str:
    parts, named = endpoint_parts(endpoint)
    return (parts[1:2] or [named.get("address", "")])[0] if parts[0] == "unix" else ""


def _place(endpoint: str) -> tuple[str, int] | None:
    """The address and port by which this machine reaches it; None for another kind, and for port 0."""
    parts, named = endpoint_parts(endpoint)
    if parts[0] not in ("tcp", "tcp6"):
        return None
    port = (parts[1:2] or [named.get("port", "0")])[0]
    interface = (parts[2:3] or [named.get("interface", "")])[0]
    try:
        address = ipaddress.ip_address(interface or ("::" if parts[0] == "tcp6" else "0.0.0.0"))
    except ValueError:
        return None
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    return (str(address), int(port)) if port.isdigit() and int(port) else None
