"""One attempt to hand a batch over: route, hosts, what the channel must be, conversation; an outcome for each row.

`Deliveries` is the queue's `mailsvc.relay.seams.Attempts`.  Each part has a module of its own: `mailsvc.relay.routes`,
`mailsvc.relay.stops` (which stands on `mailsvc.relay.mx`, `mailsvc.relay.policies` and `mailsvc.relay.means`),
`mailsvc.relay.connections` and `mailsvc.relay.client`; what several hosts' answers mean together is
`mailsvc.relay.weighing`.

The hardest idea is when to go on to the next host.  What a server decided about a recipient is final for this attempt.
What only this host could not do (no connection, TLS too weak, "not now") another one may, so those recipients and no
others go on to it (RFC 5321 section 5.1), and the demands on the next host are made anew: a worse MX host is not a
weaker one.  After the end of the content nobody goes on, because the message may have arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random, SystemRandom
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.mail.wishes import Wish
from mailsvc.relay import client
from mailsvc.relay.client import Conversation, Refused, Where
from mailsvc.relay.connections import Connections, Key, is_stale
from mailsvc.relay.destinations import destination_of
from mailsvc.relay.hosts import NoHosts
from mailsvc.relay.journeys import Contents, Ways
from mailsvc.relay.means import Means
from mailsvc.relay.mx import Exchangers
from mailsvc.relay.outcome import Kind, Outcome, Phase, refused_here
from mailsvc.relay.outgoing import Outgoing, Timeouts
from mailsvc.relay.policies import Needed, Policies
from mailsvc.relay.routes import Target
from mailsvc.relay.seams import Batch, Destination
from mailsvc.relay.stops import Stop, by_no_hosts, how_to, stops_of, way_to
from mailsvc.relay.url import Tls
from mailsvc.relay.weighing import weighed
from mailsvc.storage.outbound import OutboundRow
from mailsvc.storage.store import Store
from mailsvc.tls.levels import Level
from mailsvc.tls.observation import ServerIdentity

MOST_HOSTS = 10
"""Hosts that one attempt tries in all, whatever routes and MX records say."""

PATIENCE = 900.0
"""Seconds after which an attempt begins with no further host: a domain whose hosts all keep us waiting, each as long as
RFC 5321 section 4.5.3.2 allows, would otherwise hold a conversation for hours that others wait for."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A session with a host that came about or did not: what TLS-RPT counts (RFC 8460 section 4).

    ``peer``: its address, "" when unknown.  ``identity``: what it has shown, None without TLS.  ``refused``: why there
    is no session.
    """

    domain: str
    host: str
    peer: str
    needed: Needed
    identity: ServerIdentity | None
    refused: Outcome | None = None


class Deliveries:
    """Hands mail over.

    ``hostname``: what EHLO says.  ``heard`` is told of each session with an MX host.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        reactor: Any,
        hostname: str,
        exchangers: Exchangers,
        policies: Policies,
        means: Means,
        *,
        random: Random | None = None,
        timeouts: Timeouts | None = None,
        heard: Callable[[Tried], None] = lambda tried: None,
        idle: float = 5.0,
    ) -> None:
        self._store = store
        self._ways = Ways(store)
        self._contents = Contents(store)
        self._reactor = reactor
        self._hostname = hostname
        self._exchangers = exchangers
        self._policies = policies
        self._means = means
        self._random = random or SystemRandom()
        self._timeouts = timeouts or Timeouts()
        self._heard = heard
        self._connections = Connections(reactor, idle=idle)
        self._ending = False

    # -- mailsvc.relay.seams.Attempts ---------------------------------------------------------------------------

    async def destinations(self, rows: Sequence[OutboundRow]) -> Mapping[int, Destination]:
        """See `mailsvc.relay.seams.Attempts`."""
        try:
            return await self._store.read(destination_of, rows)
        except TemporaryFailure:
            return {}  # each attempt says why

    async def attempt(self, batch: Batch) -> Mapping[int, Outcome]:
        """See `mailsvc.relay.seams.Attempts`."""
        try:
            # Routes may have changed since the rows were put together: each goes by its own, or it would be told to
            # a server that has nothing to do with it, and come back as undeliverable.
            ways = await self._ways.of(batch.rows)
        except MailsvcError as why:
            return dict.fromkeys((row.id for row in batch.rows), refused_here(str(why), "4.3.0"))
        except CancelledError:
            return dict.fromkeys((row.id for row in batch.rows), _NOT_BEGUN)
        outcomes: dict[int, Outcome] = {}
        for targets, rows in ways.items():
            outcomes |= await self._attempt(replace(batch, rows=rows), targets)
        return outcomes

    # -- for the service ----------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """No host more: mailsvc stops, and what runs may be cancelled soon."""
        self._ending = True

    def stop(self) -> Deferred[Any]:
        """Nothing is tried any more: end the conversations that are kept; fires when they have ended."""
        self._ending = True
        return self._connections.stop()

    # -- hosts --------------------------------------------------------------------------------------------------

    async def _attempt(self, batch: Batch, targets: Sequence[Target]) -> Mapping[int, Outcome]:
        trial = _Trial(batch, self._reactor.seconds())
        try:
            for target in targets:
                if trial.waiting:
                    await self._target(trial, target)
        except MailsvcError as why:
            trial.note_all(refused_here(str(why), "4.3.0"))
        except CancelledError:
            pass  # between two hosts, where nothing is under way: what is known is known
        return trial.result()

    async def _target(self, trial: _Trial, target: Target) -> None:
        stops = await stops_of(target, self._exchangers, self._random)
        if isinstance(stops, NoHosts):
            trial.note_all(by_no_hosts(stops))
            return
        for stop in stops:
            if not trial.waiting or self._ending or trial.hosts >= MOST_HOSTS:
                return
            if trial.hosts and not 0 <= self._reactor.seconds() - trial.began < PATIENCE:
                return
            trial.hosts += 1
            try:
                await self._try(trial, stop)
            except TemporaryFailure as why:
                trial.note_all(refused_here(f"{stop.host}: {why}", "4.3.0", Phase.CONNECT, stop.host))

    async def _try(self, trial: _Trial, stop: Stop) -> None:
        """Give what waits to one server."""
        needed, where = await way_to(stop, trial.batch.message, self._exchangers, self._policies)
        if isinstance(where, Outcome):
            if needed.refusal is not None:
                self._tell(stop, "", needed, None, where)
            trial.note_all(where)
            return
        key = Key(stop.relay.path or stop.host, str(stop.relay), needed.level, needed.tlsa, needed.tlsa_names)
        outgoing = self._outgoing(trial)
        kept = self._connections.take(key)
        if kept is not None:
            outcomes = await self._give(key, kept, needed, outgoing)
            if self._ending or not is_stale(outcomes.values()):
                trial.note(outcomes)
                return
        conversation = await self._conversation(trial, stop, where, needed)
        if conversation is not None:
            trial.note(await self._give(key, conversation, needed, outgoing))

    async def _give(
        self, key: Key, conversation: Conversation, needed: Needed, outgoing: Outgoing
    ) -> Mapping[Address, Outcome]:
        try:
            outcomes = await conversation.deliver(outgoing)
        finally:
            self._connections.give(key, conversation)
        if any(each.kind is Kind.DELIVERED for each in outcomes.values()):
            self._policies.shown(needed, conversation.identity)
        return outcomes

    async def _conversation(self, trial: _Trial, stop: Stop, where: Where, needed: Needed) -> Conversation | None:
        """A new one, or None when that failed and is noted."""
        how = await how_to(stop.relay, needed, self._means, self._hostname, self._timeouts)
        try:
            conversation = await client.connect(self._reactor, where, how)
        except Refused as refused:
            identity = _identity(refused)
            level = Level.PLAIN if identity is None else identity.level
            outcome = refused.outcome.on(stop.host, level, how.demanded, "")
            if outcome.phase is Phase.TLS and needed.because:
                outcome = replace(outcome, text=f"{outcome.text}{needed.because}")
            self._tell(stop, "", needed, identity, outcome)
            trial.note_all(outcome)
            return None
        self._tell(stop, conversation.peer, needed, conversation.identity, None)
        return self._connections.begun(conversation)

    def _tell(
        self, stop: Stop, peer: str, needed: Needed, identity: ServerIdentity | None, refused: Outcome | None
    ) -> None:
        if stop.found is not None and not stop.found.is_literal and stop.relay.tls is not Tls.NEVER:
            self._heard(Tried(stop.found.domain, stop.host, peer, needed, identity, refused))

    # -- the message --------------------------------------------------------------------------------------------

    def _outgoing(self, trial: _Trial) -> Outgoing:
        batch, message = trial.batch, trial.batch.message
        return Outgoing(
            parse_address(batch.reverse_path) if batch.reverse_path else None,
            tuple(trial.waiting),
            self._contents.of(batch),
            batch.size,
            {
                address: Wish(rows[0].words, rows[0].original)
                for address, rows in trial.waiting.items()
                if rows[0].notify is not None or rows[0].original is not None
            },
            message.dsn_return,
            message.envelope_id,
            message.smtputf8,
            message.body_8bit,
            message.require_tls,
        )


