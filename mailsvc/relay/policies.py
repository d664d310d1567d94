"""What the channel to one host must be for one message: what is published, remembered, set and wished, put together.

`mailsvc.relay.demands` joins the facts; here they are gathered for mail on its way.  A URL that names its relay is the
whole policy of that relay (only a fallback to plain text is watched by the downgrade memory); DANE and MTA-STS are
about MX hosts, whose names come from DNS.

The hardest idea is who may lower a demand.  Nobody on the network can.  The sender can, for what the *recipient's*
domain publishes and for what was seen of it, by ``TLS-Required: No`` (RFC 8689 section 5), because then the message is
worth more to him than its secrecy; never for what the postmaster has set or a route's URL demands.  The postmaster can,
for a while (`mailsvc tls policy override`).  And REQUIRETLS raises it for one message: the name must be verified, and
the name must come from a source that can be believed (RFC 8689 section 4.2.1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.mail.address import AddressError, parse_domain
from mailsvc.mtasts.record import PolicyMode
from mailsvc.relay.demands import DaneFacts, Requirement, StsFacts, requirement
from mailsvc.relay.facts import dane_facts
from mailsvc.relay.mx import Found
from mailsvc.relay.outcome import Outcome, Phase, by_tls, refused_here
from mailsvc.relay.url import Relay, Tls
from mailsvc.resolver import Resolver
from mailsvc.storage import tls_policies
from mailsvc.storage.outbound import OutboundMessage
from mailsvc.storage.store import Store
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import RENEW_SECONDS, Demand
from mailsvc.tls.observation import ServerIdentity

StsSource = Callable[[str], Awaitable[StsFacts]]
"""What MTA-STS says of a domain.  Raises `mailsvc.errors.TemporaryFailure` of the database."""

_NOTHING = Demand(Level.PLAIN, "nothing is remembered")
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Needed:
    """What is demanded of the channel beyond the relay's URL, and from which facts.

    ``tlsa`` and ``tlsa_names`` are for the check of the certificate.  ``refusal``: this host is not to be used.
    ``remembers``: what is shown teaches the downgrade memory about this domain, "" for none.
    """

    level: Level = Level.PLAIN
    reasons: tuple[str, ...] = ()
    tlsa: tuple[TLSARecord, ...] = ()
    tlsa_names: tuple[str, ...] = ()
    refusal: Outcome | None = None
    remembers: str = ""
    dane: DaneFacts = field(default_factory=DaneFacts)
    sts: StsFacts = field(default_factory=StsFacts)

    @property
    def because(self) -> str:
        """The reasons as the end of a sentence, "" without."""
        return f", because {' and '.join(self.reasons)}" if self.reasons else ""


class Policies:
    """Asks DNS, MTA-STS (``sts``) and the memory.  ``seconds``: for how long it remembers, 0 for not at all."""

    _log = Logger()

    def __init__(
        self, resolver: Resolver, store: Store, clock: IReactorTime, sts: StsSource, *, seconds: float = 0.0
    ) -> None:
        self._resolver = resolver
        self._store = store
        self._clock = clock
        self._sts = sts
        self._seconds = seconds
        self._noted: dict[tuple[str, Level], float] = {}

    async def of_mx(self, found: Found, host: str, relay: Relay, message: OutboundMessage) -> Needed:
        """What an MX host must be.  ``relay`` says how; raises `mailsvc.errors.TemporaryFailure` of the database."""
        dane, sts, memory, remembers = DaneFacts(), StsFacts(found.domain), _NOTHING, ""
        if relay.tls is not Tls.NEVER and not found.is_literal:
            remembers = found.domain
            memory = await self._remembered(remembers)
            sts = await self._sts(found.domain)
            dane = await self._dane(found, host, relay)
        demanded = requirement(host, dane, sts, memory)
        if message.tls_optional and not message.require_tls and not memory.by_postmaster:
            # Also no obstacle: the sender prefers it delivered (RFC 8689 section 5).
            demanded = Requirement(Level.PLAIN)
        level, reasons, refusal = demanded.level, demanded.reasons, None
        if demanded.obstacle:
            text = f"{host} is not used now: {demanded.obstacle}"
            refusal = by_tls(text, host).on(host, Level.PLAIN, max(level, relay.required), "")
        if message.require_tls:
            level, reasons = _required(level, reasons)
            if refusal is None and not (found.authentic or found.is_literal or _names(sts, host)):
                text = (
                    f"the sender demands REQUIRETLS, and nobody vouches for {host} being an MX host of {found.domain}:"
                    " neither DNSSEC nor an MTA-STS policy"
                )
                refusal = refused_here(text, "5.7.30", Phase.TLS, host)
        names = (found.domain,) if dane.records else ()
        return Needed(level, reasons, dane.records, names, refusal, remembers, dane, sts)

    async def of_relay(self, relay: Relay, message: OutboundMessage) -> Needed:
        """What a relay must be that its URL names.  Raises `mailsvc.errors.TemporaryFailure` of the database."""
        level, reasons, remembers = Level.PLAIN, tuple[str, ...](), ""
        if relay.tls is Tls.TRY and (remembers := _domain(relay.host)):
            memory = await self._remembered(remembers)
            if memory.level > Level.PLAIN and (memory.by_postmaster or not message.tls_optional):
                level, reasons = memory.level, (memory.why,)
        if message.require_tls and not relay.path:
            level, reasons = _required(level, reasons)
        return Needed(level, reasons, remembers=remembers)

    def shown(self, needed: Needed, identity: ServerIdentity | None) -> None:
        """A host has taken mail over such a channel: remember what it has shown."""
        level, now = _lasting(identity), self._clock.seconds()
        key = (needed.remembers, level)
        last = self._noted.get(key)
        if not self._seconds or not needed.remembers or level is Level.PLAIN:
            return
        if last is not None and 0 <= now - last < RENEW_SECONDS:
            return
        if len(self._noted) >= _KEPT:
            self._noted.clear()
        self._noted[key] = now
        noted = self._store.write(tls_policies.note_shown, "out", needed.remembers, "", level, now, self._seconds)
        noted.addErrback(self._not_noted, key)

    async def _remembered(self, domain: str) -> Demand:
        now = self._clock.seconds()
        return await self._store.read(tls_policies.demanded, "out", domain, "", now, self._seconds)

    async def _dane(self, found: Found, host: str, relay: Relay) -> DaneFacts:
        if relay.ca is not None or relay.pins:
            return DaneFacts(remark="the route says whom to trust")
        if not found.authentic:
            # RFC 7672 section 2.2.1: whoever can forge the MX can name a host of his own.
            return DaneFacts(remark=found.doubt)
        return await dane_facts(host, relay.port, self._resolver)

    def _not_noted(self, failure: object, key: tuple[str, Level]) -> None:
        # The next delivery teaches the same.
        self._noted.pop(key, None)
        why = getattr(failure, "getErrorMessage", str)()
        self._log.warn("what TLS {domain} has shown was not noted: {why}", domain=key[0], why=why)


def _required(level: Level, reasons: tuple[str, ...]) -> tuple[Level, tuple[str, ...]]:
    if level >= Level.NAME:
        return level, reasons
    return Level.NAME, ("the sender demands REQUIRETLS",)


def _names(sts: StsFacts, host: str) -> bool:
    return sts.policy is not None and sts.policy.mode is not PolicyMode.NONE and sts.policy.allows(host)


def _lasting(identity: ServerIdentity | None) -> Level:
    """What is worth remembering of a channel.

    Never DANE: DNSSEC proves at any time whether the records are still there, so a domain that has withdrawn them is
    not held to them; beside DANE counts what the certificate proves by itself.
    """
    if identity is None:
        return Level.PLAIN
    if identity.level is not Level.DANE:
        return identity.level
    if identity.chain_findings:
        return Level.ENCRYPTED
    return Level.CHAIN if identity.name_findings else Level.NAME


def _domain(host: str) -> str:
    """The name that the memory knows a relay by; "" for an address."""
    try:
        return parse_domain(host)
    except AddressError:
        return ""
