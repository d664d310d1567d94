"""A world for the queue without sockets, threads or real time: days of retries pass in moments of test time.

`World` has one sqlite in memory, one clock, a `Network` of destinations that behave as a test says, and any number of
nodes, each a real `Queue` on that database.  Everything that a queue asks of others is here: attempts are conversations
that take time and are written down, reports are written down too.

The hardest idea is a node that is killed: its timers and conversations are cancelled where they stand, what it asked of
the database before is done, and nothing of it runs afterwards, as after a SIGKILL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from mailsvc.mail.dsn import Action
from mailsvc.mail.message import Summary
from mailsvc.relay.destinations import destination_of
from mailsvc.relay.outcome import Kind, Outcome, Phase, by_no_connection
from mailsvc.relay.queue import Queue, QueueRules
from mailsvc.relay.schedule import Schedule
from mailsvc.relay.seams import Batch, Destination, Told
from mailsvc.storage import mailboxes, outbound
from mailsvc.storage.outbound import NewOutbound, OutboundMessage, OutboundRow
from mailsvc.storage.rows import Cursor
from tests.memory import MemoryStore

P = ParamSpec("P")
T = TypeVar("T")

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
TAKEN = Outcome(Kind.DELIVERED, "250 2.0.0 taken", 250, "2.0.0", Phase.END, "mx.example.net")
DOWN = by_no_connection("nobody answers", "mx.example.net")
LATER = Outcome(Kind.DEFERRED, "450 4.2.0 greylisted", 450, "4.2.0", Phase.RCPT, "mx.example.net")
NEVER = Outcome(Kind.FAILED, "550 5.1.1 no such user", 550, "5.1.1", Phase.RCPT, "mx.example.net")
PLAIN_SCHEDULE = Schedule(jitter=0.0)

Behaviour = Callable[[float, OutboundRow], Outcome]


def takes_all(_now: float, _row: OutboundRow) -> Outcome:
    """A destination that takes everything."""
    return TAKEN


@dataclass(frozen=True, slots=True)
class Conversation:
    """Something that was tried: when, by whom, where, for which recipients."""

    time: float
    node: str
    destination: str
    recipients: tuple[str, ...]


class Network:
    """Destinations by name; ``others`` for all that have no behaviour of their own.  ``seconds``: of a conversation.

    ``log``: all conversations; ``arrived``: how often each recipient got which message; ``most``: the most
    conversations at a time, by destination and ("") in all.  ``places``: where rows go that go elsewhere;
    ``by_routes``: they go where the routes in the database say.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds = 0.0
        self.behaviour: dict[str, Behaviour] = {}
        self.others: Behaviour = takes_all
        self.places: dict[str, Destination] = {}
        self.by_routes = False
        self.log: list[Conversation] = []
        self.arrived: Counter[tuple[str, str]] = Counter()
        self.arrivals: list[tuple[float, str]] = []
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def begin(self, name: str) -> None:
        for each in ("", name):
            self.running[each] += 1
            self.most[each] = max(self.most[each], self.running[each])

    def end(self, name: str) -> None:
        for each in ("", name):
            self.running[each] -= 1


@dataclass(slots=True)
class FakeAttempts:
    """The attempts of one node."""

    node: str
    network: Network
    clock: NodeClock
    store: NodeStore | None = None

    async def destinations(self, rows: Sequence[OutboundRow]) -> Mapping[int, Destination]:
        if self.network.by_routes:
            assert self.store is not None
            return await self.store.read(destination_of, rows)
        places = self.network.places
        return {row.id: places[row.destination] for row in rows if row.destination in places}

    async def attempt(self, batch: Batch) -> Mapping[int, Outcome]:
        network, name = self.network, batch.destination.name
        recipients = tuple(row.recipient for row in batch.rows)
        network.log.append(Conversation(network.clock.seconds(), self.node, name, recipients))
        network.begin(name)
        try:
            if network.seconds:
                await deferLater(self.clock, network.seconds, lambda: None)  # type: ignore[arg-type]
        finally:
            network.end(name)
        behaviour = network.behaviour.get(name, network.others)
        now = network.clock.seconds()
        outcomes = {row.id: behaviour(now, row) for row in batch.rows}
        for row in batch.rows:
            if outcomes[row.id].kind is Kind.DELIVERED:
                network.arrived[row.message.trace_id, row.recipient] += 1
                network.arrivals.append((now, row.recipient))
        return outcomes


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was stored: when, what, to whom, about whom."""

    time: float
    action: Action
    to: str
    recipients: tuple[str, ...]
    text: str


class FakeBounces:
    """Writes reports down; ``failure``: what it raises instead."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.failure: Exception | None = None

    def report(self, txn: Cursor, message: OutboundMessage, told: Sequence[Told], now: float) -> None:
        if self.failure is not None:
            raise self.failure
        for action in dict.fromkeys(each.action for each in told):
            about = [each for each in told if each.action is action]
            addresses = tuple(each.row.recipient for each in about)
            self.reports.append(Report(now, action, message.reverse_path, addresses, about[0].outcome.text))


