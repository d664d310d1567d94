"""Handing one message over now, without a queue: to a relay that is named, or to the MX hosts of each recipient.

The queue's way is `mailsvc.relay.attempt`, which knows rows and routes; here are a message and a place.  Both stand on
the same parts: `mailsvc.relay.stops` finds hosts and says what the channel must be (DANE, MTA-STS, REQUIRETLS),
`mailsvc.relay.client` talks.

The hardest idea is that there is no second time.  Somebody waits for the answer, so every recipient gets an outcome
before `Delivering.deliver` ends, whatever happens; "try again later" is an answer, and trying again is left to others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random, SystemRandom
from typing import Any

from twisted.internet.defer import Deferred, succeed

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address
from mailsvc.relay import client
from mailsvc.relay.client import Refused
from mailsvc.relay.demands import StsFacts
from mailsvc.relay.hosts import NoHosts
from mailsvc.relay.logins import RelayLogin
from mailsvc.relay.means import Means
from mailsvc.relay.mx import Exchangers
from mailsvc.relay.outcome import Outcome, Phase, refused_here
from mailsvc.relay.outgoing import Outgoing, Said, Timeouts
from mailsvc.relay.policies import Policies
from mailsvc.relay.routes import ToMX
from mailsvc.relay.stops import Stop, by_no_hosts, how_to, stops_of, way_to
from mailsvc.relay.url import Relay, Scheme
from mailsvc.relay.weighing import weighed
from mailsvc.resolver import Resolver
from mailsvc.storage.outbound import OutboundMessage
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Demand

Remembered = Callable[[str], Demand]
"""What the downgrade memory demands of a domain; may block for a moment."""

Sts = Callable[[str], Awaitable[StsFacts]]
"""What MTA-STS says of a domain; never raises."""


def nothing_remembered(domain: str) -> Demand:
    """The memory of who has none."""
    return Demand(Level.PLAIN, "nothing is remembered")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to.  ``relay`` without a host: to the MX hosts, under its demands.

    ``addresses``: IP addresses of its host, none to look its name up.  ``login``: when the URL names no label.
    """

    relay: Relay
    addresses: tuple[str, ...] = ()
    login: RelayLogin | None = None


@dataclass(frozen=True, slots=True)
class Manner:
    """How.  ``hostname``: what EHLO says.  ``listener``: told each line of the dialogues as it is said."""

    hostname: str
    timeouts: Timeouts = field(default_factory=Timeouts)
    listener: Callable[[Said], None] | None = None


