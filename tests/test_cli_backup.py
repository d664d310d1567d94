"""`mailsvc backup`: on both sides."""

from __future__ import annotations

import json
from pathlib import Path

from mailsvc.backup.keys import read_key
from mailsvc.cli.backup import STALE, stale
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.relay.url import RelayError
from mailsvc.storage import backups
from mailsvc.storage.database import offline
from tests.test_cli_directory import DirectoryCase

OTHER = "example.net"
URL = "https://mx1.example.net:8443?cert=mx2"
SPKI = "ab" * 32


class BackupCommandTests(DirectoryCase):
    def setUp(self) -> None:
        super().setUp()
        self.use_configuration('hostname = "mx2.example.org"\n')
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def show(self) -> dict[str, object]:
        shown: dict[str, object] = json.loads(self.succeed("backup", "show", OTHER, "--json"))
        return shown

    def test_a_table(self) -> None:
        """Addresses are accepted and refused by hand; the route comes and goes with the domain."""
        self.assertIn("better than mx2.example.org", self.succeed("backup", "add", "Example.NET"))
        self.assertIn("backup://mx2.example.org", self.succeed("route", "list"))
        self.succeed("backup", "accept", f"Alice@{OTHER}", f"bob@{OTHER}")
        self.assertEqual(self.show()["names"], ["alice", "bob"])
        self.assertIn("  alice@example.net\n", self.succeed("backup", "show", OTHER))
        told = self.succeed("route", "explain", f"bob@{OTHER}")
        self.assertIn("list of recipients has the name", told)
        self.assertIn("better than mx2.example.org", told)
        self.assertNotIn("refused", told)
        self.assertIn("550 5.1.1", self.succeed("route", "explain", f"carol@{OTHER}"))
        self.succeed("backup", "refuse", f"ALICE@{OTHER}")
        self.assertEqual(self.show()["names"], ["bob"])
        self.refused(NotFound, ["backup", "refuse", f"alice@{OTHER}"])
        self.succeed("backup", "accept", f"@{OTHER}")
        self.assertIn("every recipient is accepted", self.succeed("backup", "show", OTHER))
        self.succeed("backup", "refuse", f"@{OTHER}")
        self.assertIn("30 days", self.succeed("backup", "list"))
        self.refused(NotFound, ["backup", "accept", "x@example.com"])
        self.assertIn("no backup", self.succeed("backup", "remove", OTHER))
        self.assertIn("backup for nobody", self.succeed("backup", "list"))
        self.assertNotIn("backup://", self.succeed("route", "list"))
        self.refused(NotFound, ["backup", "remove", OTHER])

    def test_a_file(self) -> None:
        """What is wrong with it is said at once."""
        file = self.folder / "recipients"
        self.refused(MailsvcError, ["backup", "add", OTHER, "--recipients", str(file)])
        file.write_text("# who\nalice\ncarol@example.com\n")
        self.succeed("backup", "add", OTHER, "--recipients", str(file), "--keep", "12h")
        self.assertEqual((self.show()["names"], self.show()["keep_seconds"]), (["alice"], 43200.0))
        self.assertIn("known from its file", self.refused(MailsvcError, ["backup", "accept", f"bob@{OTHER}"]))
        self.refused(AlreadyExists, ["backup", "add", OTHER])
        self.assertIn("domain of ours", self.refused(MailsvcError, ["backup", "add", "example.org"]))

    def test_a_primary(self) -> None:
        """Its URL and its key are looked at; the list comes later, and until then its age is none."""
        key = self.folder / "key"
        self.refused(MailsvcError, ["backup", "add", OTHER, "--from-primary", URL, "--key-file", str(key)])
        key.write_text("00" * 32 + "\n")
        key.chmod(0o600)
        weak = self.refused(MailsvcError, ["backup", "add", OTHER, "--from-primary", URL, "--key-file", str(key)])
        self.assertIn("guess", weak)
        key.unlink()
        self.succeed("backup", "offer", "x", "example.org", "--spki", SPKI, "--key-file", str(key))
        self.refused(RelayError, ["backup", "add", OTHER, "--from-primary", "https://a", "--key-file", str(key)])
        self.succeed("route", "add", "--to", OTHER, "tls://mx1.example.net")
        told = self.succeed("backup", "add", OTHER, "--from-primary", URL, "--key-file", str(key))
        self.assertIn("put off with 451", told)
        self.assertIn("by the route that is there: tls://mx1.example.net", told)
        self.assertEqual(self.show()["list_age_seconds"], None)
        self.assertIn("451 4.4.3", self.succeed("route", "explain", f"carol@{OTHER}"))
        self.assertNotIn(read_key(key).hex(), self.succeed("backup", "show", OTHER))
        self.succeed("backup", "remove", OTHER)
        self.assertIn("tls://mx1.example.net", self.succeed("route", "list"))

    def test_usage(self) -> None:
        """Options that exclude each other, or belong together."""
        for options in (
            ["--recipients", "x", "--from-primary", URL],
            ["--from-primary", URL],
            ["--key-file", "x"],
            ["--accept-any"],
            ["--separator", "++"],
        ):
            self.assertEqual(self.run_command("backup", "add", OTHER, *options).exit_code, 2, options)
        self.refused(MailsvcError, ["backup", "add", OTHER, "--keep", "1y"])

    def test_offers(self) -> None:
        """Who may fetch which lists; the key is made once and belongs to its owner alone."""
        key = self.folder / "key"
        arguments = ["backup", "offer", "mx2", "example.org", "--spki", SPKI, "--key-file", str(key)]
        self.assertIn("[listen] recipients is off", self.warned(*arguments))
        self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        octets = key.read_bytes()
        self.refused(AlreadyExists, arguments)
        self.assertEqual(json.loads(self.succeed("backup", "offers", "--json"))[0]["domains"], ["example.org"])
        self.assertIn("never", self.succeed("backup", "offers"))
        self.succeed("backup", "withdraw", "mx2")
        self.refused(NotFound, ["backup", "withdraw", "mx2"])
        self.assertIn("No list is offered", self.succeed("backup", "offers"))
        self.succeed(*arguments)
        self.assertEqual(key.read_bytes(), octets)
        self.refused(NotFound, ["backup", "offer", "a", OTHER, "--spki", "cd" * 32, "--key-file", str(key)])

    def test_stale(self) -> None:
        """What `mailsvc doctor` says: of a list that never came, and of one that is old and cannot be renewed."""
        self.succeed("backup", "add", OTHER)
        with offline(self.path, create=False) as txn:
            txn.execute("UPDATE backup_domain SET source = 'primary', got = NULL, created = 0")
            self.assertIn("put off with 451", stale(backups.counted(txn, OTHER), 10.0))
            txn.execute("UPDATE backup_domain SET got = 0")
            self.assertEqual(stale(backups.counted(txn, OTHER), 2 * STALE), "")
            backups.note_problem(txn, OTHER, "nobody answers", 1.0)
            self.assertEqual(stale(backups.counted(txn, OTHER), STALE - 1), "")
            self.assertIn("is 2 days old: nobody answers", stale(backups.counted(txn, OTHER), 2 * STALE))
