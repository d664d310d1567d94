"""Where mail goes next, and what the channel must be, in one line: the URL of a relay.

======================= ============================================================================== ==============
URL                     meaning                                                                        default port
======================= ============================================================================== ==============
``smtp+tls://host``     STARTTLS when the server offers it, else in clear                              25
``smtp://host``         in clear, never TLS                                                            25
``tls://host``          STARTTLS, or no delivery                                                       25
``smtps://host``        TLS from the first octet (RFC 8314), or no delivery                            465
``ssl://host``          STARTTLS, else TLS from the first octet, or no delivery                        25, then 465
``lmtp://host``         LMTP (RFC 2033) in clear, over TCP                                             24
``lmtp:///path``        LMTP over a UNIX socket
``backup://our-name``   this host is a backup: to the MX hosts of the domain that are better than it   25
======================= ============================================================================== ==============

The first five may leave out the host: then the MX hosts of the recipient's domain are meant, under that demand.
``label@`` names credentials that are kept elsewhere; ``?verify=none|chain|name``, ``&ca=FILE``, ``&cert=NAME`` and
``&pin=SHA256`` (any number) belong to the three schemes that guarantee TLS.  Pure; connecting is left to
`mailsvc.relay.client`, checking certificates to `mailsvc.tls.client`.

The hardest idea: a `Relay` that promises something it does not demand cannot exist.  Every combination that would be
"yes, unless somebody on the way says no" is refused when the value is made: a password where the channel may be plain,
a check of certificates where the scheme falls back to plain text all the same.  So `Relay.required` and `Relay.tls`
are enough for whoever connects, and there is nothing to remember beside them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote, unquote

from mailsvc.certkit.places import checked_name
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import AddressError, parse_domain
from mailsvc.tls.levels import Level
from mailsvc.tls.roots import NoRoots, Roots, RootsFile, RootsFolder, SystemRoots, Trust

URL_LIMIT = 2000
"""Characters of a URL."""

PINS_LIMIT = 8
"""Pins of one URL: today's key, the next one, and some."""

SOCKET_PATH_LIMIT = 107
"""Octets of the path of a UNIX socket (``sun_path`` of Linux without its last NUL)."""

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
"""What the label of credentials looks like."""

_PIN = re.compile(r"[0-9a-f]{64}\Z")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)\Z", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}\Z")


class RelayError(MailsvcError):
    """The text is no URL of a relay, or demands what contradicts itself.  The message holds no secret."""


class Scheme(Enum):
    """What stands before ``://``."""

    SMTP_TLS = "smtp+tls"
    SMTP = "smtp"
    TLS = "tls"
    SMTPS = "smtps"
    SSL = "ssl"
    LMTP = "lmtp"
    BACKUP = "backup"


class Verify(Enum):
    """What of a server's certificate is checked, so that a failure refuses the server."""

    NONE = "none"
    CHAIN = "chain"
    NAME = "name"


class Tls(Enum):
    """How TLS begins."""

    NEVER = "never"
    TRY = "try"
    """STARTTLS when it is offered and works, else plain text."""
    MUST = "must"
    """STARTTLS, or the connection is not used."""
    IMPLICIT = "implicit"
    """From the first octet."""
    EITHER = "either"
    """MUST on the first way, IMPLICIT on the second: see `Relay.ways`."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to try: a TCP port (0 for a UNIX socket), and how TLS begins there (never EITHER)."""

    port: int
    tls: Tls


_PORTS = {
    Scheme.SMTP_TLS: 25,
    Scheme.SMTP: 25,
    Scheme.TLS: 25,
    Scheme.SMTPS: 465,
    Scheme.SSL: 25,
    Scheme.LMTP: 24,
    Scheme.BACKUP: 25,
}
_IMPLICIT_PORT = 465
_TLS = {
    Scheme.SMTP_TLS: Tls.TRY,
    Scheme.SMTP: Tls.NEVER,
    Scheme.TLS: Tls.MUST,
    Scheme.SMTPS: Tls.IMPLICIT,
    Scheme.SSL: Tls.EITHER,
    Scheme.LMTP: Tls.NEVER,
    Scheme.BACKUP: Tls.TRY,
}
GUARANTEED = frozenset({Scheme.TLS, Scheme.SMTPS, Scheme.SSL})
"""The schemes of an encrypted channel or no delivery."""


def default_port(scheme: Scheme) -> int:
    """The port that is meant when none is written."""
    return _PORTS[scheme]


