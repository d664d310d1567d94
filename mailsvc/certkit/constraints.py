"""Name constraints: a CA that can only ever speak for some names (RFC 5280 section 4.2.1.10).

Who steals the key of a private CA can make a certificate for any name in the world that those who trust the
CA will believe; with constraints only for the names in them, and installing that CA is a small favour to ask.
The hardest part is what is *not* named: a constraint binds only names of its own kind, so a CA that may speak
for example.org could still issue for any IP address. `permitting` therefore closes the kinds that nobody asked
for.

`outside` is the check of one name, for us before we issue and for `certkit.trust` afterwards. OpenSSL also
looks at a common name that could be a host when there is no host in the subjectAltName; so does this.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

from mailsvc.certkit.names import ascii_host
from mailsvc.errors import MailsvcError

_EVERY_NETWORK = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))


def permitting(names: Sequence[str]) -> x509.NameConstraints:
    """Constraints that allow these domains (with all below them, and mail addresses in them) and IP networks,
    and nothing else of these kinds.

    Raises MailsvcError for what is neither, or when there is no domain.
    """
    domains: list[str] = []
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for name in dict.fromkeys(each.strip() for each in names):
        try:
            networks.append(ipaddress.ip_network(name))
            continue
        except ValueError:
            pass
        domain = ascii_host(name.removeprefix("."))
        if domain is None or domain.startswith("*"):
            raise MailsvcError(
                f"{name!r} is neither a domain (example.org, with all below it) nor an IP network (10.0.0.0/8)"
            )
        domains.append(domain)
    if not domains:
        raise MailsvcError("a CA's names are limited to domains first; permit at least one domain")
    permitted: list[x509.GeneralName] = [x509.DNSName(domain) for domain in domains]
    for domain in domains:
        permitted += [x509.RFC822Name(domain), x509.RFC822Name(f".{domain}")]
    permitted += [x509.IPAddress(network) for network in networks]
    versions = {network.version for network in networks}
    excluded = [x509.IPAddress(every) for every in _EVERY_NETWORK if not versions]
    return x509.NameConstraints(permitted, excluded or None)


def constraints_of(certificate: x509.Certificate) -> x509.NameConstraints | None:
    """The name constraints in a certificate, None without."""
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def in_words(constraints: x509.NameConstraints) -> str:
    """ "example.org; not any IP address": what may and what must not be named."""
    permitted = list(dict.fromkeys(_show(each) for each in constraints.permitted_subtrees or ()))
    # our own lists name a domain's mail addresses beside it, twice; once is enough for people
    short = [each for each in permitted if not each.startswith("@") or each[1:].removeprefix(".") not in permitted]
    excluded = [_show(each) for each in constraints.excluded_subtrees or ()]
    every = [str(each) for each in _EVERY_NETWORK]
    if all(each in excluded for each in every):
        excluded = ["any IP address", *(each for each in excluded if each not in every)]
    parts = ([", ".join(short)] if short else ["any name"]) + ([f"not {', '.join(excluded)}"] if excluded else [])
    return "; ".join(parts)


def constrained_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """What constraints are compared with: the subjectAltName, and without a host in it a common name that looks
    like one."""
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    commons = (str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    return [*names, *as_hosts(names, commons)]


def as_hosts(names: Iterable[x509.GeneralName], common_names: Iterable[str]) -> list[x509.GeneralName]:
    """The common names that count as host names beside these subjectAltNames."""
    if any(isinstance(name, x509.DNSName) for name in names):
        return []
    return [x509.DNSName(host) for text in common_names if "." in text and (host := ascii_host(text))]


def outside(constraints: x509.NameConstraints, name: x509.GeneralName) -> bool:
    """Whether the constraints forbid this name: it is excluded, or others of its kind are permitted and it is
    not. Kinds other than host, IP and mail address are not looked at."""
    if any(_within(name, each) for each in constraints.excluded_subtrees or ()):
        return True
    same = [each for each in constraints.permitted_subtrees or () if type(each) is type(name)]
    return isinstance(name, _KNOWN) and bool(same) and not any(_within(name, each) for each in same)


_KNOWN = (x509.DNSName, x509.IPAddress, x509.RFC822Name)


def _within(name: x509.GeneralName, subtree: x509.GeneralName) -> bool:
    match name, subtree:
        case x509.DNSName(), x509.DNSName():
            return _below(name.value.lower(), subtree.value.lower())
        case x509.RFC822Name(), x509.RFC822Name():
            limit, host = subtree.value.lower(), name.value.lower().rpartition("@")[2]
            if "@" in limit:
                return name.value.rpartition("@")[0] == subtree.value.rpartition("@")[0] and limit.endswith(f"@{host}")
            return host.endswith(limit) if limit.startswith(".") else host == limit
        case x509.IPAddress(), x509.IPAddress():
            network = subtree.value
            return (
                isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network)
                and isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address)
                and name.value in network
            )
    return False


def _below(host: str, limit: str) -> bool:
    if not limit:
        return True
    if limit.startswith("."):
        return host.endswith(limit)
    return host == limit or host.endswith(f".{limit}")


def _show(name: x509.GeneralName) -> str:
    return f"@{name.value}" if isinstance(name, x509.RFC822Name) and "@" not in name.value else str(name.value)
