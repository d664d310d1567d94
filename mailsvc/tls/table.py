"""Which credential answers to which name: one immutable table.

SNI (RFC 6066 section 3) gives the server a host name, or nothing: an exact name wins over a wildcard, and
whatever no certificate covers gets the default. A mail server must not refuse an unknown name, because
senders put in MX names that it has never heard of and then do not even check them. Replacing a certificate
means making a new table; whoever holds the old one keeps a consistent view. Where a table comes from (files,
later rows) is left to `tls.sources`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from mailsvc.certkit.names import normal, wildcard_for
from mailsvc.tls.credential import Credential


@dataclass(frozen=True, slots=True)
class CredentialTable:
    """Credentials by name. Make one with `make_table`."""

    default: Credential
    by_name: Mapping[str, Credential] = field(repr=False)
    credentials: tuple[Credential, ...]

    def lookup(self, server_name: str | None) -> Credential:
        """The credential for the name that a client asked for; the default for an unknown name or none. Never
        fails."""
        if not server_name:
            return self.default
        wanted = normal(server_name)
        found = self.by_name.get(wanted) or self.by_name.get(wildcard_for(wanted) or "")
        return found or self.default


def make_table(credentials: Sequence[Credential], hostname: str) -> CredentialTable:
    """The table of these credentials, whose default is the one that covers `hostname` (else the first).

    Where two cover one name, that of the folder called so wins, then the one that lives longest, then the
    first in the order of the folders' names: the same files always give the same table.
    """
    if not credentials:
        raise ValueError("a table needs at least one credential")
    by_name: dict[str, Credential] = {}
    for credential in credentials:
        for host in credential.names.hosts:
            by_name[host] = max(by_name.get(host, credential), credential, key=lambda each: _rank(each, host))
    candidates = [each for each in credentials if each.names.cover(hostname)] or list(credentials[:1])
    default = by_name.get(normal(hostname)) or max(candidates, key=lambda each: _rank(each, hostname))
    return CredentialTable(default, MappingProxyType(by_name), tuple(credentials))


def _rank(credential: Credential, host: str) -> tuple[bool, float]:
    return normal(credential.name) == normal(host), credential.not_after.timestamp()
