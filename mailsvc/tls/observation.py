"""What was seen of a server, as a value: for the relay's decision, the probe's report, events and rows.

`mailsvc.tls.client` makes it; nothing in it refers to OpenSSL, and it outlives the connection. It tells
everything that was found, also what the policy did not ask for, so that a report need not guess; whether the
connection may be used is one question to it, `verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509

from mailsvc.tls.chain import ChainFinding
from mailsvc.tls.dane import DaneMatch
from mailsvc.tls.levels import Level, Verdict, judge


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a handshake showed about a server.

    `level` is what was observed and `required` what the policy wants; `verdict` compares them. `chain` is the
    chain that was built, the server's certificate first; `sent` the certificates that the server sent (for a
    resumed session: then). `chain_findings` and `name_findings` are everything that is wrong, also where the
    level does not care (`pinned`, `dane`). `dane` is None when there were no TLSA records to match. `cipher`
    and `group` are None when the handshake was refused before they were known.
    """

    server_name: str
    required: Level
    level: Level
    version: str
    cipher: str | None
    bits: int | None
    group: str | None
    chain: tuple[x509.Certificate, ...] = field(repr=False)
    sent: tuple[x509.Certificate, ...] = field(repr=False)
    chain_findings: tuple[ChainFinding, ...]
    name_findings: tuple[ChainFinding, ...]
    pinned: bool
    dane: DaneMatch | None
    resumed: bool

    @property
    def verdict(self) -> Verdict:
        """What was required beside what was observed."""
        return judge(self.required, self.level)

    @property
    def findings(self) -> tuple[ChainFinding, ...]:
        """Everything that is wrong with the certificates, the chain first."""
        return (*self.chain_findings, *self.name_findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the server is refused, a sentence each; empty when it is not."""
        if self.verdict.met:
            return ()
        said = [each.text for each in self.findings]
        if self.dane is not None and not self.dane.matched:
            usable = self.dane.usable
            said.append(
                f"none of the {usable} usable TLSA records of {self.server_name} matches its certificates; "
                "its owner must publish the right ones"
                if usable
                else f"{self.server_name} has TLSA records, but none that can be used; its owner must mend them"
            )
        return tuple(said) or (str(self.verdict),)
