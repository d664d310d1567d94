"""How much a TLS connection to a server proves, as one ordered value; what was seen and what was wanted.

Two questions that many mail programs mix up are two functions here. `observed` says what the handshake and
the checks after it *showed*; `judge` compares that with what a policy *requires*. So a connection that was
made opportunistically can still be told truthfully as "the name was verified", and a stricter policy never
changes what is reported. Checking certificates is left to `mailsvc.tls.chain` and
`mailsvc.tls.dane`; deciding which level a destination deserves (DANE, MTA-STS, a relay's URL) to the relay.

The order of the last two: DANE stands above PKIX because its answer comes from the domain that receives the
mail, and RFC 7672 section 2.2 lets usable TLSA records decide alone; RFC 8461 section 2 forbids MTA-STS to
override them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """What a connection proves, from nothing to most. Levels compare: `Level.PLAIN < Level.ENCRYPTED`."""

    PLAIN = 0
    """No TLS: everybody on the way can read and change the mail."""
    ENCRYPTED = 1
    """TLS with an unknown peer: safe from those who only listen."""
    CHAIN = 2
    """The certificate's chain leads to a trusted root, for whatever name."""
    NAME = 3
    """The chain is verified and the certificate names the server that we meant (RFC 9525), or its key is pinned."""
    DANE = 4
    """A TLSA record, signed by DNSSEC, matches the certificate (RFC 7672)."""

    @property
    def text(self) -> str:
        """The level in words, as it stands in logs and reports."""
        return _TEXTS[self]


_TEXTS = {
    Level.PLAIN: "not encrypted",
    Level.ENCRYPTED: "encrypted, peer not authenticated",
    Level.CHAIN: "encrypted, certificate chain verified, name not verified",
    Level.NAME: "encrypted, server name verified",
    Level.DANE: "encrypted, server verified with DANE",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was required beside what was observed; `met` says whether the connection may be used."""

    required: Level
    observed: Level

    @property
    def met(self) -> bool:
        """Whether what was observed is at least what was required."""
        return self.observed >= self.required

    def __str__(self) -> str:
        if self.met:
            return f"{self.observed.text} (required: {self.required.text})"
        return f"the connection is {self.observed.text}, but the policy requires: {self.required.text}"


def observed(*, encrypted: bool, chain: bool = False, name: bool = False, dane: bool = False) -> Level:
    """The level that these facts add up to.

    `encrypted`: a handshake has finished; nothing else counts without it. `chain`: the chain was checked in
    this session (or the session that it resumes) without any error. `name`: the certificate covers the
    server's name; alone it proves nothing, because anybody can write any name into a certificate. `dane`: a
    usable TLSA record matches by the rules of RFC 7672 section 3.
    """
    if not encrypted:
        return Level.PLAIN
    if dane:
        return Level.DANE
    if chain and name:
        return Level.NAME
    return Level.CHAIN if chain else Level.ENCRYPTED


def judge(required: Level, seen: Level) -> Verdict:
    """Whether a connection of level `seen` is good enough where `required` is. Never lowers either."""
    return Verdict(required, seen)
