"""The servers that a message may go to, one after another, and what is known of each before it is connected to.

The queue (`mailsvc.relay.attempt`), ``mailsvc send`` (`mailsvc.sending.delivering`) and ``mailsvc route test`` go from
one to the next for reasons of their own; which servers there are, what is demanded of each and how a conversation with
it is begun is the same for all of them, and is here.

The hardest idea is the order of the questions.  What the channel must be is asked first, because it may forbid the host
altogether; only then its addresses are looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from mailsvc.relay.client import How, Where
from mailsvc.relay.hosts import NoHosts
from mailsvc.relay.logins import RelayLogin
from mailsvc.relay.means import Means
from mailsvc.relay.mx import Exchangers, Found
from mailsvc.relay.outcome import Kind, Outcome, Phase
from mailsvc.relay.outgoing import Said, Timeouts
from mailsvc.relay.policies import Needed, Policies
from mailsvc.relay.routes import Target, ToBackup, ToMX, ToRelays, in_order
from mailsvc.relay.url import Relay, Tls
from mailsvc.storage.outbound import OutboundMessage


@dataclass(frozen=True, slots=True)
class Stop:
    """One server to try.  ``host``: its name for people.  ``found``: of an MX host; None for a relay that was named.

    ``addresses``: IP addresses of a relay, none to look its name up.
    """

    relay: Relay
    host: str
    found: Found | None = None
    addresses: tuple[str, ...] = ()


async def stops_of(target: Target, exchangers: Exchangers, random: Random) -> Sequence[Stop] | NoHosts:
    """The servers of one target of a route, in the order in which to try them.  Never raises."""
    match target:
        case ToRelays():
            return [Stop(each, each.host or "the local socket") for each in in_order(target, random)]
        case ToMX():
            found = await exchangers.of(target.domain)
        case ToBackup():
            found = await exchangers.of(target.domain, target.our_name)
    return found if isinstance(found, NoHosts) else [Stop(target.relay, host, found) for host in found.hosts]


async def way_to(
    stop: Stop, message: OutboundMessage, exchangers: Exchangers, policies: Policies
) -> tuple[Needed, Where | Outcome]:
    """What is demanded of the channel, and where the server is, or why it cannot be used now.

    Raises `mailsvc.errors.TemporaryFailure` of the database.
    """
    relay, found = stop.relay, stop.found
    if found is None:
        needed = await policies.of_relay(relay, message)
        return needed, needed.refusal or Where(relay.host, stop.addresses, relay.path)
    needed = await policies.of_mx(found, stop.host, relay, message)
    if needed.refusal is not None:
        return needed, needed.refusal
    addresses = await exchangers.addresses(found, stop.host)
    if isinstance(addresses, NoHosts):
        return needed, by_no_hosts(addresses, stop.host)
    return needed, Where(stop.host, addresses)


async def how_to(
    relay: Relay,
    needed: Needed,
    means: Means,
    hostname: str,
    timeouts: Timeouts,
    *,
    login: RelayLogin | None = None,
    listener: Callable[[Said], None] | None = None,
) -> How:
    """What the conversation must be.  ``hostname``: what EHLO says.  ``login``: for a URL that names no credentials.

    Raises `mailsvc.errors.TemporaryFailure` when our certificate, our roots or the credentials cannot be used.
    """
    tls = None if relay.tls is Tls.NEVER else await means.tls(relay, needed.level)
    if relay.label is not None:
        login = await means.login(relay.label)
    return How(relay, hostname, tls, needed.level, needed.tlsa, needed.tlsa_names, login, timeouts, listener)


def by_no_hosts(none: NoHosts, host: str = "") -> Outcome:
    """What it means for the mail that there is no host, or that ``host`` has no address."""
    kind = Kind.FAILED if none.permanent else Kind.DEFERRED
    return Outcome(kind, none.why, 0, none.enhanced, Phase.CONNECT, host)