@dataclass(frozen=True, slots=True)
class Relay:
    """One relay and what is demanded of the channel to it.  Raises `RelayError` for what contradicts itself.

    ``host``: a host name in lower case and A-label form, an IP address without brackets, or "" for the MX hosts of the
    recipient's domain (and for a UNIX socket, whose ``path`` is absolute; its ``port`` is 0).  For BACKUP it is our own
    name among those MX hosts.  ``label``: of the credentials to log in with.  ``ca``: absolute path of a PEM file, or
    with "/" at its end of a folder, whose certificates alone are trusted.  ``cert``: our certificate to show, the name
    of a folder in the certificate folder or the absolute path of one.  ``pins``: SHA-256 of public keys, 64 hexadecimal
    digits each.
    """

    scheme: Scheme
    host: str
    port: int
    verify: Verify
    path: str = ""
    label: str | None = None
    ca: str | None = None
    cert: str | None = None
    pins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        mistake = _mistake(self)
        if mistake:
            raise RelayError(f"{self.scheme.value}://{_bracketed(self.host)}: {mistake}")

    def __str__(self) -> str:
        """The URL; `parse_relay` of it is this value again."""
        where = quote(self.path) if self.path else _bracketed(self.host)
        port = "" if self.path or self.port == _PORTS[self.scheme] else f":{self.port}"
        label = "" if self.label is None else f"{self.label}@"
        words = []
        if self.verify is not _default_verify(self.scheme):
            words.append(f"verify={self.verify.value}")
        if self.ca is not None:
            words.append(f"ca={quote(self.ca)}")
        if self.cert is not None:
            words.append(f"cert={quote(self.cert)}")
        words += [f"pin={pin}" for pin in self.pins]
        return f"{self.scheme.value}://{label}{where}{port}{'?' * bool(words)}{'&'.join(words)}"

    @property
    def tls(self) -> Tls:
        """How TLS begins."""
        return _TLS[self.scheme]

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ports to try in turn, each with one manner of TLS.

        ``ssl://host`` means STARTTLS on 25 and then TLS from the first octet on 465; with a port of its own both are
        tried there, on 465 the latter first, because such a server says nothing until the handshake.
        """
        if self.tls is not Tls.EITHER:
            return (Way(self.port, self.tls),)
        if self.port == _PORTS[self.scheme]:
            return Way(self.port, Tls.MUST), Way(_IMPLICIT_PORT, Tls.IMPLICIT)
        both = Way(self.port, Tls.MUST), Way(self.port, Tls.IMPLICIT)
        return both[::-1] if self.port == _IMPLICIT_PORT else both

    @property
    def required(self) -> Level:
        """The least that the channel must be; nothing on the wire may lower it.

        Policies that are found elsewhere (DANE, MTA-STS) may raise it.  What is trusted stands beside it (`trust`):
        with a CA or a pin of one's own TLSA records must not be used, because one that matches would outrank both.
        """
        if self.scheme not in GUARANTEED:
            return Level.PLAIN
        if self.verify is Verify.NAME or (self.verify is Verify.NONE and self.pins):
            return Level.NAME
        return Level.CHAIN if self.verify is Verify.CHAIN else Level.ENCRYPTED

    @property
    def trust(self) -> Trust:
        """Whom the check of the server's certificate trusts.

        With ``verify=none`` a pin alone decides; beside ``chain`` and ``name`` it is demanded as well.
        """
        roots: Roots = SystemRoots()
        if self.pins and self.verify is Verify.NONE:
            roots = NoRoots()
        elif self.ca is not None:
            roots = RootsFolder(Path(self.ca)) if self.ca.endswith("/") else RootsFile(Path(self.ca))
        return Trust(roots, pins=frozenset(self.pins))

    @property
    def is_mx(self) -> bool:
        """Whether the MX hosts of the recipient's domain are meant."""
        return not self.host and not self.path

    @property
    def is_lmtp(self) -> bool:
        """Whether LMTP is spoken (a reply for each recipient, RFC 2033 section 4.2)."""
        return self.scheme is Scheme.LMTP

    @property
    def in_words(self) -> str:
        """The whole policy in a sentence without its full stop, for people."""
        clauses = [f"to {_place(self)}, {_HOW[self.scheme]}"]
        if self.scheme in GUARANTEED:
            clauses.append(_checked(self))
        if self.cert is not None:
            clauses.append(f"our certificate {self.cert} is shown when it asks for one")
        if self.label is not None:
            unknown = " (whoever answers there gets them)" if self.required is Level.ENCRYPTED else ""
            clauses.append(f"logs in with the credentials {self.label}{unknown}")
        return "; ".join(clauses)


def parse_relay(text: str) -> Relay:
    """The `Relay` that the URL ``text`` means.  Raises `RelayError` with the mistake and its cure."""
    scheme, rest = _split_scheme(text)
    rest, question, query = rest.partition("?")
    label, rest = _split_label(scheme, rest)
    options = _options(scheme, query) if question else {}
    path = ""
    if scheme is Scheme.LMTP and rest.startswith("/"):
        host, port, path = "", 0, _decoded(scheme, rest)
    else:
        host, port = _split_host(scheme, rest)
    return Relay(
        scheme,
        host,
        port,
        _verify(scheme, options),
        path,
        label,
        _only(options, "ca"),
        _only(options, "cert"),
        tuple(dict.fromkeys(pin.lower() for pin in options.get("pin", ()))),
    )


