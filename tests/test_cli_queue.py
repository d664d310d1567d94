"""`mailsvc queue`: what waits is shown, held, released, flushed, rerouted and removed."""

from __future__ import annotations

import json
import time

from mailsvc.errors import NotFound
from mailsvc.mail.address import AddressError
from mailsvc.relay.url import RelayError
from mailsvc.storage import outbound
from mailsvc.storage.database import offline
from mailsvc.storage.opening import looking
from mailsvc.storage.outbound import Retry
from tests.relay_world import store_message
from tests.test_cli_user import UserCase


class QueueTests(UserCase):
    """Two messages of Alice: one for two recipients, one of which was tried; and a report."""

    def setUp(self) -> None:
        super().setUp()
        self.have("alice@example.org")
        self.now = time.time() - 7200.0
        with offline(self.path, create=False) as txn:
            columns = {"account": "alice@example.org"}
            recipients = ["bob@example.net", "eve@example.com"]
            store_message(txn, "AAAA", recipients, "alice@example.org", 100, self.now, columns)
            (row, _) = outbound.claim(txn, "me", self.now, seconds=9.0, rows=2, of_each=2).rows
            due = time.time() + 3600.0
            text = "450 4.2.0 not \x1b[31mnow"
            again = Retry(row.id, row.destination, due, 5.0, "mx.example.net", text, unreached=False, delay_told=False)
            outbound.retry(txn, "me", again, self.now)
            store_message(txn, "BBBB", ["bob@example.net"], "", 100, self.now + 3600.0, {})

    def states(self) -> list[str]:
        return [row["state"] for row in json.loads(self.succeed("queue", "list", "--json"))]

    def change_number(self) -> int:
        with looking(self.path) as txn:
            return outbound.change_number(txn)

    def test_list(self) -> None:
        """A line for each recipient with why it waits, escaped; and how many there are."""
        lines = self.succeed("queue", "list").splitlines()
        self.assertEqual(lines[0].split()[:2], ["number", "message"])
        self.assertIn("bob@example.net", lines[1])
        self.assertIn("450 4.2.0 not \\x1b[31mnow", lines[1])
        self.assertEqual(lines[-1], "3 recipients of 2 messages wait, 0 of them held.")
        said = self.succeed("queue", "list", "--limit", "1").splitlines()
        self.assertEqual(said[-1], "More than 1 recipients; --limit shows more of them.")

    def test_choice(self) -> None:
        """By message, domain, recipient, sender, account and age."""
        for options, numbers in {
            ("aaaa",): [1, 2],
            ("2", "BBBB"): [2, 3],
            ("--domain", "example.net"): [1, 3],
            ("--to", "Eve@example.com"): [2],
            ("--from", "<>"): [3],
            ("--from", "alice@example.org", "--domain", "example.com"): [2],
            ("--account", "alice@example.org"): [1, 2],
            ("--older", "90m"): [1, 2],
            ("--held",): [],
        }.items():
            found = json.loads(self.succeed("queue", "list", "--json", *options))
            self.assertEqual([row["number"] for row in found], numbers, options)
        self.assertEqual(self.succeed("queue", "list", "--held"), "Nothing in the queue is like that.\n")
        self.refused(AddressError, ["queue", "list", "--to", "nobody"])

    def test_show(self) -> None:
        """All of a recipient, or of all of a message."""
        said = self.succeed("queue", "show", "1")
        self.assertIn("to:            <bob@example.net>\n", said)
        self.assertIn("from:          <alice@example.org>, submitted by alice@example.org\n", said)
        self.assertIn("last attempt:  mx.example.net: 450 4.2.0 not \\x1b[31mnow\n", said)
        self.assertEqual(len(json.loads(self.succeed("queue", "show", "AAAA", "--json"))), 2)
        self.refused(NotFound, ["queue", "show", "nothing"])

    def test_hold_release_flush(self) -> None:
        """Held mail waits for its release; a flush leaves it alone; each change is known to the service."""
        number = self.change_number()
        self.assertEqual(self.succeed("queue", "hold", "AAAA"), "2 recipients held.\n")
        self.assertEqual(self.states(), ["held", "held", "waiting"])
        said = self.succeed("queue", "flush", "--all")
        self.assertEqual(said, "1 recipient will be tried now; 2 others needed no change.\n")
        self.assertEqual(json.loads(self.succeed("queue", "release", "1", "--json")), {"found": 1, "changed": 1})
        self.assertEqual(self.states(), ["waiting", "held", "waiting"])
        self.assertEqual(self.change_number(), number + 3)

    def test_a_possible_duplicate_is_told(self) -> None:
        """What a process had begun with that did not say what came of it is shown as such, also when it is held."""
        with offline(self.path, create=False) as txn:
            outbound.claim(txn, "dead", time.time(), seconds=0.0, rows=9, of_each=9)
        self.succeed("queue", "hold", "2")
        told = [row["duplicate_possible"] for row in json.loads(self.succeed("queue", "list", "--json"))]
        self.assertEqual(told, [False, True, True])
        self.assertIn("it may have arrived", self.succeed("queue", "show", "2"))
        self.assertNotIn("it may have arrived", self.succeed("queue", "show", "1"))

    def test_reroute(self) -> None:
        """Another relay, in the form that the routes know; and back."""
        said = self.succeed("queue", "reroute", "1", "--via", "tls://relay.example.org")
        self.assertEqual(said, "1 recipient will go by tls://relay.example.org.\n")
        (facts,) = json.loads(self.succeed("queue", "show", "1", "--json"))
        self.assertEqual(facts["via"], "tls://relay.example.org")
        self.succeed("queue", "reroute", "--all", "--by-routes")
        (facts,) = json.loads(self.succeed("queue", "show", "1", "--json"))
        self.assertIsNone(facts["via"])
        self.refused(RelayError, ["queue", "reroute", "1", "--via", "gopher://x"])
        self.refused(SystemExit, ["queue", "reroute", "1"])

    def test_remove(self) -> None:
        """What is removed is gone; nobody removes everything by forgetting a word."""
        self.refused(SystemExit, ["queue", "remove"])
        self.refused(SystemExit, ["queue", "remove", "1", "--all"])
        self.assertEqual(self.succeed("queue", "remove", "--from", "<>"), "1 recipient removed.\n")
        self.refused(NotFound, ["queue", "remove", "BBBB"])
        self.assertEqual(self.succeed("queue", "remove", "--all"), "2 recipients removed.\n")
        self.assertEqual(self.succeed("queue", "list"), "The queue is empty.\n")

    def test_no_text(self) -> None:
        """What a shell gives for octets that are no UTF-8 is the id of nothing."""
        self.refused(NotFound, ["queue", "show", "\udcff"])
        self.refused(NotFound, ["queue", "remove", "\udcff"])

    def test_the_clock_was_set_back(self) -> None:
        """What came by a clock that was ahead is there all the same: it is held, tried and removed like the rest."""
        with offline(self.path, create=False) as txn:
            store_message(txn, "CCCC", ["bob@example.net"], "", 10, time.time() + 86400.0, {})
        self.assertEqual(self.succeed("queue", "hold", "CCCC"), "1 recipient held.\n")
        self.assertEqual(self.succeed("queue", "remove", "--all"), "4 recipients removed.\n")

    def test_many(self) -> None:
        """More than one transaction changes are changed in several."""
        with offline(self.path, create=False) as txn:
            store_message(txn, "CCCC", [f"u{n}@example.net" for n in range(1000)], "", 10, self.now, {})
        self.assertEqual(self.succeed("queue", "hold", "CCCC"), "1,000 recipients held.\n")