class NodeClock:
    """The clock of one node, which stops with it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.jumped = 0.0
        self.dead = False
        self._calls: list[Any] = []

    def seconds(self) -> float:
        return self._clock.seconds() + self.jumped

    def callLater(self, delay: float, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._calls = [call for call in self._calls if call.active()]
        call = self._clock.callLater(delay, lambda: None if self.dead else fn(*args, **kwargs))
        self._calls.append(call)
        return call

    def kill(self) -> None:
        self.dead = True
        for call in self._calls:
            if call.active():
                call.cancel()


class NodeStore:
    """The database as one node sees it; answers do not reach a dead one."""

    def __init__(self, store: MemoryStore, clock: NodeClock) -> None:
        self._store = store
        self._clock = clock

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return self._alive(self._store.read(fn, *args, **kwargs))

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if self._clock.dead:
            return Deferred()
        return self._alive(self._store.write(fn, *args, **kwargs))

    def _alive(self, answer: Deferred[T]) -> Deferred[T]:
        return answer.addBoth(lambda result: Deferred() if self._clock.dead else result)


@dataclass(slots=True)
class Node:
    """A queue in the world."""

    name: str
    queue: Queue
    clock: NodeClock


class World:
    """One database, one clock, one network, some nodes; ``bounces`` has all reports."""

    def __init__(self, *, late: bool = True, start: float = 1_000_000.0) -> None:
        self.clock = Clock()
        self.clock.advance(start)
        self.start = start
        self.store = MemoryStore(self.clock, late=late)
        self.network = Network(self.clock)
        self.bounces = FakeBounces()
        self.nodes: list[Node] = []
        self.sent = 0

    def node(self, name: str = "one", *, schedule: Schedule = PLAIN_SCHEDULE, instance: str = "", **rules: Any) -> Node:
        """A node that has started; ``instance``: the lock that it holds."""
        rules = {"poll": 60.0, **rules}
        clock = NodeClock(self.clock)
        store = NodeStore(self.store, clock)
        attempts = FakeAttempts(name, self.network, clock, store)
        queue = Queue(
            store,
            clock,  # type: ignore[arg-type]
            attempts,
            self.bounces,
            rules=QueueRules(schedule, **rules),
            random=Random(1),
            owner=name,
        )
        queue.start(instance)
        node = Node(name, queue, clock)
        self.nodes.append(node)
        return node

    def send(self, *recipients: str, sender: str = "alice@example.org", size: int = 100, **columns: Any) -> str:
        """Store a message for recipients elsewhere, as intake does; return its trace id."""
        self.sent += 1
        trace_id = f"T{self.sent}"
        self.store.now(store_message, trace_id, recipients, sender, size, self.clock.seconds(), columns)
        for node in self.nodes:
            if not node.clock.dead:
                node.queue.wake()
        return trace_id

    def message_id(self, trace_id: str) -> int:
        row = self.store.connection.execute("SELECT id FROM message WHERE trace_id = ?", (trace_id,)).fetchone()
        return int(row[0])

    def kill(self, node: Node) -> None:
        """As SIGKILL does."""
        node.clock.kill()

    def run(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.clock.seconds() + seconds
        while calls := self.clock.getDelayedCalls():
            first = min(call.getTime() for call in calls)
            if first > end:
                break
            self.clock.advance(max(0.0, first - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.clock.seconds() - self.start

    def times(self, destination: str | None = None) -> list[float]:
        """When conversations began, in seconds since the world began."""
        log = self.network.log
        return [each.time - self.start for each in log if destination in (None, each.destination)]

    def count(self, table: str) -> int:
        return int(self.store.connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def events(self, kind: str) -> int:
        rows = self.store.connection.execute("SELECT COUNT(*) FROM event WHERE kind = ?", (kind,))
        return int(rows.fetchone()[0])

    def stop(self) -> None:
        """Stop all nodes in order."""
        for node in self.nodes:
            if not node.clock.dead:
                done: list[object] = []
                node.queue.stop().addBoth(done.append)
                for _ in range(100):
                    if done:
                        break
                    self.run(1.0)
                if done != [None]:
                    raise AssertionError(f"the queue did not stop: {done}")


def store_message(
    txn: Cursor,
    trace_id: str,
    recipients: Sequence[str],
    sender: str,
    size: int,
    now: float,
    columns: Mapping[str, Any],
) -> int:
    """The transaction of an acceptance."""
    header = b"Subject: hello\r\n\r\n"
    body = b"x" * (size - 2) + b"\r\n"
    summary = Summary(
        len(header) + len(body), len(header), sha256(header + body).hexdigest(), "hello", None, None, None
    )
    new = mailboxes.NewMessage(trace_id, sender, now, b"", summary)
    pieces = [body[at : at + mailboxes.PART_LIMIT] for at in range(0, len(body), mailboxes.PART_LIMIT)]
    message_id = mailboxes.deliver(txn, new, header, pieces, ())
    outbound.enqueue(txn, message_id, [NewOutbound(one, sender, **columns) for one in recipients], now)
    return message_id
