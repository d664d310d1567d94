"""`mailsvc route test`: go the way of an address up to the last host, and ask there, without sending anything.

It finds the way as `mailsvc route explain` does and the hosts as the relay does (`mailsvc.relay.stops`), with the same
demands: DANE, MTA-STS, the downgrade memory.  What is asked is `mailsvc.relay.asking`'s.

The hardest idea is which host decides.  All are tried, because a broken second MX is found on the day when the first
one is away.  The verdict is the relay's, though: the first host that decides, and what comes after it is for
information only (`mailsvc.relay.weighing`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from random import SystemRandom
from typing import Any

import click

from mailsvc.cli.answers import JSON
from mailsvc.cli.main import Common
from mailsvc.cli.probe import run
from mailsvc.cli.send import means_of
from mailsvc.cli.story import visible
from mailsvc.config import Configuration
from mailsvc.directory.resolve import NOT_OURS
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, parse_address
from mailsvc.mtasts.cache import StsCache
from mailsvc.mtasts.fetch import fetch_policy
from mailsvc.mtasts.record import StsPolicy
from mailsvc.relay import client
from mailsvc.relay.attempt import MOST_HOSTS
from mailsvc.relay.client import Refused
from mailsvc.relay.hosts import NoHosts
from mailsvc.relay.mx import Exchangers
from mailsvc.relay.outcome import Kind, Outcome, Phase, refused_here
from mailsvc.relay.outgoing import Timeouts
from mailsvc.relay.policies import Needed, Policies
from mailsvc.relay.routes import Plan, ToBackup, ToMX
from mailsvc.relay.stops import Stop, by_no_hosts, how_to, stops_of, way_to
from mailsvc.relay.weighing import weighed
from mailsvc.resolver import SystemResolver
from mailsvc.sending.verdict import channel
from mailsvc.storage.beside import Beside
from mailsvc.storage.database import offline
from mailsvc.storage.forwarding import led
from mailsvc.storage.outbound import OutboundMessage
from mailsvc.storage.routes import planned
from mailsvc.tls.levels import Level

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """What came of one host.  ``because``: why more is demanded of the channel than the URL says; "" without.

    ``connected``: there was a session; ``login``: the label of the credentials that opened it, "" without.
    """

    host: str
    relay: str
    outcome: Outcome
    because: str = ""
    connected: bool = False
    login: str = ""


@dataclass(frozen=True, slots=True)
class _Tested:
    """What came of one recipient: the hosts in the order of the relay, and what decides."""

    recipient: Address
    plan: Plan
    hosts: tuple[_Asked, ...]

    @property
    def verdict(self) -> Outcome:
        """What the relay would make of it now."""
        heard: list[Outcome] = []
        for each in self.hosts:
            heard.append(each.outcome)
            if not each.outcome.elsewhere:
                break
        return weighed(heard or [refused_here("the route names no host", "4.4.4")])


@click.command("test")
@click.argument("address")
@click.option("--from", "sender", metavar="ADDRESS", help="The sender to ask with. [default: the null sender, <>]")
@click.option("--account", metavar="ADDRESS", help="Of a message that this account hands in: routes may go by it.")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), default=30.0, help="The most seconds of each wait. [30]")
@JSON
@click.pass_obj
def test_route(
    common: Common, address: str, sender: str | None, account: str | None, timeout: float, as_json: bool
) -> int:
    """Connect to where mail for ADDRESS goes, and ask there; no message is sent.

    Exit status: 0 when mail would be taken now, 1 when not.
    """
    parsed = parse_address(address)
    reverse = None if sender is None else parse_address(sender)
    login = None if account is None else parse_address(account)
    configuration = common.in_force().configuration
    with offline(common.database, create=False) as txn:
        pipes = configuration.delivery.pipes
        found = led(txn, parsed, hostname=configuration.hostname, programs=pipes, now=time.time())
        plans = {remote: planned(txn, remote, reverse, login) for remote in found.remotes}
    if found.refusal not in (None, NOT_OURS):
        raise MailsvcError(f"mail for {parsed} is refused here: {found.refusal}")
    if not plans:
        raise MailsvcError(f"mail for {parsed} stays on this server; `mailsvc route explain {parsed}` tells where")

    async def work(reactor: Any) -> list[_Tested]:
        asker = _Asker(replace(configuration, database=common.database), reactor, timeout)
        try:
            return [_Tested(each, plan, await asker.ask(plan, reverse, each)) for each, plan in plans.items()]
        finally:
            await asker.stop()

    tested = run(work)
    if as_json:
        click.echo(json.dumps([_facts(each, reverse) for each in tested], indent=2))
    else:
        for each in tested:
            for line in _lines(each, reverse):
                click.echo(visible(line))
    return 0 if all(each.verdict.kind is Kind.DELIVERED for each in tested) else 1


class _Asker:
    """Finds hosts and asks them."""

    def __init__(self, configuration: Configuration, reactor: Any, timeout: float) -> None:
        self._hostname = configuration.hostname
        self._reactor = reactor
        resolver, store = SystemResolver(reactor), Beside(configuration.database)
        self._means = means_of(configuration, reactor)

        async def fetch(domain: str) -> StsPolicy:
            return await fetch_policy(domain, await self._means.web(), reactor)

        self._random = SystemRandom()
        self._sts = StsCache(store, reactor, resolver, fetch)
        ours, private = {configuration.hostname.lower()}, configuration.relay.private_networks
        self._exchangers = Exchangers(resolver, ours, self._random, private=private)
        seconds = configuration.downgrade.memory_days * _DAY
        self._policies = Policies(resolver, store, reactor, self._sts.facts, seconds=seconds)
        usual = Timeouts()
        self._timeouts = Timeouts(**{each.name: min(timeout, getattr(usual, each.name)) for each in fields(Timeouts)})

    async def stop(self) -> None:
        """Break off the policies that are being fetched."""
        await self._sts.stop()

    async def ask(self, plan: Plan, sender: Address | None, recipient: Address) -> tuple[_Asked, ...]:
        """What each host of the way says, in the order in which the relay tries them."""
        asked: list[_Asked] = []
        for target in plan.targets:
            stops = await stops_of(target, self._exchangers, self._random)
            if isinstance(stops, NoHosts):
                assert isinstance(target, (ToMX, ToBackup))
                asked.append(_unasked(Stop(target.relay, target.domain), Needed(), by_no_hosts(stops)))
                continue
            for stop in stops[: MOST_HOSTS - len(asked)]:
                try:
                    asked.append(await self._host(stop, sender, recipient))
                except MailsvcError as why:
                    asked.append(_unasked(stop, Needed(), _by_error(stop.host, why)))
        return tuple(asked)

    async def _host(self, stop: Stop, sender: Address | None, recipient: Address) -> _Asked:
        """Raises `MailsvcError` when the database cannot say what is demanded."""
        nothing = OutboundMessage(
            0, "", "" if sender is None else str(sender), 0.0, 0, 0, False, False, False, False, None, None
        )
        needed, where = await way_to(stop, nothing, self._exchangers, self._policies)
        if isinstance(where, Outcome):
            return _unasked(stop, needed, where)
        try:
            how = await how_to(stop.relay, needed, self._means, self._hostname, self._timeouts)
            conversation = await client.connect(self._reactor, where, how)
        except Refused as refused:
            return _unasked(stop, needed, refused.outcome)
        except MailsvcError as why:  # our credentials, or our certificate
            return _unasked(stop, needed, _by_error(stop.host, why))
        try:
            outcome = await conversation.ask(sender, recipient)
        finally:
            await conversation.quit()
        return _Asked(stop.host, str(stop.relay), outcome, needed.because, True, stop.relay.label or "")


def _unasked(stop: Stop, needed: Needed, outcome: Outcome) -> _Asked:
    """There was no session."""
    outcome = outcome.on(stop.host, Level.PLAIN, max(stop.relay.required, needed.level), "")
    return _Asked(stop.host, str(stop.relay), outcome, needed.because)


def _by_error(host: str, why: MailsvcError) -> Outcome:
    return refused_here(f"{host}: {why}", "4.3.0", Phase.CONNECT, host)


_WORDS = {Kind.DELIVERED: "would be taken", Kind.DEFERRED: "would wait", Kind.FAILED: "would come back"}


def _lines(tested: _Tested, sender: Address | None) -> Iterator[str]:
    yield f"Mail from <{sender or ''}> for {tested.recipient} goes out:"
    for step in tested.plan.steps:
        yield f"  {step}"
    decided = False
    for each in tested.hosts:
        yield f"{each.host} ({each.relay}){', which would not be asked any more' if decided else ''}:"
        outcome = each.outcome
        if each.connected:
            yield f"  channel: {channel(outcome)}"
        yield f"  required: {outcome.required.text}{each.because}"
        if each.login:
            yield f"  logged in with the credentials {each.login}"
        yield f"  {outcome.text}"
        decided = decided or not outcome.elsewhere
    verdict = tested.verdict
    why = f" by {verdict.host}" if verdict.kind is Kind.DELIVERED else f": {verdict.text}"
    yield f"Mail for {tested.recipient} {_WORDS[verdict.kind]} now{why}."


def _facts(tested: _Tested, sender: Address | None) -> dict[str, object]:
    return {
        "recipient": str(tested.recipient),
        "sender": str(sender or ""),
        "route": tested.plan.route,
        "steps": list(tested.plan.steps),
        "hosts": [
            {
                "host": each.host,
                "url": each.relay,
                "connected": each.connected,
                "channel": each.outcome.level.name.lower() if each.connected else None,
                "tls": each.outcome.tls,
                "required": each.outcome.required.name.lower(),
                "because": each.because.removeprefix(", because "),
                "login": each.login,
                "phase": each.outcome.phase.value,
                "reply": each.outcome.reply,
                "text": each.outcome.text,
                "taken": each.outcome.kind is Kind.DELIVERED,
            }
            for each in tested.hosts
        ],
        "verdict": tested.verdict.kind.value if tested.verdict.kind is not Kind.DELIVERED else "taken",
        "text": tested.verdict.text,
    }