def _split_scheme(text: str) -> tuple[Scheme, str]:
    if len(text) > URL_LIMIT:
        raise RelayError(f"the URL of a relay is longer than {URL_LIMIT} characters")
    if not text.isprintable() or " " in text:
        raise RelayError("the URL of a relay holds a blank or a control character; write those of a path as %20")
    match = _SCHEME.match(text)
    known = ", ".join(f"{scheme.value}://" for scheme in Scheme)
    if match is None:
        raise RelayError(f"that is no URL of a relay: it begins with one of {known}")
    try:
        return Scheme(match[1].lower()), match[2]
    except ValueError:
        raise RelayError(f"{match[1][:40]}:// is no scheme of a relay; there are {known}") from None


def _split_label(scheme: Scheme, rest: str) -> tuple[str | None, str]:
    # The last one, so that a password with an @ in it does not become part of the host that is shown.
    label, at, host = rest.rpartition("@")
    if not at:
        return None, rest
    if not LABEL.match(label):
        raise RelayError(
            f"{scheme.value}:// ... @: before the @ stands the label of credentials (letters, digits, . _ -), never a"
            " name and a password; `mailsvc route credentials add LABEL` keeps those"
        )
    return label, host


def _split_host(scheme: Scheme, rest: str) -> tuple[str, int]:
    rest = rest.removesuffix("/")
    bracket = re.match(r"\[([^\[\]]*)\](?::(.*))?\Z", rest)
    if bracket is not None:
        host, port = bracket[1], bracket[2]
        try:
            host = str(ipaddress.IPv6Address(host if "%" not in host else ""))
        except ValueError:
            raise RelayError(f"{scheme.value}://: what stands in brackets is no IPv6 address") from None
    elif rest.count(":") > 1:
        raise RelayError(f"{scheme.value}://: an IPv6 address is written in brackets, and a port is a number")
    else:
        host, colon, port = rest.partition(":")
        host = _host(scheme, host)
        port = port if colon else None
    if port is None:
        return host, _PORTS[scheme]
    if not _PORT.match(port) or not 0 < int(port) < 65536:
        raise RelayError(f"{scheme.value}://{_bracketed(host)}: the port must be a number from 1 to 65535")
    return host, int(port)