class _Trial:
    """A batch on its way from host to host.  ``waiting``: the rows that have no decision yet, by recipient."""

    def __init__(self, batch: Batch, began: float) -> None:
        self.batch = batch
        self.began = began
        self.hosts = 0
        self.waiting: dict[Address, list[OutboundRow]] = {}
        self._heard: dict[int, list[Outcome]] = {row.id: [] for row in batch.rows}
        for row in batch.rows:
            try:
                self.waiting.setdefault(parse_address(row.recipient), []).append(row)
            except AddressError as error:
                self._heard[row.id].append(refused_here(str(error), "5.1.3"))

    def note(self, outcomes: Mapping[Address, Outcome]) -> None:
        """A server has decided, or could not."""
        for address, outcome in outcomes.items():
            rows = self.waiting[address] if outcome.elsewhere else self.waiting.pop(address)
            for row in rows:
                self._heard[row.id].append(outcome)

    def note_all(self, outcome: Outcome) -> None:
        """The same for all who wait; the next host may do better."""
        for rows in self.waiting.values():
            for row in rows:
                self._heard[row.id].append(outcome)

    def result(self) -> Mapping[int, Outcome]:
        """The outcome of each row."""
        return {row_id: weighed(heard or [_NOT_BEGUN]) for row_id, heard in self._heard.items()}


_NOT_BEGUN = Outcome(Kind.DEFERRED, "mailsvc was stopped before the attempt", 0, "4.3.2", Phase.MAIL)


def _identity(refused: Refused) -> ServerIdentity | None:
    """What a server has shown that was refused for it."""
    identity = getattr(refused.broken.__cause__, "identity", None) if refused.broken is not None else None
    return identity if isinstance(identity, ServerIdentity) else None
