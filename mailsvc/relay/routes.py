"""Where a recipient's mail goes: one route out of the table, or the MX hosts of the domain.

`plan` is a pure function of an envelope's facts and the table, and tells its way in words (`Plan.steps`), for ``mailsvc
route explain`` and ``mailsvc why``.  Finding hosts and connecting is left to `mailsvc.relay.attempt`; the rows are
`mailsvc.storage.routes`.

What is most particular decides: the recipient's domain, then a domain above it (``*.example.org``), then the account
that handed the message in, the sender's address, the sender's domain, the default route.  The recipient comes first
because a route for a domain is a statement about where that domain *is* (an internal server, a domain that we are the
backup of), and no sender can change that.

The hardest idea is that a route is the whole answer.  When all its relays fail the message waits; it is not tried by
another route or directly, because the route may be there just for what the direct way lacks (a channel, a licence to
send, a reputation).  Who wants that writes the MX hosts into the route, as its last URL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Protocol

from mailsvc.mail.address import Address
from mailsvc.relay.url import MX, Relay, RelayError, Scheme, Tls

RELAYS_LIMIT = 20
"""Relays of one route."""

WEIGHT_LIMIT = 65535
"""The largest weight of a relay, as that of an SRV record (RFC 2782)."""

AT_ONCE_LIMIT = 10_000
"""The largest limit of conversations, as that of the setting ``per_destination``."""


class RouteKind(Enum):
    """What a route goes by."""

    TO = "to"
    """The recipient's domain; ``*.example.org`` for all domains below example.org."""
    ACCOUNT = "account"
    """The account that handed the message in (`Address.key`)."""
    FROM = "from"
    """The sender: an `Address.key`, or a domain."""
    DEFAULT = "default"
    """Everything else; its key is ""."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route: its relays in the order in which they are tried, or by weight (1 to 65535, one for each relay).

    ``at_once``: the most conversations at a time, 1 to 10,000; None for the configuration's.

    Raises `RelayError` when the relays and the weights do not fit, or ``at_once`` is out of its range.
    """

    kind: RouteKind
    key: str
    relays: tuple[Relay, ...]
    weights: tuple[int, ...] = ()
    at_once: int | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.relays) <= RELAYS_LIMIT:
            raise RelayError(f"a route has 1 to {RELAYS_LIMIT} relays")
        if self.at_once is not None and not 0 < self.at_once <= AT_ONCE_LIMIT:
            raise RelayError(f"a route allows 1 to {AT_ONCE_LIMIT} conversations at once")
        if not self.weights:
            return
        if len(self.weights) != len(self.relays):
            raise RelayError("give a weight for each relay of the route, or none at all")
        if not all(0 < weight <= WEIGHT_LIMIT for weight in self.weights):
            raise RelayError(f"a weight is a number from 1 to {WEIGHT_LIMIT}")
        if any(relay.is_mx or relay.scheme is Scheme.BACKUP for relay in self.relays):
            raise RelayError("weights are for relays that are named; MX hosts have preferences of their own")

    @property
    def name(self) -> str:
        """The route in a word or two, as `mailsvc route list` shows it; it tells routes apart."""
        return f"{self.kind.value} {self.key}" if self.key else self.kind.value

    @property
    def limit_in_words(self) -> str:
        """What ``at_once`` means; "" when it is None."""
        if self.at_once is None:
            return ""
        by_domain = any(relay.is_mx or relay.scheme is Scheme.BACKUP for relay in self.relays)
        many = "one conversation" if self.at_once == 1 else f"{self.at_once} conversations"
        return f"at most {many} at a time{' for each domain' if by_domain else ''}"


@dataclass(frozen=True, slots=True)
class ToRelays:
    """Named relays, tried in this order; with ``weights`` (one each) in an order that is drawn, see `in_order`."""

    relays: tuple[Relay, ...]
    weights: tuple[int, ...] = ()

    @property
    def by_weight(self) -> bool:
        """Whether the order is drawn."""
        return bool(self.weights)


@dataclass(frozen=True, slots=True)
class ToMX:
    """The MX hosts of ``domain`` (a domain, or an address literal in brackets).  ``relay``: how; its host is ""."""

    domain: str
    relay: Relay


@dataclass(frozen=True, slots=True)
class ToBackup:
    """The MX hosts of ``domain`` that are better than ``our_name``, and never ``our_name`` or worse ones."""

    domain: str
    our_name: str
    relay: Relay


