"""Everything between the queue and the network in memory: routes and rows in a real sqlite, DNS and servers as told.

`Way` has the fake resolver, the fake network (which is the reactor) and `Deliveries` as the service builds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import succeed

from mailsvc.mail.message import Summary
from mailsvc.relay.answers import RememberedAnswers
from mailsvc.relay.attempt import Deliveries, Tried
from mailsvc.relay.demands import StsFacts
from mailsvc.relay.means import Means, Places
from mailsvc.relay.mx import Exchangers
from mailsvc.relay.outcome import Outcome
from mailsvc.relay.policies import Policies
from mailsvc.relay.routes import Route, RouteKind
from mailsvc.relay.seams import Batch, Destination
from mailsvc.relay.url import parse_relay
from mailsvc.storage import mailboxes, outbound, tls_policies
from mailsvc.storage.outbound import NewOutbound, OutboundRow
from mailsvc.storage.routes import add_route
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Memory, Override
from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.roots import SystemRoots
from mailsvc.tls.sessions import SessionStore
from tests.bad_certificates import root, trusting
from tests.fake_dns import FakeResolver
from tests.fake_mail import Network, Script
from tests.memory import MemoryStore

HEADER = b"Subject: hello\r\n\r\n"
BODY = b"the secret content\r\n"
DAYS = 3 * 86400.0
START = 1_800_000_000.0


def our_tls(policy: ServerPolicy, sessions: SessionStore) -> ClientTLS:
    """What the service makes, with the tests' root for the system's."""
    if isinstance(policy.trust.roots, SystemRoots):
        policy = replace(policy, trust=replace(trusting(root()), pins=policy.trust.pins))
    return ClientTLS(policy, sessions=sessions)


class Way:
    """The way out.  ``heard``: the sessions that were told of; ``sts``: what MTA-STS says, by domain."""

    def __init__(
        self,
        servers: Mapping[object, Script | None] | None = None,
        resolver: FakeResolver | None = None,
        *,
        places: Places | None = None,
        idle: float = 5.0,
    ) -> None:
        self.network = Network(servers)
        self.network.advance(START)
        self.store = MemoryStore(self.network)
        self.resolver = resolver or FakeResolver()
        self.sts: dict[str, StsFacts] = {}
        self.heard: list[Tried] = []
        remembered = RememberedAnswers(self.resolver, self.network)
        self.policies = Policies(remembered, self.store, self.network, self._sts, seconds=DAYS)
        nowhere = Places(Path("/nonexistent"), lambda: None, lambda: None)
        means = Means(self.store, self.network, places or nowhere, lambda work: succeed(work()), make=our_tls)
        exchangers = Exchangers(remembered, {"here.example"}, Random(1), private=["192.0.2.0/24"])
        self.deliveries = Deliveries(
            self.store,
            self.network,
            "here.example",
            exchangers,
            self.policies,
            means,
            random=Random(1),
            heard=self.heard.append,
            idle=idle,
        )
        self._sent = 0

    async def _sts(self, domain: str) -> StsFacts:
        return self.sts.get(domain, StsFacts(domain, remark="there is none"))

    def route(self, *urls: str, kind: RouteKind = RouteKind.DEFAULT, key: str = "", at_once: int | None = None) -> None:
        """Add a route."""
        self.store.now(add_route, Route(kind, key, tuple(map(parse_relay, urls)), at_once=at_once), 0.0)

    def rows(
        self,
        *recipients: str,
        sender: str = "alice@example.org",
        columns: Mapping[str, Any] | None = None,
        via: str = "",
        content: int = 1 << 16,
        body: bytes = BODY,
        **row: Any,
    ) -> tuple[OutboundRow, ...]:
        """A message in the queue, claimed; ``columns``: of the message."""
        self._sent += 1
        octets = HEADER + body
        summary = Summary(len(octets), len(HEADER), sha256(octets).hexdigest(), "hello", None, None, None)
        new = mailboxes.NewMessage(f"T{self._sent}", sender, 0.0, b"", summary)
        pieces = [body[at : at + mailboxes.PART_LIMIT] for at in range(0, len(body), mailboxes.PART_LIMIT)]
        message_id = self.store.now(mailboxes.deliver, new, HEADER, pieces, ())
        for name, value in (columns or {}).items():
            self.store.connection.execute(f"UPDATE message SET {name} = ? WHERE id = ?", (value, message_id))
        queued = [NewOutbound(each, sender, **row) for each in recipients]
        self.store.now(outbound.enqueue, message_id, queued, 0.0)
        self.store.connection.execute("UPDATE outbound SET via = ? WHERE message_id = ?", (via, message_id))
        claimed = self.store.now(outbound.claim, "me", 1.0, seconds=1e9, rows=1000, of_each=1000, content=content)
        return claimed.rows

    def send(self, *recipients: str, **more: Any) -> list[Outcome]:
        """Try once; the outcomes in the order of the recipients."""
        return self.attempt(self.rows(*recipients, **more))

    def attempt(self, rows: Sequence[OutboundRow]) -> list[Outcome]:
        """Try these once."""
        batch = Batch(Destination(rows[0].destination), rows[0].message, tuple(rows))
        outcomes = self.network.run(self.deliveries.attempt(batch))
        return [outcomes[row.id] for row in sorted(rows, key=lambda row: row.id)]

    def remember(self, domain: str, level: Level) -> None:
        """The domain has shown this before."""
        self.store.now(tls_policies.note_shown, "out", domain, "", level, self.network.seconds(), DAYS)

    def override(self, domain: str, level: Level) -> None:
        """The postmaster has set this."""
        now = self.network.seconds()
        self.store.now(tls_policies.set_override, "out", domain, Override(level, now, now + 1e6))

    def remembered(self, domain: str) -> Memory | None:
        """What the downgrade memory holds."""
        found = self.store.now(tls_policies.memories, self.network.seconds(), DAYS, domain)
        return found[0].memory if found else None

    def end(self) -> None:
        """Nothing may be left but what was kept for some seconds."""
        self.network.run(_wait(self.deliveries.stop()))
        left = [str(call) for call in self.network.getDelayedCalls()]
        assert not left, left
        self.store.connection.close()


async def _wait(deferred: Any) -> Any:
    return await deferred
