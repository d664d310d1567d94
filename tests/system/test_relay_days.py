"""The queue in a world of its own, as in `tests.test_relay_queue`, with very much mail and for many days."""

from __future__ import annotations

from random import Random

from mailsvc.mail.dsn import Action
from mailsvc.relay.outcome import Outcome
from mailsvc.storage.outbound import OutboundRow
from tests.relay_world import DAY, DOWN, HOUR, LATER, NEVER, TAKEN, World
from tests.test_relay_queue import Case


class Days(Case):
    def test_many(self) -> None:
        """10,000 messages for 500 domains: never more than 4 conversations with one, never more than 100 in all, and
        all of the 100 are used.

        Rule: Limits of conversations in all and for each destination
        """
        world = self.world
        world.network.seconds = 1.0
        world.node(per_destination=4)
        for number in range(10_000):
            world.send(f"u{number}@d{number % 500}.example.net")
        world.run(100.0)
        self.assertEqual(sum(world.network.arrived.values()), 10_000)
        self.assertEqual(set(world.network.arrived.values()), {1})
        self.assertEqual(world.network.most[""], 100)
        self.assertLessEqual(max(most for name, most in world.network.most.items() if name), 4)

    def test_one_message_for_many(self) -> None:
        """One message for 10,000 recipients in 500 domains: one conversation for each domain."""
        world = self.world
        world.network.seconds = 1.0
        world.node()
        world.send(*(f"u{number}@d{number % 500}.example.net" for number in range(10_000)))
        world.run(10.0)
        self.assertEqual(sum(world.network.arrived.values()), 10_000)
        self.assertEqual(len(world.network.log), 500)
        self.assertEqual({len(each.recipients) for each in world.network.log}, {20})

    def test_a_slow_one_holds_nobody_up(self) -> None:
        """5,000 messages for a host that takes an hour for each: mail for another one goes out at once."""
        world = self.world
        world.network.seconds = HOUR
        world.node(per_destination=5)
        for number in range(5000):
            world.send(f"u{number}@slow.example.net")
        world.run(10.0)
        world.network.seconds = 0.0
        world.send("bob@fast.example.net")
        world.run(0.5)
        self.assertIn((world.clock.seconds() - 0.5, "bob@fast.example.net"), world.network.arrivals)
        world.network.seconds = 0.0
        world.run(HOUR * 2)
        self.assertEqual(sum(world.network.arrived.values()), 5001)

    def test_primary_returns(self) -> None:
        """What waits for a host that was away for three days is handed over when it is back, not at its own time.

        Rule: A backup MX hands over when the primary is back
        """
        world = self.world
        world.network.others = lambda now, row: TAKEN if now >= world.start + 3 * DAY else DOWN
        world.node()
        for number in range(1200):
            world.send(f"u{number}@example.net", keep=30 * DAY)
            world.run(60.0)
        world.run(3 * DAY - world.now)
        self.assertEqual(world.count("outbound"), 1200)
        world.run(2 * HOUR)
        self.assertEqual(sorted(world.network.arrived.values()), [1] * 1200)
        times = [time - world.start - 3 * DAY for time, _ in world.network.arrivals]
        self.assertLess(times[-1] - times[0], 10.0, "all of it within moments of the first")
        self.assertEqual([each for each in world.bounces.reports if each.action is Action.FAILED], [])

    def test_random_days(self) -> None:
        """Whatever hosts do: every recipient is delivered once, or reported once, and nothing is left.

        Rule: Every accepted message is delivered or reported
        """
        for seed in range(5):
            random = Random(seed)
            world = World(late=bool(seed % 2))
            outcomes = [TAKEN, DOWN, LATER, NEVER]

            def behaves(
                now: float, row: OutboundRow, random: Random = random, all_: list[Outcome] = outcomes
            ) -> Outcome:
                return random.choices(all_, [3, 3, 2, 0.3])[0]

            world.network.others = behaves
            world.network.seconds = random.choice([0.0, 3.0])
            for name in ("one", "two"):
                world.node(name, at_once=7, rows=30, recipients=3, per_destination=3)
            sent = 0
            for _ in range(60):
                many = random.randint(1, 9)
                world.send(*(f"u{sent + n}@d{random.randint(0, 5)}.example.net" for n in range(many)))
                sent += many
                world.run(random.choice([0.0, 1.0, 400.0]))
            world.run(7 * DAY)
            failed = [one for each in world.bounces.reports if each.action is Action.FAILED for one in each.recipients]
            arrived = [recipient for (_, recipient), count in world.network.arrived.items() for _ in range(count)]
            self.assertEqual(len(failed) + len(arrived), sent)
            self.assertEqual(len({*failed, *arrived}), sent)
            self.assertEqual((world.count("outbound"), world.count("message")), (0, 0))
            world.stop()

    def test_kept_for_less(self) -> None:
        """A row may say how long it is kept, shorter or longer than the others."""
        world = self.world
        world.network.others = lambda now, row: DOWN
        world.node()
        world.send("bob@example.net", keep=HOUR)
        world.send("eve@example.com", keep=30 * DAY)
        world.run(31 * DAY)
        failed = [each for each in world.bounces.reports if each.action is Action.FAILED]
        self.assertEqual([each.time - world.start for each in failed], [HOUR, 30 * DAY])
