"""`mailsvc mailbox deleted|undelete|devices` and `mailsvc user set --deletes --expire`."""

from __future__ import annotations

import json

from mailsvc.errors import MailboxFull, MailsvcError, NotFound
from mailsvc.mail.address import parse_address
from mailsvc.storage import credentials, devices, mailboxes
from mailsvc.storage.accounts import account
from mailsvc.storage.database import offline
from mailsvc.storage.deleted import Removal, remove
from tests.storage_cases import HEADER, TRACE, deliver
from tests.test_cli_user import ALICE, UserCase

KEY = parse_address(ALICE).key
NOON = 1_795_176_000.0  # 2026-11-20, 12:00 UTC


class MailboxCase(UserCase):
    """Alice with three messages, of which the first two are deleted: by her app password phone, and by age."""

    def setUp(self) -> None:
        super().setUp()
        self.have(KEY)
        with offline(self.path, create=False) as txn:
            row = account(txn, KEY)
            assert row is not None
            self.account_id = row.id
            for _ in range(3):
                deliver(txn, b"x" * 100, self.account_id)
            number = credentials.add_app_password(txn, KEY, "phone", "", "digest", "", 1.0)
            remove(txn, self.account_id, [1], Removal(NOON, credential=f"app-password {number}"))
            remove(txn, self.account_id, [2], Removal(NOON + 60, "expired"))

    def uids(self) -> list[int]:
        with offline(self.path, create=False) as txn:
            return list(mailboxes.snapshot(txn, self.account_id).uids)


class DeletedTests(MailboxCase):
    """`mailbox deleted`."""

    def test_list(self) -> None:
        """Each with its number, when and how it was deleted."""
        lines = self.succeed("mailbox", "deleted", ALICE).splitlines()
        self.assertEqual(lines[0].split()[:2], ["id", "deleted"])
        self.assertIn("2026-11-20 12:00  by app password phone", lines[1])
        self.assertIn("2026-11-20 12:01  by age", lines[2])

    def test_json(self) -> None:
        """The same for programs, and until when it can come back."""
        first, second = json.loads(self.succeed("mailbox", "deleted", ALICE, "--json"))
        self.assertEqual((first["id"], first["label"], first["why"], first["until"]), (1, "phone", "deleted", UNTIL))
        self.assertEqual((second["id"], second["device"], second["why"]), (2, None, "expired"))

    def test_nothing(self) -> None:
        """Of a time at which nothing was deleted."""
        said = self.succeed("mailbox", "deleted", ALICE, "--since", "2026-11-21")
        self.assertEqual(said, "alice@example.org has no deleted messages that can come back.\n")
        self.refused(NotFound, ["mailbox", "deleted", "bob@example.org"])


class UndeleteTests(MailboxCase):
    """`mailbox undelete`."""

    def test_which(self) -> None:
        """One by its number, those since a time, or all; what is back is not there a second time."""
        said = self.succeed("mailbox", "undelete", ALICE, "--id", "1", "--id", "1")
        self.assertEqual((said, self.uids()), ("1 message of alice@example.org came back.\n", [3, 4]))
        sentence = self.refused(NotFound, ["mailbox", "undelete", ALICE, "--id", "1", "--id", "2"])
        self.assertIn("no deleted message 1;", sentence)
        said = self.succeed("mailbox", "undelete", ALICE, "--since", "2026-11-20 12:01", "--json")
        self.assertEqual((json.loads(said), self.uids()), ({"address": ALICE, "messages": 1}, [3, 4, 5]))
        self.refused(NotFound, ["mailbox", "undelete", ALICE, "--all"])

    def test_wrong_use(self) -> None:
        """It must be said what, and only once."""
        for options in ([], ["--all", "--id", "1"], ["--all", "--since", "1d"]):
            self.assertEqual(self.run_command("mailbox", "undelete", ALICE, *options).exit_code, 2, options)

    def test_quota(self) -> None:
        """What the quota has no room for stays deleted, and is said; it can be ignored."""
        with offline(self.path, create=False) as txn:
            txn.execute("UPDATE account SET quota = ?", (2 * (len(TRACE + HEADER) + 100),))
        sentence = self.refused(MailboxFull, ["mailbox", "undelete", ALICE, "--all"])
        self.assertIn("1 of 2 messages came back, then the quota", sentence)
        self.assertEqual(self.uids(), [3, 4])
        self.succeed("mailbox", "undelete", ALICE, "--all", "--ignore-quota")
        self.assertEqual(self.uids(), [3, 4, 5])

    def test_many(self) -> None:
        """More than fit into one transaction; `mailsvc why` tells of each."""
        with offline(self.path, create=False) as txn:
            message_ids = [deliver(txn, b"x", self.account_id) for _ in range(250)]
            remove(txn, self.account_id, range(4, 254), Removal(NOON))
        self.assertEqual(self.succeed("mailbox", "undelete", ALICE, "--all")[:4], "252 ")
        self.assertEqual(self.succeed("why", ALICE).count("undeleted"), 3)
        self.assertEqual(len(message_ids), 250)


class DevicesTests(MailboxCase):
    """`mailbox devices`, `user set --deletes`."""

    def test_devices(self) -> None:
        """Who fetches the mail, since when, and whether that still counts."""
        self.assertIn("Nobody has fetched", self.succeed("mailbox", "devices", ALICE))
        said = self.succeed("user", "set", ALICE, "--deletes", "device")
        self.assertIn("What a device deletes stays for its others", said)
        with offline(self.path, create=False) as txn:
            phone = devices.Device(self.account_id, "app-password 1", 1)
            number = devices.note_login(txn, phone, 1.0)
            devices.note_fetched(txn, number, [3], 2.0)
        facts = json.loads(self.succeed("mailbox", "devices", ALICE, "--json"))
        [device] = facts["devices"]
        self.assertEqual((facts["by_device"], device["label"], device["in_use"]), (True, "phone", False))
        self.assertEqual((device["fetched"], device["deleted"]), (1, 0))
        self.assertIn("app password phone", self.succeed("mailbox", "devices", ALICE))

    def test_expire(self) -> None:
        """Days, never, or what is configured."""
        for text, days in {"90": 90, "never": 0, "default": None}.items():
            facts = json.loads(self.succeed("user", "set", ALICE, "--expire", text, "--json"))
            self.assertEqual(facts["expire_days"], days)
        for text in ("0", "-1", "1.5", "999999", "\u0663"):
            self.refused(MailsvcError, ["user", "set", ALICE, "--expire", text])


UNTIL = "2026-11-27T12:00:00Z"