def _host(scheme: Scheme, text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        pass
    try:
        return parse_domain(text.removesuffix("."))
    except AddressError:
        raise RelayError(f"{scheme.value}://: {text[:80]!a} is no host name and no IP address") from None


def _options(scheme: Scheme, query: str) -> dict[str, list[str]]:
    if "@" in query:  # perhaps the end of a password that had a question mark in it: it must not be shown
        raise RelayError(f"{scheme.value}://: what follows the ? holds an @; write one that belongs there as %40")
    found: dict[str, list[str]] = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if name not in ("verify", "ca", "cert", "pin"):
            raise RelayError(
                f"{scheme.value}://: {name[:40]!a} is no parameter of a relay; there are verify=, ca=, cert=, pin="
            )
        if not equals or not value:
            raise RelayError(f"{scheme.value}://: {name}= has no value; leave it out or write one")
        if name in found and name != "pin":
            raise RelayError(f"{scheme.value}://: {name}= is given twice")
        found.setdefault(name, []).append(_decoded(scheme, value))
    return found


def _decoded(scheme: Scheme, text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise RelayError(f"{scheme.value}://: what is written with % is not UTF-8") from None


def _only(options: dict[str, list[str]], name: str) -> str | None:
    return options[name][0] if name in options else None


def _verify(scheme: Scheme, options: dict[str, list[str]]) -> Verify:
    written = _only(options, "verify")
    if written is None:
        return _default_verify(scheme)
    try:
        return Verify(written)
    except ValueError:
        raise RelayError(f"{scheme.value}://: verify= is none, chain or name") from None


def _default_verify(scheme: Scheme) -> Verify:
    return Verify.NAME if scheme in GUARANTEED else Verify.NONE


def _mistake(relay: Relay) -> str:
    """What is wrong with a relay, "" for nothing."""
    return next(
        (words for words in (*_of_the_place(relay), *_of_the_channel(relay), *_of_the_options(relay)) if words), ""
    )


def _of_the_place(relay: Relay) -> Iterator[str]:
    if relay.path:
        if not relay.is_lmtp or relay.host or relay.port:
            yield "only lmtp:// has a path, and then neither host nor port"
        if not relay.path.startswith("/") or relay.path.endswith("/") or not relay.path.isprintable():
            yield "the path must be that of a UNIX socket, from / on"
        if len(relay.path.encode("utf-8", "surrogatepass")) > SOCKET_PATH_LIMIT:
            yield f"the path of a UNIX socket has {SOCKET_PATH_LIMIT} octets at most"
        return
    if not 0 < relay.port < 65536:
        yield "the port must be a number from 1 to 65535"
    if relay.host and not _is_host(relay.host):
        yield "the host must be a host name or an IP address"
    if relay.is_mx and relay.is_lmtp:
        yield "name a host, or the path of a UNIX socket (lmtp:///run/lmtp.sock)"
    if relay.scheme is Scheme.BACKUP and (not relay.host or not _is_name(relay.host)):
        yield "name the host name that this server has among the MX records"


def _of_the_channel(relay: Relay) -> Iterator[str]:
    if relay.scheme not in GUARANTEED:
        may = "never has TLS" if relay.tls is Tls.NEVER else "may be plain text"
        if relay.label is not None:
            yield f"the channel {may}, so no password goes over it; use tls://, smtps:// or ssl://"
        if relay.verify is not Verify.NONE or relay.ca is not None or relay.cert is not None or relay.pins:
            yield (
                f"the channel {may}, so verify=, ca=, cert= and pin= would promise what is not kept;"
                " use tls://, smtps:// or ssl://"
            )
    if relay.label is not None and relay.is_mx:
        yield "credentials belong to one relay; name its host"


def _of_the_options(relay: Relay) -> Iterator[str]:
    if relay.label is not None and not LABEL.match(relay.label):
        yield "a label has letters, digits and . _ - only, 64 at most"
    if relay.ca is not None:
        if relay.verify is Verify.NONE:
            yield "ca= has no meaning with verify=none; leave out one of them"
        if not relay.ca.startswith("/") or not relay.ca.isprintable():
            yield "ca= must be the full path of a file of certificates, from / on (with / at its end: of a folder)"
    if relay.cert is not None and not _is_certificate_name(relay.cert):
        yield "cert= must be the name of a folder of certificates, or its full path from / on"
    if len(relay.pins) > PINS_LIMIT:
        yield f"there are {PINS_LIMIT} pins at most"
    if not all(_PIN.match(pin) for pin in relay.pins) or len(set(relay.pins)) < len(relay.pins):
        yield "a pin must be the SHA-256 of a public key, 64 hexadecimal digits, as `mailsvc certs show` prints it"


def _is_certificate_name(text: str) -> bool:
    if text.startswith("/"):
        return text.isprintable()
    try:
        return checked_name(text) == text
    except MailsvcError:
        return False


def _is_host(text: str) -> bool:
    try:
        return str(ipaddress.ip_address(text)) == text and "%" not in text
    except ValueError:
        return _is_name(text)


def _is_name(text: str) -> bool:
    try:
        return parse_domain(text) == text
    except AddressError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_HOW = {
    Scheme.SMTP_TLS: "with STARTTLS when it is offered, else in plain text",
    Scheme.SMTP: "in plain text, never with TLS",
    Scheme.TLS: "with STARTTLS, or not at all",
    Scheme.SMTPS: "inside TLS from the first octet, or not at all",
    Scheme.SSL: "with STARTTLS or else inside TLS from the first octet, or not at all",
    Scheme.LMTP: "with LMTP, in plain text",
    Scheme.BACKUP: "with STARTTLS when it is offered, else in plain text",
}


def _place(relay: Relay) -> str:
    if relay.path:
        return f"the UNIX socket {relay.path}"
    ports = " or ".join(str(way.port) for way in relay.ways[: 2 if relay.port == _PORTS[relay.scheme] else 1])
    if relay.scheme is Scheme.BACKUP:
        return f"the MX hosts of the domain that are better than {relay.host}, port {ports}"
    if relay.is_mx:
        return f"the MX hosts of the domain, port {ports}"
    return f"{relay.host} port {ports}"


def _checked(relay: Relay) -> str:
    trusted = "the system's roots" if relay.ca is None else f"the certificates in {relay.ca}"
    pins = "the pinned key" if len(relay.pins) == 1 else "one of the pinned keys"
    words = {
        Verify.NONE: f"it must have {pins}" if relay.pins else "whoever answers is accepted, no certificate is checked",
        Verify.CHAIN: f"its certificate must lead to {trusted}, for whatever name",
        Verify.NAME: f"its certificate must name it and lead to {trusted}",
    }[relay.verify]
    return f"{words}, and it must have {pins}" if relay.pins and relay.verify is not Verify.NONE else words


MX = Relay(Scheme.SMTP_TLS, "", 25, Verify.NONE)
"""What holds where there is no route: the MX hosts, with TLS when they have it, stricter when a policy says so."""
