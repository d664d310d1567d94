"""The queue in a world of its own: days of retries, greylisting, flapping and dead servers, dead nodes, full disks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.config import Configuration
from mailsvc.mail.dsn import Action
from mailsvc.outgoing import queue_rules
from mailsvc.relay.outcome import Outcome
from mailsvc.relay.queue import QueueRules
from mailsvc.relay.routes import Route, RouteKind
from mailsvc.relay.schedule import Schedule
from mailsvc.relay.seams import Destination
from mailsvc.relay.url import parse_relay
from mailsvc.storage import outbound, outbound_admin
from mailsvc.storage.outbound import OutboundRow
from mailsvc.storage.outbound_admin import Selection
from mailsvc.storage.routes import add_route
from tests.memory import storage_failure
from tests.relay_world import DAY, DOWN, HOUR, LATER, MINUTE, NEVER, TAKEN, World


def _always(outcome: Outcome, _now: float, _row: OutboundRow) -> Outcome:
    return outcome


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def tearDown(self) -> None:
        self.world.stop()
        left = self.world.clock.getDelayedCalls()
        self.assertEqual([str(call) for call in left], [], "timers were left behind")
        self.check_table()
        self.world.store.connection.close()

    def check_table(self) -> None:
        """Nothing that waits is later than its destination says, and nothing is owned by who has stopped."""
        late = self.world.store.connection.execute(
            "SELECT outbound.id FROM outbound LEFT JOIN outbound_destination AS place ON place.name = destination"
            " WHERE outbound.due IS NOT NULL AND (place.due IS NULL OR place.due > outbound.due)"
        ).fetchall()
        self.assertEqual(late, [])
        living = [node.name for node in self.world.nodes if not node.clock.dead]
        owners = self.world.store.connection.execute("SELECT DISTINCT owner FROM outbound WHERE owner IS NOT NULL")
        self.assertEqual([owner for (owner,) in owners if owner in living], [])


class Retries(Case):
    def test_five_days(self) -> None:
        """A destination that never answers: attempts at exact times, one notice of the delay, then one report.

        Rule: Retries over five days, a notice after four hours, then a report
        """
        world = self.world
        world.network.others = lambda now, row: DOWN
        world.node()
        world.send("bob@example.net")
        world.run(6 * DAY)
        expected = [0.0, 300.0, 900.0, 2100.0, 4500.0, 9300.0, 18900.0]
        while expected[-1] + 14400.0 < 5 * DAY:
            expected.append(expected[-1] + 14400.0)
        expected.append(5 * DAY)
        self.assertEqual(world.times(), expected)
        reports = [(each.time - world.start, each.action, each.to, each.recipients) for each in world.bounces.reports]
        self.assertEqual(
            reports,
            [
                (18900.0, Action.DELAYED, "alice@example.org", ("bob@example.net",)),
                (5 * DAY, Action.FAILED, "alice@example.org", ("bob@example.net",)),
            ],
        )
        self.assertEqual(
            world.bounces.reports[-1].text, "gave up after 36 attempts in 5.0 days; the last one: nobody answers"
        )
        self.assertEqual((world.count("outbound"), world.count("message"), world.count("message_content")), (0, 0, 0))
        self.assertEqual((world.events("put off"), world.events("given up")), (35, 1))

    def test_refused(self) -> None:
        """A permanent refusal is reported at once, and those who were reached are not in the report.

        Rule: One report for the recipients that failed together
        """
        world = self.world
        world.network.others = lambda now, row: NEVER if row.recipient.startswith("no") else TAKEN
        world.node()
        world.send("no@example.net", "yes@example.net", "nobody@example.net")
        world.run(1.0)
        (report,) = world.bounces.reports
        self.assertEqual((report.action, report.recipients), (Action.FAILED, ("no@example.net", "nobody@example.net")))
        self.assertEqual(len(world.network.log), 1, "recipients of one message and host travel together")
        self.assertEqual(world.count("message"), 0)

    def test_greylisting(self) -> None:
        """A host that says 450 in the first five minutes gets it at the second attempt.

        Rule: Greylisting costs one retry
        """
        world = self.world
        first: dict[str, float] = {}

        def greylists(now: float, row: OutboundRow) -> Outcome:
            return TAKEN if now - first.setdefault(row.recipient, now) >= 300.0 else LATER

        world.network.others = greylists
        world.node()
        for number in range(50):
            world.send(f"u{number}@d{number % 5}.example.net")
            world.run(1.0)
        world.run(10 * MINUTE)
        self.assertEqual(set(world.network.arrived.values()), {1})
        self.assertEqual(len(world.network.arrived), 50)
        self.assertEqual(len(world.network.log), 100)
        self.assertEqual(world.now, 650.0)
        self.assertEqual(world.bounces.reports, [])

    def test_released_later(self) -> None:
        """What is to go out later goes out then, and its age counts from then."""
        world = self.world
        world.network.others = lambda now, row: DOWN
        world.node()
        world.send("bob@example.net", release_at=world.start + 3 * DAY)
        world.run(9 * DAY)
        self.assertEqual(world.times()[0], 3 * DAY)
        self.assertEqual(world.times()[-1], 8 * DAY)


class Destinations(Case):
    def test_flapping(self) -> None:
        """A destination that is up for two minutes of ten: everything arrives once, with few conversations in vain.

        Rule: A destination that does not answer is left alone for a while
        """
        world = self.world

        def flaps(now: float, row: OutboundRow) -> Outcome:
            return TAKEN if (now - world.start) % 600 < 120 else DOWN

        world.network.others = flaps
        world.node(schedule=Schedule())
        world.run(200.0)
        for number in range(200):
            world.send(f"u{number}@example.net")
        world.run(1.0)
        # Three failures in a row; the other 197 are put off for the same reason.
        self.assertEqual(len(world.network.log), 3)
        self.assertEqual(world.events("put off"), 200)
        world.run(DAY)
        self.assertEqual(Counter(world.network.arrived.values()), Counter({1: 200}))
        self.assertLess(len(world.network.log), 200 + 20)
        self.assertLess(world.network.arrivals[-1][0] - world.start, 2 * HOUR)
        self.assertEqual(world.bounces.reports, [])

    def test_routes_change(self) -> None:
        """Rows whose way is another one now are gathered there: one conversation for what were three destinations."""
        world = self.world
        relay = Destination("relay.example.org", at_once=1)
        world.network.places = {f"d{number}.example.net": relay for number in range(3)}
        world.node()
        world.send("a@d0.example.net", "b@d1.example.net", "c@d2.example.net")
        world.run(1.0)
        (conversation,) = world.network.log
        self.assertEqual(conversation.destination, "relay.example.org")
        self.assertEqual(len(conversation.recipients), 3)

    def test_what_is_remembered_of_routes_that_change_has_a_limit(self) -> None:
        """Rows that were moved and that others have taken or removed are not remembered for ever."""
        world = self.world
        world.network.seconds = HOUR
        relay = Destination("relay.example.org", at_once=1)
        world.network.places = {f"d{number}.example.net": relay for number in range(300)}
        node = world.node(rows=20)
        for number in range(300):
            world.send(f"a@d{number}.example.net")
            world.run(1.0)
        self.assertLessEqual(len(node.queue._moved), 200)
        world.network.seconds = 0.0
        world.run(3 * HOUR)
        self.assertEqual(sum(world.network.arrived.values()), 300)
        self.assertEqual(set(world.network.arrived.values()), {1})

    def test_a_route_has_its_own_limit(self) -> None:
        """A route that allows two conversations gets two."""
        world = self.world
        world.network.seconds = 1.0
        world.network.places = {"example.net": Destination("example.net", at_once=2)}
        world.node()
        for number in range(10):
            world.send(f"u{number}@example.net")
        world.run(5.0)
        self.assertEqual((world.network.most["example.net"], sum(world.network.arrived.values())), (2, 10))

    def test_a_route_in_the_table_has_its_own_limit(self) -> None:
        """A relay whose route says --at-once 1 never has two conversations, whatever domains and messages wait for it;
        another route over the same relay keeps its own limit.

        Rule: Limits of conversations for each route
        """
        world = self.world
        world.network.seconds = 1.0
        world.network.by_routes = True
        relays = (parse_relay("tls://relay.example"),)
        world.store.now(add_route, Route(RouteKind.DEFAULT, "", relays, at_once=1), 0.0)
        world.store.now(add_route, Route(RouteKind.TO, "wide.example", relays, at_once=3), 0.0)
        world.node()
        for number in range(30):
            world.send(f"u{number}@d{number % 10}.example.net")
            world.send(f"u{number}@wide.example")
        world.run(40.0)
        most = {name: many for name, many in world.network.most.items() if name}
        self.assertEqual(most, {"tls://relay.example at-once=1": 1, "tls://relay.example at-once=3": 3})
        self.assertEqual(Counter(world.network.arrived.values()), Counter({1: 60}))

    def test_routes_that_cannot_be_read_lift_no_limit(self) -> None:
        """Rows of which nobody can say where they go now keep the limit that their destination had."""
        world = self.world
        world.network.seconds = 1.0
        world.network.places = {"example.net": Destination("example.net", at_once=1)}
        world.node()
        world.send("first@example.net")
        world.run(0.5)
        world.network.places = {}
        for number in range(10):
            world.send(f"u{number}@example.net")
        world.run(20.0)
        self.assertEqual((world.network.most["example.net"], sum(world.network.arrived.values())), (1, 11))


class Nodes(Case):
    def test_a_node_dies(self) -> None:
        """A node dies in the middle: another takes its rows over when the lease ends, and everything arrives once.

        Rule: A dead node's mail is taken over
        """
        world = self.world
        world.network.seconds = 10.0
        one = world.node("one")
        for number in range(1000):
            world.send(f"u{number}@d{number % 50}.example.net")
        world.run(15.0)
        self.assertEqual(sum(world.network.arrived.values()), 100)
        world.kill(one)
        world.node("two")
        world.run(280.0)
        self.assertEqual(sum(world.network.arrived.values()), 100, "the lease of the dead one is respected")
        world.run(200.0)
        self.assertEqual(Counter(world.network.arrived.values()), Counter({1: 1000}))

    def test_a_node_dies_before_it_could_note(self) -> None:
        """What a node had sent and not yet noted when it died arrives twice, and nothing else does."""
        world = self.world
        world.network.seconds = 10.0
        one = world.node("one", at_once=20)
        for number in range(100):
            world.send(f"u{number}@d{number}.example.net")
        world.run(5.0)
        world.store.held = True
        world.run(6.0)
        self.assertEqual(sum(world.network.arrived.values()), 20)
        world.kill(one)
        world.store.forget()
        world.store.held = False
        world.node("two")
        world.run(400.0)
        self.assertEqual(Counter(world.network.arrived.values()), Counter({1: 80, 2: 20}))
        # Which of those that it had claimed it had begun with, nobody can know.
        details = [json.loads(detail) for (detail,) in world.store.connection.execute("SELECT detail FROM event")]
        self.assertEqual(sum(each.get("duplicate_possible", False) for each in details), 100)

    def test_the_next_one_under_the_same_lock(self) -> None:
        """Who holds the lock of a process that was killed knows that it is dead: its rows are tried at once, those that
        wait keep their time, and what it had begun with is marked.

        Rule: A process that starts again takes back at once what it had claimed when it was killed
        """
        world = self.world
        world.network.seconds = 10.0
        world.network.behaviour["later.example.net"] = lambda now, row: LATER
        one = world.node("one", instance="lock")
        world.send("bob@later.example.net")
        world.run(15.0)
        for number in range(1000):
            world.send(f"u{number}@d{number % 50}.example.net")
        world.run(5.0)
        world.kill(one)
        world.network.log.clear()
        world.node("two", instance="lock")
        world.run(150.0)
        self.assertEqual(sum(world.network.arrived.values()), 1000)
        self.assertEqual(set(world.network.arrived.values()), {1})
        self.assertEqual(world.times("later.example.net"), [])
        details = [json.loads(detail) for (detail,) in world.store.connection.execute("SELECT detail FROM event")]
        self.assertEqual(sum(each.get("duplicate_possible", False) for each in details), 1000)
        world.run(300.0)
        self.assertEqual(world.times("later.example.net"), [310.0])

    def test_another_lock(self) -> None:
        """Rows of a process that held another lock (it was removed under it, or the database is a copy), or none, wait
        for the end of the lease: it may live.

        Rule: Nobody takes what a process has claimed that may live
        """
        world = self.world
        world.network.seconds = 200.0
        world.node("one", instance="lock")
        world.node("three")
        for number in range(200):
            world.send(f"u{number}@d{number}.example.net")
        world.run(1.0)
        self.assertEqual({each.node for each in world.network.log}, {"one", "three"})
        world.node("two", instance="lock2")
        world.node("four", instance="loc")
        world.node("five")
        world.run(2000.0)
        self.assertEqual(Counter(world.network.arrived.values()), Counter({1: 200}))

    def test_held_while_it_waits_in_memory(self) -> None:
        """What the postmaster holds and the queue had not begun with has no doubt; what it is in the middle of has,
        until the queue learns that it did not arrive."""
        world = self.world
        world.network.seconds = 100.0
        world.network.others = lambda now, row: DOWN
        world.node("one", at_once=1)
        world.send("b@one.example.net")
        world.send("b@two.example.net")
        world.run(1.0)

        def doubts(change: Callable[..., int] | None = None) -> list[bool]:
            now = world.clock.seconds()
            rows = world.store.now(outbound_admin.select, Selection(), now, 9)
            if change is not None:
                world.store.now(change, rows, now)
            return [row.duplicate_possible for row in world.store.now(outbound_admin.select, Selection(), now, 9)]

        self.assertEqual(doubts(outbound_admin.hold), [True, True])
        world.run(70.0)
        self.assertEqual(doubts(), [True, False])
        world.run(70.0)
        self.assertEqual(doubts(), [False, False])
        self.assertEqual([each.recipients for each in world.network.log], [("b@one.example.net",)])
        self.assertEqual(doubts(outbound_admin.release), [False, False])

    def test_a_long_stop_does_not_make_old(self) -> None:
        """What was claimed and not tried when the process was killed is no older for the days until the next start."""
        world = self.world
        world.network.others = lambda now, row: DOWN
        world.network.seconds = 1.0
        one = world.node("one", instance="lock")
        world.send("bob@example.net")
        world.run(301.5)
        world.kill(one)
        world.run(20 * DAY)
        world.node("two", instance="lock")
        world.run(10.0)
        self.assertEqual(world.bounces.reports, [])
        self.assertEqual((world.count("outbound"), len(world.network.log)), (1, 3))

    def test_two_nodes(self) -> None:
        """Two nodes share the work, and nothing is sent twice."""
        world = self.world
        world.network.seconds = 1.0
        for name in ("one", "two"):
            world.node(name, at_once=10, rows=40)
        for number in range(1000):
            world.send(f"u{number}@d{number % 50}.example.net")
        world.run(120.0)
        self.assertEqual(Counter(world.network.arrived.values()), Counter({1: 1000}))
        self.assertGreater(min(Counter(each.node for each in world.network.log).values()), 300)

    def test_long_conversations_keep_their_lease(self) -> None:
        """A conversation may take longer than a lease; nobody else takes its row."""
        world = self.world
        world.network.seconds = 2000.0
        for name in ("one", "two"):
            world.node(name)
        world.send("bob@example.net")
        world.run(HOUR)
        self.assertEqual(len(world.network.log), 1)
        self.assertEqual(world.network.arrived["T1", "bob@example.net"], 1)

    def test_stopping_gives_back(self) -> None:
        """A queue that stops gives back what it has not begun: another one need not wait for a lease."""
        world = self.world
        world.network.seconds = 1.0
        world.node("one", at_once=1)
        for number in range(10):
            world.send(f"u{number}@example.net")
        world.run(0.5)
        world.stop()
        self.assertEqual(sum(world.network.arrived.values()), 1)
        owners = world.store.connection.execute("SELECT DISTINCT owner, attempts FROM outbound").fetchall()
        self.assertEqual(owners, [(None, 0)])
        world.nodes.clear()
        world.node("two")
        world.run(30.0)
        self.assertEqual(Counter(world.network.arrived.values()), Counter({1: 10}))

    def test_stopping_waits_no_longer_than_it_may(self) -> None:
        """What runs for too long is broken off, and is tried again with a word about duplicates."""
        world = self.world
        world.network.seconds = HOUR
        world.node(shutdown=5.0)
        world.send("bob@example.net")
        world.run(1.0)
        world.stop()
        self.assertLess(world.now, 10.0)
        (row,) = world.store.connection.execute("SELECT attempts, owner, last_text FROM outbound").fetchall()
        self.assertEqual(row[:2], (1, None))
        self.assertIn("may have arrived", row[2])


class Trouble(Case):
    def test_a_full_disk(self) -> None:
        """While nothing can be written nothing begins; an outcome is kept until it can be, and nothing comes twice.

        Rule: A full disk stops the queue and loses nothing
        """
        world = self.world
        world.network.seconds = 1.0
        world.node(at_once=5)
        for number in range(50):
            world.send(f"u{number}@d{number}.example.net")
        world.run(0.5)
        world.store.failure = storage_failure()
        world.run(2 * MINUTE)
        self.assertEqual(len(world.network.log), 10)
        world.store.failure = None
        world.run(2 * MINUTE)
        self.assertEqual(Counter(world.network.arrived.values()), Counter({1: 50}))
        self.assertEqual(world.count("outbound"), 0)

    def test_the_clock_jumps_ahead(self) -> None:
        """A year ahead gives nothing up: the pause counts an hour more than it was planned, not a year.

        Rule: A clock that jumps makes no message old
        """
        world = self.world
        world.network.others = lambda now, row: DOWN
        world.node()
        world.send("bob@example.net")
        world.run(HOUR)
        world.clock.advance(365 * DAY)
        world.run(HOUR)
        self.assertEqual(world.bounces.reports, [])
        (age,) = world.store.connection.execute("SELECT age FROM outbound").fetchone()
        self.assertLess(age, 4 * HOUR)

    def test_the_clock_is_set_back(self) -> None:
        """A year back: what waits five minutes waits five minutes and not a year.

        Rule: A clock that jumps makes no message old
        """
        world = self.world
        world.network.others = lambda now, row: LATER
        node = world.node()
        world.send("bob@example.net")
        world.run(1.0)
        node.clock.jumped = -100_000.0
        world.run(10 * MINUTE)
        self.assertEqual([round(time, -2) for time in world.times()], [0.0, 400.0])

    def test_a_report_that_cannot_be_made(self) -> None:
        """When a mistake of ours keeps the sender from being told, the row stays, and the others go on."""
        world = self.world
        world.network.others = lambda now, row: NEVER if row.recipient.startswith("no") else TAKEN
        world.bounces.failure = KeyError("a defect")
        world.node()
        world.send("no@example.net", "yes@example.net")
        world.run(1.0)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(world.count("outbound"), 1)
        world.bounces.failure = None
        world.run(5 * HOUR)
        self.assertEqual([each.recipients for each in world.bounces.reports], [("no@example.net",)])
        self.assertEqual((world.count("outbound"), world.network.arrived["T1", "yes@example.net"]), (0, 1))


class FirstOutcomes(Case):
    def watch(self, *recipients: str, seconds: float = 10.0) -> list[object]:
        trace_id = self.world.send(*recipients)
        answers: list[object] = []
        queue = self.world.nodes[0].queue
        queue.first_outcomes(self.world.message_id(trace_id), len(recipients), seconds).addBoth(answers.append)
        return answers

    def test_all_refused(self) -> None:
        """When all recipients are refused the sender hears it as a reply, and there is no report.

        Rule: A refusal in time is a reply and no report
        """
        self.world.network.others = lambda now, row: NEVER
        self.world.node()
        answers = self.watch("a@example.net", "b@example.com")
        self.world.run(1.0)
        self.assertEqual(answers, [(("a@example.net", NEVER), ("b@example.com", NEVER))])
        self.assertEqual((self.world.bounces.reports, self.world.count("message")), ([], 0))

    def test_not_all(self) -> None:
        """When one is taken, or put off, there is a report for the other."""
        for other in (TAKEN, LATER):
            self.world.network.others = lambda now, row: NEVER
            self.world.network.behaviour["example.com"] = partial(_always, other)
            self.world.node(f"for {other.kind}")
            answers = self.watch("a@example.net", "b@example.com")
            self.world.run(1.0)
            self.assertEqual(answers, [None])
            self.assertEqual([each.recipients for each in self.world.bounces.reports], [("a@example.net",)])
            self.world.bounces.reports.clear()
            self.world.stop()
            self.world.nodes.clear()

    def test_too_late(self) -> None:
        """After the time the answer is 250, and the refusal is reported."""
        self.world.network.others = lambda now, row: NEVER
        self.world.network.seconds = 20.0
        self.world.node()
        answers = self.watch("a@example.net")
        self.world.run(9.0)
        self.assertEqual(answers, [])
        self.world.run(1.5)
        self.assertEqual(answers, [None])
        self.world.run(20.0)
        self.assertEqual(len(self.world.bounces.reports), 1)


class Settings(SynchronousTestCase):
    def test_defaults(self) -> None:
        """The section [queue] says, unless it is changed, what the queue does by itself."""
        configuration = Configuration(hostname="mail.example.org")
        wanted = replace(QueueRules(), shutdown=configuration.timeouts.shutdown)
        self.assertEqual(queue_rules(configuration), wanted)


class Postmaster(Case):
    def test_a_change_is_seen(self) -> None:
        """A row that somebody took away is not tried any more, not later than the next look."""
        world = self.world
        world.network.seconds = 10.0
        world.node(at_once=1, poll=1.0)
        for number in range(3):
            world.send(f"u{number}@example.net")
        world.run(2.0)
        world.store.connection.execute("UPDATE outbound SET owner = NULL, due = NULL WHERE recipient LIKE 'u2%'")
        world.store.connection.execute("UPDATE outbound_change SET number = number + 1")
        world.run(60.0)
        self.assertEqual(
            sorted(recipient for _, recipient in world.network.arrivals), ["u0@example.net", "u1@example.net"]
        )
        self.assertEqual(world.nodes[0].queue.in_memory, 0)
        world.store.now(outbound.note_due, "example.net", 0.0)