class Memory:
    """The one question that `Policies` asks a store, answered without a database."""

    def __init__(self, remembered: Remembered) -> None:
        self._remembered = remembered

    def read(self, fn: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """What is remembered of the domain among the arguments of `mailsvc.storage.tls_policies.demanded`."""
        return succeed(self._remembered(args[1]))

    def write(self, fn: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Nothing is learned: what is sent by hand is no promise of how the next message travels."""
        return succeed(None)


class Delivering:
    """Hands messages over.

    ``ours``: names of this host, whose MX records mean a loop.  ``private``: as for `mailsvc.relay.mx.Exchangers`.
    """

    def __init__(
        self,
        reactor: Any,
        resolver: Resolver,
        sts: Sts,
        means: Means,
        *,
        remembered: Remembered = nothing_remembered,
        ours: Iterable[str] = (),
        private: Collection[str] = (),
        random: Random | None = None,
    ) -> None:
        self._reactor = reactor
        self._means = means
        self._random = random or SystemRandom()
        self._exchangers = Exchangers(resolver, frozenset(ours), self._random, private=private)
        self._policies = Policies(resolver, Memory(remembered), reactor, sts)

    async def deliver(self, outgoing: Outgoing, place: Place, manner: Manner) -> Mapping[Address, Outcome]:
        """The outcome of each recipient, in their order.  Raises nothing that can be foreseen."""
        trial = _Trial(outgoing)
        if place.relay.scheme is Scheme.BACKUP:
            trial.note_all(refused_here("backup:// is a route of a backup MX, and no place to send to", "5.3.5"))
        elif not place.relay.is_mx:
            relay = place.relay
            stop = Stop(relay, relay.host or relay.path, addresses=place.addresses)
            await self._try(trial, outgoing.recipients, stop, place, manner)
        else:
            domains: dict[str, list[Address]] = {}
            for recipient in outgoing.recipients:
                domains.setdefault(recipient.domain, []).append(recipient)
            for domain, recipients in domains.items():
                await self._to_domain(trial, domain, recipients, place, manner)
        return trial.result()

    async def _to_domain(
        self, trial: _Trial, domain: str, recipients: Sequence[Address], place: Place, manner: Manner
    ) -> None:
        stops = await stops_of(ToMX(domain, place.relay), self._exchangers, self._random)
        if isinstance(stops, NoHosts):
            trial.note(dict.fromkeys(recipients, by_no_hosts(stops)))
            return
        for stop in stops:
            waiting = [each for each in recipients if each in trial.waiting]
            if not waiting:
                return
            await self._try(trial, waiting, stop, place, manner)

    async def _try(
        self, trial: _Trial, recipients: Sequence[Address], stop: Stop, place: Place, manner: Manner
    ) -> None:
        """Give the message to one server."""
        outgoing = replace(trial.outgoing, recipients=tuple(recipients))
        try:
            needed, where = await way_to(stop, _message(outgoing), self._exchangers, self._policies)
            if isinstance(where, Outcome):
                trial.note(dict.fromkeys(recipients, where))
                return
            how = await how_to(
                stop.relay,
                needed,
                self._means,
                manner.hostname,
                manner.timeouts,
                login=place.login,
                listener=manner.listener,
            )
        except MailsvcError as why:
            host = "" if stop.found is None else stop.host
            trial.note(dict.fromkeys(recipients, refused_here(str(why), "4.3.0", Phase.CONNECT, host)))
            return
        try:
            conversation = await client.connect(self._reactor, where, how)
        except Refused as refused:
            outcome = refused.outcome.on(stop.host, Level.PLAIN, how.demanded, "")
            if outcome.phase is Phase.TLS:
                outcome = replace(outcome, text=f"{outcome.text}{needed.because}")
            trial.note(dict.fromkeys(recipients, outcome))
            return
        try:
            outcomes = await conversation.deliver(outgoing)
        finally:
            await conversation.quit()
        trial.note(outcomes)


class _Trial:
    """A message on its way; ``waiting``: who has no decision yet."""

    def __init__(self, outgoing: Outgoing) -> None:
        self.outgoing = outgoing
        self.waiting = dict.fromkeys(outgoing.recipients)
        self._heard: dict[Address, list[Outcome]] = {each: [] for each in outgoing.recipients}

    def note(self, outcomes: Mapping[Address, Outcome]) -> None:
        """A server has decided, or could not, and then another one may."""
        for address, outcome in outcomes.items():
            self._heard[address].append(outcome)
            if not outcome.elsewhere:
                self.waiting.pop(address, None)

    def note_all(self, outcome: Outcome) -> None:
        """The same for everybody."""
        self.note(dict.fromkeys(self.outgoing.recipients, outcome))

    def result(self) -> dict[Address, Outcome]:
        """The outcome of each."""
        return {address: weighed(heard) for address, heard in self._heard.items()}


def _message(outgoing: Outgoing) -> OutboundMessage:
    """What `Policies` wants to know of a message: whether it demands REQUIRETLS."""
    sender = "" if outgoing.reverse_path is None else str(outgoing.reverse_path)
    flags = outgoing.smtputf8, outgoing.body_8bit, outgoing.require_tls, False
    return OutboundMessage(0, "", sender, 0.0, outgoing.size, 0, *flags, None, None)