Target = ToRelays | ToMX | ToBackup
"""Something to try."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How mail for one recipient travels: ``targets`` are tried one after the other, until one takes or refuses it.

    ``steps``: how that was found, a sentence each.  ``route``: `Route.name` of the route, "mx" when there is none;
    ``at_once``: its limit.
    Equal targets of two recipients mean that they can travel in one transaction.
    """

    steps: tuple[str, ...]
    targets: tuple[Target, ...]
    route: str = "mx"
    at_once: int | None = None


class RouteTable(Protocol):
    """The routes, at one moment."""

    def route(self, kind: RouteKind, key: str) -> Route | None:
        """The route of this kind and key."""


def plan(recipient: Address, sender: Address | None, account: Address | None, tables: RouteTable) -> Plan:
    """Where mail for ``recipient`` goes.

    ``sender``: the reverse path, None for a notice (RFC 5321 section 4.5.5).  ``account``: whose login handed the
    message in, None for mail that came otherwise.
    """
    steps: list[str] = []
    for kind, key, words in _questions(recipient.domain, sender, account):
        found = tables.route(kind, key)
        if found is None:
            steps.append(f"there is no route {words}")
            continue
        steps.append(f"there is a route {words}")
        targets = tuple(targets_of(found, recipient.domain))
        steps += _told(targets)
        if found.at_once is not None:
            steps.append(found.limit_in_words)
        return Plan(tuple(steps), targets, found.name, found.at_once)
    targets = (ToMX(recipient.domain, MX),)
    return Plan((*steps, *_told(targets)), targets)


def in_order(target: ToRelays, random: Random) -> tuple[Relay, ...]:
    """The relays in the order in which to try them this time.

    By weight, each next one is drawn with a chance in proportion to its weight among those that are left (the rule of
    RFC 2782 for SRV records), so that every relay has its turn when the others fail.
    """
    if not target.by_weight:
        return target.relays
    left = list(zip(target.relays, target.weights, strict=True))
    order = []
    while left:
        (place,) = random.choices(range(len(left)), [weight for _, weight in left])
        order.append(left.pop(place)[0])
    return tuple(order)


def parents(domain: str) -> Iterator[str]:
    """The domains above ``domain``, the nearest first; none for an address literal."""
    if domain.startswith("["):
        return
    while "." in domain:
        domain = domain.partition(".")[2]
        yield domain


def relays_of(target: Target) -> tuple[Relay, ...]:
    """The relays of a target; of MX hosts the one value that says how to go there."""
    return target.relays if isinstance(target, ToRelays) else (target.relay,)


def target_in_words(target: Target) -> Sequence[str]:
    """What `target` means, a sentence without its full stop for each relay."""
    if not isinstance(target, ToRelays):
        place = f"the address {target.domain}" if target.domain.startswith("[") else f"the MX hosts of {target.domain}"
        words = target.relay.in_words.replace("the MX hosts of the domain", place, 1)
        more = "; DANE, MTA-STS and what was seen before may demand more"
        return [words if target.relay.tls is Tls.NEVER else words + more]
    if not target.by_weight:
        return [relay.in_words for relay in target.relays]
    total = sum(target.weights)
    return [
        f"in {100 * weight / total:.3g} % of the cases first {relay.in_words}"
        for relay, weight in zip(target.relays, target.weights, strict=True)
    ]


def _questions(domain: str, sender: Address | None, account: Address | None) -> Iterator[tuple[RouteKind, str, str]]:
    yield RouteKind.TO, domain, f"to {domain}"
    for parent in parents(domain):
        yield RouteKind.TO, f"*.{parent}", f"to *.{parent}"
    if account is not None:
        yield RouteKind.ACCOUNT, account.key, f"of the account {account}"
    if sender is not None:
        yield RouteKind.FROM, sender.key, f"from {sender}"
        yield RouteKind.FROM, sender.domain, f"from {sender.domain}"
    yield RouteKind.DEFAULT, "", "for everything else"


def targets_of(route: Route, domain: str) -> Iterator[Target]:
    """What a route means for mail to ``domain``, in the order in which it is tried."""
    if route.weights:
        yield ToRelays(route.relays, route.weights)
        return
    named: list[Relay] = []
    for relay in route.relays:
        if not relay.is_mx and relay.scheme is not Scheme.BACKUP:
            named.append(relay)
            continue
        if named:
            yield ToRelays(tuple(named))
            named = []
        yield ToMX(domain, relay) if relay.is_mx else ToBackup(domain, relay.host, relay)
    if named:
        yield ToRelays(tuple(named))


def _told(targets: Sequence[Target]) -> Iterator[str]:
    first = True
    for target in targets:
        for words in target_in_words(target):
            drawn = isinstance(target, ToRelays) and target.by_weight
            yield words if first or drawn else f"then, when that cannot be reached, {words}"
            first = False
