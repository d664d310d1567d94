"""The names in a certificate, and which of them cover a host name (RFC 9525).

Only the subjectAltName counts: a common name is a label for people and covers nothing (RFC 9525 section 2),
and a certificate without a subjectAltName covers no host at all; some TLS libraries, Twisted's among them,
see that differently, which is why the rule stands here once. A wildcard is a whole first label and stands for
exactly one label (section 6.3).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from cryptography import x509

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Names:
    """What a subjectAltName says: host names in lower case (wildcards as `*.example.org`), IP addresses, mail
    addresses."""

    hosts: tuple[str, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    emails: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join((*self.hosts, *map(str, self.addresses), *self.emails)) or "none"

    def cover(self, hostname: str) -> bool:
        """Whether a client that wants `hostname` (a host name or an IP address) accepts a certificate with
        these names."""
        try:
            return ipaddress.ip_address(hostname.strip("[]")) in self.addresses
        except ValueError:
            pass
        wanted = normal(hostname)
        return wanted in self.hosts or wildcard_for(wanted) in self.hosts


def names_of(certificate: x509.Certificate) -> Names:
    """The names in the certificate's subjectAltName; none when it has no such extension. ValueError when it
    is malformed."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names()
    return names_in(found)


def names_in(found: x509.SubjectAlternativeName) -> Names:
    """The names in such an extension, a certificate's or a request's. ValueError when it is malformed."""
    return Names(
        tuple(normal(name) for name in found.get_values_for_type(x509.DNSName)),
        tuple(
            value
            for value in found.get_values_for_type(x509.IPAddress)
            if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address)
        ),
        tuple(found.get_values_for_type(x509.RFC822Name)),
    )


def normal(hostname: str) -> str:
    """A host name as it is compared: lower case, A-labels, no final dot."""
    text = hostname.removesuffix(".")
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            return text.lower()
    return text.lower()


def ascii_host(text: str) -> str | None:
    """A host name as a certificate holds it: lower case, A-labels, no final dot; a first label `*` may stand
    before two others. None when the text is no host name."""
    text = text.strip().removesuffix(".")
    try:
        name = text.lower() if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    labels = name.split(".")
    checked = labels[1:] if labels[0] == "*" and len(labels) > 2 else labels
    if len(name) > 253 or not all(_is_label(label) for label in checked) or checked[-1].isdigit():
        return None
    return name


def _is_label(label: str) -> bool:
    return (
        0 < len(label) <= 63
        and label.isascii()
        and all(char.isalnum() or char in "-_" for char in label)
        and label[0] != "-"
        and label[-1] != "-"
    )


def wildcard_for(hostname: str) -> str | None:
    """The wildcard that would cover this host name: `*.example.org` for `mail.example.org`, None for a single
    label."""
    first, dot, rest = hostname.partition(".")
    return f"*.{rest}" if first and first != "*" and dot and rest else None
