"""A backup MX in memory: what RCPT says, what is queued, which lists are taken into use, what happens when a primary
is back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.backup.forms import NameRules, recipient_list
from mailsvc.backup.keeping import LOOK, FileList, ListKeeper, read_file
from mailsvc.backup.keys import FRESH, make_key, read_key
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound, TemporaryFailure
from mailsvc.relay.url import Relay
from mailsvc.storage import backups, offers
from mailsvc.storage.backups import NewBackup, Source
from mailsvc.tls.client import ClientTLS
from tests.memory import HOSTNAME, MailCase, MailHost, MemoryStore, log_lines, storage_failure
from tests.relay_world import store_message

DAY = 86400.0
OTHER = "example.net"


class BackupCase(MailCase):
    def setUp(self) -> None:
        super().setUp()
        self.key_file = Path(self.mktemp()).absolute()
        make_key(self.key_file)

    def add(self, host: MailHost, source: Source = Source.PRIMARY, **more: Any) -> None:
        key_file = str(self.key_file) if source is Source.PRIMARY else ""
        new = NewBackup(OTHER, source, 30 * DAY, "https://mx1.example.net:8443?cert=mx2", key_file, **more)
        host.store.now(backups.add_backup, new, 0.0)

    def put(self, host: MailHost, *names: str, **rules: Any) -> int:
        """A list of the primary with these names is there."""
        found = recipient_list(
            OTHER,
            NameRules("+", **rules),
            ((name, not name.startswith("gone")) for name in names),
            [("postmaster", True)],
            read_key(self.key_file),
        )
        return host.store.now(backups.put_list, OTHER, found, "stamp", 0.0)

    def rcpt(self, host: MailHost, *names: str) -> list[bytes]:
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.com>")
        return [client.ask(f"RCPT TO:<{name}@{OTHER}>".encode())[:9] for name in names]


class RecipientTests(BackupCase):
    def test_known_and_unknown(self) -> None:
        """A recipient of the list is taken from anybody, with a detail too; an unknown one is refused at RCPT.

        Rule: Backup MX: unknown recipients are refused at RCPT
        """
        for late in (False, True):
            host = self.host(late=late)
            self.add(host)
            self.put(host, "alice", "gone")
            self.assertEqual(
                self.rcpt(host, "Alice", "alice+shop", "bob", "gone", "postmaster"),
                [b"250 2.1.5", b"250 2.1.5", b"550 5.1.1", b"550 5.1.1", b"250 2.1.5"],
            )

    def test_queued_for_thirty_days(self) -> None:
        """The message goes into the queue with its own sender, and may wait as long as the domain says.

        Rule: Backup MX: mail waits up to 30 days
        """
        host = self.host()
        self.add(host)
        self.put(host, "alice")
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.com>")
        client.ask(b"RCPT TO:<alice@example.net>")
        client.ask(b"RCPT TO:<bob@example.org>")
        client.ask(b"DATA")
        self.assertEqual(client.ask(b"Subject: x\r\n\r\nbody\r\n.")[:3], b"250")
        rows = host.store.connection.execute("SELECT recipient, reverse_path, account, keep, prefix FROM outbound")
        self.assertEqual(rows.fetchall(), [("alice@example.net", "eve@example.com", "", 30 * DAY, b"")])
        self.assertEqual(len(host.mail_of("bob@example.org")), 1)

    def test_no_list_yet(self) -> None:
        """Without a list nobody is accepted and nobody refused, unless the postmaster has said otherwise.

        Rule: Backup MX: without a list 451
        """
        host = self.host()
        self.add(host)
        self.assertEqual(self.rcpt(host, "alice"), [b"451 4.4.3"])
        host = self.host()
        self.add(host, accept_any=True)
        self.assertEqual(self.rcpt(host, "alice"), [b"250 2.1.5"])
        self.put(host, "alice")
        self.assertEqual(self.rcpt(host, "bob"), [b"550 5.1.1"])

    def test_no_key(self) -> None:
        """A list whose key cannot be read puts off, and the log says why once."""
        host = self.host()
        self.add(host)
        self.put(host, "alice")
        self.key_file.chmod(0o644)
        lines = log_lines(lambda: self.assertEqual(self.rcpt(host, "alice", "bob"), [b"451 4.4.3"] * 2))
        self.assertEqual(len([line for line in lines if "chmod 600" in line]), 1, lines)
        self.key_file.chmod(0o600)
        self.assertEqual(self.rcpt(host, "alice"), [b"250 2.1.5"])
        self.key_file.unlink()
        self.assertEqual(self.rcpt(host, "alice"), [b"250 2.1.5"], "it is remembered for a minute")
        host.reactor.advance(FRESH)
        self.assertEqual(self.rcpt(host, "alice"), [b"451 4.4.3"])

    def test_all_and_others(self) -> None:
        """A catch-all takes all but those that the primary refuses; other domains are relaying."""
        host = self.host()
        self.add(host)
        self.put(host, "alice", "gone", catch_all=True)
        self.assertEqual(self.rcpt(host, "anybody", "gone"), [b"250 2.1.5", b"550 5.1.1"])
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.com>")
        self.assertEqual(client.ask(b"RCPT TO:<alice@example.com>")[:9], b"550 5.7.1")
        self.assertEqual(client.ask(b"RCPT TO:<alice@sub.example.net>")[:9], b"550 5.7.1")
        host.store.failure = storage_failure()
        self.assertEqual(client.ask(b"RCPT TO:<alice@example.net>")[:3], b"451")


class ListTests(BackupCase):
    def test_only_what_differs_is_written(self) -> None:
        """A list that was the same changes nothing; one that differs, what differs."""
        host = self.host()
        self.add(host)
        self.assertEqual(self.put(host, "alice", "bob"), 3)
        self.assertEqual(self.put(host, "alice", "bob"), 0)
        self.assertEqual(self.put(host, "alice", "carol"), 2)
        self.assertEqual(self.rcpt(host, "bob", "carol"), [b"550 5.1.1", b"250 2.1.5"])
        self.assertEqual(host.store.now(backups.counted, OTHER).accepted, 3)

    def test_rows(self) -> None:
        """A domain once, never one of ours; gone with its list."""
        host = self.host()
        self.add(host)
        self.assertRaises(AlreadyExists, self.add, host)
        ours = NewBackup("example.org", Source.TABLE, DAY)
        self.assertRaises(MailsvcError, host.store.now, backups.add_backup, ours, 0.0)
        self.put(host, "alice")
        host.store.now(backups.remove_backup, OTHER)
        self.assertEqual(host.count("backup_recipient"), 0)
        self.assertRaises(NotFound, host.store.now, backups.remove_backup, OTHER)
        self.assertRaises(NotFound, host.store.now, backups.counted, OTHER)


class OfferTests(BackupCase):
    def test_what_is_offered(self) -> None:
        """The names of accounts and aliases in slices, each with what RCPT would say."""
        host = self.host()
        store = host.store
        for number in range(5):
            host.add_user(f"u{number}@example.org")
        store.connection.execute("UPDATE account SET disabled = 1 WHERE address = 'u3@example.org'")
        found: list[tuple[str, bool]] = []
        after = ""
        while True:
            some, after = store.now(offers.names, "example.org", after, hostname=HOSTNAME, programs=False, limit=3)
            found += some
            if not after:
                break
        self.assertEqual(
            dict(found), {"alice": True, "bob": True, **{f"u{number}": number != 3 for number in range(5)}}
        )
        head = store.now(offers.head, "example.org", hostname=HOSTNAME, programs=False)
        assert head is not None
        self.assertEqual((head.rules, dict(head.reserved)), (NameRules("+"), {"abuse": True, "postmaster": True}))
        self.assertIsNone(store.now(offers.head, OTHER, hostname=HOSTNAME, programs=False))

    def test_to_whom(self) -> None:
        """A server is known by its key, once; a domain must be ours."""
        host = self.host()
        key = "ab" * 32

        def add(label: str, spki: str, *domains: str) -> None:
            host.store.now(offers.add_offer, label, spki, "", str(self.key_file), domains, 0.0)

        self.assertRaises(NotFound, add, "mx2", key, OTHER)
        add("mx2", key, "example.org", "example.org")
        self.assertRaises(AlreadyExists, add, "mx3", key, "example.org")
        self.assertRaises(AlreadyExists, add, "mx2", "cd" * 32, "example.org")
        self.assertRaises(MailsvcError, add, "mx3", "x", "example.org")
        offer = host.store.now(offers.offer_to, key)
        assert offer is not None
        self.assertEqual(offer.domains, ("example.org",))
        self.assertIsNone(host.store.now(offers.offer_to, ""))
        host.store.now(offers.remove_offer, "mx2")
        self.assertIsNone(host.store.now(offers.offer_to, key))
        self.assertRaises(NotFound, host.store.now, offers.remove_offer, "mx2")


class KeeperTests(SynchronousTestCase):
    """Files of recipients, and a primary that cannot be reached."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.file = Path(self.mktemp()).absolute()
        self.file.write_text("alice\n")
        self.asked: list[str] = []

        async def tls(relay: Relay) -> ClientTLS:
            self.asked.append(relay.host)
            raise TemporaryFailure("there is no certificate mx2")

        def in_thread(work: Callable[[], FileList]) -> Deferred[FileList]:
            return maybeDeferred(work)

        self.keeper = ListKeeper(self.store, self.clock, tls, in_thread, every=300.0)
        self.addCleanup(self.end)

    def end(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.keeper.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def add(self, source: Source, place: str) -> None:
        self.store.now(backups.add_backup, NewBackup(OTHER, source, DAY, place, "/key", separator="+"), 0.0)

    def row(self) -> backups.Backup:
        return self.store.now(backups.counted, OTHER)

    def test_a_file_that_changes(self) -> None:
        """It is read again; while it is broken the last good one stays, and its problem is known."""
        self.add(Source.FILE, str(self.file))
        self.keeper.start()
        self.assertEqual(self.store.now(backups.entries, self.row().id), ["!postmaster", "=alice"])
        self.file.write_text("alice\nbob\n")
        self.clock.pump([LOOK] * 61)
        self.assertEqual(self.row().accepted, 3)
        for broken, words in [("@@ \n", "line 1"), ("", "names nobody")]:
            self.file.write_text(broken)
            self.clock.pump([LOOK] * 61)
            self.assertEqual(self.row().accepted, 3)
            self.assertIn(words, self.row().problem)
        self.clock.pump([LOOK] * 61)
        age = self.row().got
        self.file.write_text("carol\n")
        self.clock.pump([LOOK] * 10)
        self.assertEqual((self.row().accepted, self.row().problem), (2, ""))
        self.assertNotEqual(self.row().got, age)

    def test_a_primary_that_is_away(self) -> None:
        """It is asked more often, and the log says why once."""
        self.add(Source.PRIMARY, "https://mx1.example.net:8443?cert=mx2")

        def pass_time() -> None:
            self.keeper.start()
            self.clock.pump([LOOK] * 60)

        lines = log_lines(pass_time)
        self.assertGreater(len(self.asked), 6)
        self.assertEqual(len([line for line in lines if "there has never been one" in line]), 1, lines)
        self.assertEqual((self.row().got, self.row().problem), (None, "there is no certificate mx2"))

    def test_added_while_it_runs(self) -> None:
        """A domain that is new is asked for within seconds; one that was removed is not asked for again."""
        self.keeper.start()
        self.add(Source.FILE, str(self.file))
        self.clock.pump([LOOK])
        self.assertEqual(self.row().accepted, 2)
        self.store.now(backups.remove_backup, OTHER)
        self.clock.pump([LOOK] * 100)

    def test_a_database_that_is_away(self) -> None:
        """Then later."""
        self.add(Source.FILE, str(self.file))
        self.store.failure = storage_failure()
        self.keeper.start()
        self.clock.pump([LOOK] * 3)
        self.store.failure = None
        self.clock.pump([LOOK] * 3)
        self.assertEqual(self.row().accepted, 2)

    def test_files_that_are_none(self) -> None:
        """Each with its name and a cure."""
        self.assertRaisesRegex(MailsvcError, "cannot be read", read_file, self.file / "x", OTHER, "")
        self.file.write_bytes(b"\xff\n")
        self.assertRaisesRegex(MailsvcError, "not UTF-8", read_file, self.file, OTHER, "")

    def test_hurry(self) -> None:
        """What waits because the primary could not be reached is due, and a queue hears of it.

        Rule: A backup MX hands over when the primary is back
        """
        self.add(Source.PRIMARY, "https://mx1.example.net:8443?cert=mx2")
        self.store.now(store_message, "T1", ["alice@example.net", "x@example.com"], "eve@example.com", 100, 0.0, {})
        self.store.connection.execute("UPDATE outbound SET due = 9999, unreached = 1")
        before = self.store.connection.execute("SELECT number FROM outbound_change").fetchone()[0]
        self.assertEqual(self.store.now(backups.primary_is_back, OTHER, 5.0), 1)
        rows = self.store.connection.execute("SELECT recipient, due FROM outbound ORDER BY recipient").fetchall()
        self.assertEqual(rows, [("alice@example.net", 5.0), ("x@example.com", 9999.0)])
        self.assertEqual(self.store.connection.execute("SELECT number FROM outbound_change").fetchone()[0], before + 1)
