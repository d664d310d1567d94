"""`mailsvc mailbox import|export`: nothing twice, nothing lost, nobody else's files."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from mailsvc.cli.main import mailsvc as command
from mailsvc.errors import AlreadyExists, MailboxFull, MailsvcError, NotFound
from mailsvc.mail.address import parse_address
from mailsvc.mail.message import MessageScanner, summarise
from mailsvc.mailbox import exporting
from mailsvc.mailbox.mbox import from_line
from mailsvc.mailbox.uidlist import UidListRefused
from mailsvc.mailbox.writing import Content, MaildirTarget, MboxTarget
from mailsvc.storage import accounts, exports, mailboxes, rules
from mailsvc.storage.exports import Outgoing
from mailsvc.storage.mailboxes import NewMessage
from mailsvc.storage.opening import looking, offline
from tests.storage_cases import make_database

ALICE = "alice@example.org"
BOB = "bob@example.org"


class TransferCase(SynchronousTestCase):
    """The command on a database of its own, with two accounts."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.database = str(self.folder / "mail.sqlite3")
        self.add_accounts(ALICE, BOB)

    def add_accounts(self, *addresses: str) -> None:
        """Make accounts without a password."""
        make_database(self.database)
        with offline(self.database, create=False) as txn:
            for address in addresses:
                accounts.add_account(txn, parse_address(address), None, 0.0)

    def run_command(self, *arguments: str) -> Result:
        """`mailsvc --database FILE mailbox ...`."""
        return CliRunner(env={"MAILSVC_DATABASE": None, "MAILSVC_CONFIG": None}).invoke(
            command, ["--database", self.database, "mailbox", *arguments]
        )

    def succeed(self, *arguments: str) -> str:
        """What the command prints when it succeeds."""
        result = self.run_command(*arguments)
        self.assertEqual(result.exit_code, 0, f"{result.output}{result.exception}")
        return result.stdout

    def facts(self, *arguments: str) -> dict[str, object]:
        """What the command tells programs."""
        found: dict[str, object] = json.loads(self.run_command(*arguments, "--json").stdout)
        return found

    def refused(self, kind: type[BaseException], *arguments: str) -> str:
        """The sentence of the error that the command ends with."""
        result = self.run_command(*arguments)
        self.assertIsInstance(result.exception, kind, result.output)
        return str(result.exception)

    def maildir(self, files: dict[str, bytes], name: str = "Maildir") -> Path:
        """A Maildir; names without a folder are in `new`."""
        path = self.folder / name
        for part in ("tmp", "new", "cur"):
            (path / part).mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            place = path / file if "/" in file else path / "new" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return path

    def account_id(self, address: str) -> int:
        """The account's number."""
        with looking(self.database) as txn:
            row = accounts.account(txn, address)
        assert row is not None
        return row.id

    def items(self, address: str = ALICE) -> list[Outgoing]:
        """What lies in a mailbox."""
        with looking(self.database) as txn:
            return exports.page(txn, self.account_id(address), 0, 2e9, limit=100_000)

    def contents(self, address: str = ALICE) -> list[bytes]:
        """The messages of a mailbox."""
        account_id = self.account_id(address)
        with looking(self.database) as txn:
            items = exports.page(txn, account_id, 0, 2e9, limit=100_000)
            return [b"".join(exports.content(txn, account_id, item)) for item in items]

    def deliver(self, content: bytes, address: str = ALICE, received_at: float = 1.7e9) -> None:
        """Put a message into a mailbox, as SMTP would."""
        self.deliver_all([content], address, received_at)

    def deliver_all(self, contents: Iterable[bytes], address: str = ALICE, received_at: float = 1.7e9) -> None:
        """Put messages into a mailbox, in one transaction."""
        account_id = self.account_id(address)
        with offline(self.database, create=False) as txn:
            for content in contents:
                scanner = MessageScanner()
                scanner.feed(content)
                scanner.close()
                header, body = content[: scanner.header_size], content[scanner.header_size :]
                new = NewMessage("T", "", received_at, b"", summarise(header, size=len(content), sha256=""))
                mailboxes.deliver(txn, new, header, [body], [account_id])


def message(number: int, size: int = 0) -> bytes:
    """A message with LF, of at least `size` octets."""
    return b"Subject: %d\n\ntext %d\n%s" % (number, number, b"x" * size + b"\n" if size else b"")


class ImportTests(TransferCase):
    def test_maildir(self) -> None:
        """Messages come in by their time, with CRLF, with their time and sender; the second run finds them all."""
        path = self.maildir(
            {
                "1700000002.b.host": b"Return-Path: <carol@example.net>\nDelivered-To: x\nSubject: b\n\nFrom b\r\n",
                "cur/1700000001.a.host:2,S": b"Subject: a\n\na",
            }
        )
        self.assertIn("2 messages (", self.succeed("import", ALICE, str(path)))
        self.assertEqual(
            self.contents(),
            [
                b"Subject: a\r\n\r\na\r\n",
                b"Return-Path: <carol@example.net>\r\nDelivered-To: x\r\nSubject: b\r\n\r\nFrom b\r\n",
            ],
        )
        self.assertEqual([item.received_at for item in self.items()], [1700000001, 1700000002])
        self.assertEqual([item.reverse_path for item in self.items()], ["", "carol@example.net"])
        (path / "new/1700000002.b.host").rename(path / "cur/1700000002.b.host:2,RS")
        self.assertIn("2 messages had been imported before", self.succeed("import", ALICE, str(path)))
        self.assertEqual(len(self.items()), 2)

    def test_deleted_messages_stay_deleted(self) -> None:
        """What a client has deleted since is not brought back by the next run."""
        path = self.maildir({"1.a": message(1), "1.b": message(2)})
        self.succeed("import", ALICE, str(path))
        account_id = self.account_id(ALICE)
        with offline(self.database, create=False) as txn:
            mailboxes.delete_items(txn, account_id, [1])
        self.succeed("import", ALICE, str(path))
        self.assertEqual([item.uid for item in self.items()], [2])

    def test_removed_account_begins_anew(self) -> None:
        """With the account goes the memory of what it imported."""
        path = self.maildir({"1.a": message(1)})
        self.succeed("import", ALICE, str(path))
        with offline(self.database, create=False) as txn:
            accounts.remove_account(txn, ALICE)
        self.add_accounts(ALICE)
        self.succeed("import", ALICE, str(path))
        self.assertEqual(len(self.items()), 1)

    def test_dry_run(self) -> None:
        """--dry-run says the same and does nothing."""
        path = self.maildir({"1.a": message(1)})
        dry = self.facts("import", ALICE, str(path), "--dry-run")
        self.assertEqual(self.items(), [])
        done = self.facts("import", ALICE, str(path))
        self.assertEqual(dry | {"dry_run": False}, done)

    def test_uidlist(self) -> None:
        """With Dovecot's list, messages have its order and its unique-ids; one that it lacks gets a new one."""
        path = self.maildir({f"{number}.x": message(number) for number in (1, 2, 3)})
        (path / "dovecot-uidlist").write_text("3 V1275660208 N30 G1\n7 :3.x\n9 Pown :1.x\n11 :9.gone\n")
        output = self.succeed("import", ALICE, str(path))
        self.assertIn("2 of these keep the unique-id", output)
        uidls = [item.uidl for item in self.items()]
        self.assertEqual(uidls[:2], ["000000074c0907b0", "own"])
        self.assertRegex(uidls[2], r"\A3\.[0-9a-f]{16}\Z")
        self.assertEqual([one[-8:-2] for one in self.contents()], [b"text 3", b"text 1", b"text 2"])

    def test_lists_without_end(self) -> None:
        """A list that is larger than any is refused, and of damaged lines only the first are told."""
        maildir = self.maildir({"1": b"Subject: a\n\n"})
        with (maildir / "dovecot-uidlist").open("wb") as file:
            file.write(b"3 V1 N1 G1\n" + b"\n" * 1000)
            file.flush()
            self.assertEqual(self.run_command("import", ALICE, str(maildir), "--dry-run").stderr.count("damaged"), 10)
            file.truncate(2**30)
        self.assertIn("octets", self.refused(MailsvcError, "import", ALICE, str(maildir)))

    def test_uidl_format(self) -> None:
        """--uidlist and --uidl-format say what the Dovecot was told; --no-uidlist forgets it."""
        path = self.maildir({"1.x": message(1)})
        other = self.folder / "list"
        other.write_text("3 V5 N30 G1\n7 :1.x\n")
        self.succeed("import", ALICE, str(path), "--uidlist", str(other), "--uidl-format", "%v.%u")
        self.assertEqual(self.items()[0].uidl, "5.7")
        other.rename(path / "dovecot-uidlist")
        self.succeed("import", BOB, str(path), "--no-uidlist")
        self.assertRegex(self.items(BOB)[0].uidl, r"\A1\.[0-9a-f]{16}\Z")
        self.refused(UidListRefused, "import", ALICE, str(path), "--uidl-format", "%m")
        self.refused(FileNotFoundError, "import", ALICE, str(path), "--uidlist", str(other))
        (path / "dovecot-uidlist").write_text("root:x\n")
        self.assertIn("--no-uidlist", self.refused(MailsvcError, "import", ALICE, str(path)))

    def test_unique_ids_are_unique(self) -> None:
        """A unique-id that is not allowed, or that another message has or had, is replaced, and counted."""
        path = self.maildir({f"{number}.x": message(number) for number in range(1, 6)})
        lines = ["1 Pdup :1.x", "2 Pdup :2.x", "3 Pcafé :3.x", f"4 P{'x' * 71} :4.x", f"5 P{'x' * 70} :5.x"]
        (path / "dovecot-uidlist").write_text("\n".join(["3 V1 N30 G1", *lines, ""]))
        facts = self.facts("import", ALICE, str(path))
        self.assertEqual((facts["uidls_kept"], facts["uidls_changed"]), (2, 3))
        uidls = [item.uidl for item in self.items()]
        self.assertEqual((uidls[0], uidls[4], len(set(uidls))), ("dup", "x" * 70, 5))
        account_id = self.account_id(ALICE)
        with offline(self.database, create=False) as txn:
            mailboxes.delete_items(txn, account_id, [1])
        again = self.maildir({"6.x": message(6)}, "again")
        (again / "dovecot-uidlist").write_text("3 V1 N30 G1\n1 Pdup :6.x\n")
        self.succeed("import", ALICE, str(again))
        self.assertNotIn("dup", [item.uidl for item in self.items()])

    def test_strange_files(self) -> None:
        """Links, pipes, folders and empty files are skipped by name, exit status 1; the rest comes in."""
        path = self.maildir({"1.a": message(1), "2.empty": b"", ".hidden": b"x"})
        secret = self.folder / "secret"
        secret.write_bytes(message(9))
        (path / "new" / "3.link").symlink_to(secret)
        os.mkfifo(path / "cur" / "4.fifo")
        (path / "cur" / "5.folder").mkdir()
        result = self.run_command("import", ALICE, str(path))
        self.assertEqual(result.exit_code, 1)
        for line in ("2.empty: it is empty", "3.link: it is a symbolic link", "4.fifo: it is no plain file"):
            self.assertIn(f"skipped: {line}\n", result.stdout)
        self.assertIn("4 messages were skipped", result.stdout)
        self.assertEqual(len(self.items()), 1)

    def test_files_of_others(self) -> None:
        """A file that belongs to another user than its folder (a hard link) is skipped."""
        if os.geteuid() != 0:
            raise SkipTest("only root can give files away")
        path = self.maildir({"1.a": message(1), "2.b": message(2)})
        os.chown(path / "new" / "2.b", 12345, 12345)
        result = self.run_command("import", ALICE, str(path))
        self.assertIn("skipped: 2.b: it belongs to another user than the folder\n", result.stdout)
        self.assertEqual(len(self.items()), 1)

    def test_sources_that_are_links(self) -> None:
        """The source itself is not followed either: it may lead to somebody else's mail."""
        path = self.maildir({"1.a": message(1)})
        (self.folder / "link").symlink_to(path)
        file = self.folder / "mbox"
        file.write_bytes(from_line("", 0) + message(1))
        (self.folder / "mboxlink").symlink_to(file)
        (path / "cur").rmdir()
        (path / "cur").symlink_to(self.folder)
        (self.folder / "second").hardlink_to(file)
        self.assertIn("hard links", self.refused(MailsvcError, "import", ALICE, str(file)))
        for source in ("link", "link/", "mboxlink", "Maildir"):
            self.assertIn("is a symbolic link", self.refused(MailsvcError, "import", ALICE, f"{self.folder}/{source}"))
        self.assertEqual(self.items(), [])

    def test_names_are_escaped(self) -> None:
        """A file's name reaches the terminal without control characters."""
        path = self.maildir({"1.\x1b[2J\n": b""})
        output = self.run_command("import", ALICE, str(path)).stdout
        self.assertIn(r"skipped: 1.\x1b[2J\n: it is empty", output)

    def test_sizes(self) -> None:
        """What is larger than smtp.message_size, or --max-size, is skipped; so is a header that is too large."""
        path = self.maildir({"1.a": message(1, 5000), "2.b": b"X: " + b"y" * 3_000_000, "3.c": message(3)})
        result = self.run_command("import", ALICE, str(path), "--max-size", "4K")
        self.assertIn("1.a: it has more than 4096 octets", result.stdout)
        self.assertEqual(len(self.items()), 1)
        result = self.run_command("import", ALICE, str(path), "--max-size", "none")
        self.assertIn("2.b: its header has more than 2097152 octets", result.stdout)
        self.assertEqual(len(self.items()), 2)
        self.refused(MailsvcError, "import", ALICE, str(path), "--max-size", "much")

    def test_large_messages(self) -> None:
        """A message of many pieces comes in as it is."""
        content = b"Subject: x\n\n" + b"0123456789\n" * 300_000
        self.succeed("import", ALICE, str(self.maildir({"1.a": content})))
        self.assertEqual(self.contents(), [content.replace(b"\n", b"\r\n")])

    def test_quota(self) -> None:
        """What fits comes in, then it stops with a sentence; --ignore-quota, or more quota, goes on from there."""
        path = self.maildir({f"{number}.x": message(number, 1000) for number in range(1, 10)})
        with offline(self.database, create=False) as txn:
            rules.set_quota(txn, ALICE, 4500)
        result = self.run_command("import", ALICE, str(path))
        self.assertIsInstance(result.exception, MailboxFull)
        self.assertIn("4 messages (", result.stdout)
        self.assertIn("not complete", result.stdout)
        self.assertIn("--ignore-quota", str(result.exception))
        self.assertEqual(len(self.items()), 4)
        self.assertIn("5 messages (", self.succeed("import", ALICE, str(path), "--ignore-quota"))
        self.assertEqual(sorted(self.contents()), sorted({*self.contents()}))

    def test_folders(self) -> None:
        """Folders come in only when they are named; a message that is also in the inbox is another one there."""
        path = self.maildir({"1.a": message(1), ".Archive.2024/cur/1.a:2,S": message(2)})
        for part in ("new", "tmp"):
            (path / ".Archive.2024" / part).mkdir()
        self.succeed("import", ALICE, str(path))
        self.assertEqual(len(self.items()), 1)
        self.succeed("import", ALICE, str(path), "--folder", "Archive/2024")
        self.assertEqual(len(self.items()), 2)
        self.assertIn("Nothing", self.refused(MailsvcError, "import", ALICE, str(path), "--folder", "Nothing"))

    def test_mbox(self) -> None:
        """An mbox comes in with its times and senders, quotes undone; equal messages are several, runs are one."""
        file = self.folder / "mbox"
        one = from_line("carol@example.net", 1.6e9) + b"Subject: x\n\n>From me\n>>From you\n\n"
        file.write_bytes(one + one + from_line("", 1.7e9) + b"Subject: y\n")
        self.assertIn("3 messages (", self.succeed("import", ALICE, str(file)))
        inside = b"Subject: x\r\n\r\nFrom me\r\n>From you\r\n"
        self.assertEqual(self.contents(), [inside, inside, b"Subject: y\r\n"])
        self.assertEqual(
            [(item.reverse_path, item.received_at) for item in self.items()][1], ("carol@example.net", 1.6e9)
        )
        file.write_bytes(one + one + from_line("", 1.7e9) + b"Subject: y\n\n" + one)
        self.assertIn("1 message (", self.succeed("import", ALICE, str(file)))
        self.succeed("import", BOB, str(file), "--format", "mboxo")
        self.assertIn(b">>From you", self.contents(BOB)[0])

    def test_last_line_without_end(self) -> None:
        """It gets one, as POP3 will send it: LIST told two octets less than RETR sends."""
        maildir = self.maildir({"1": b"Subject: a\n\nbody", "2": b"Subject: b", "3": b"Subject: c\r\n\r\nbody\r"})
        facts = self.facts("import", ALICE, str(maildir))
        self.assertEqual(facts["imported"], 3)
        expected = [b"Subject: a\r\n\r\nbody\r\n", b"Subject: b\r\n", b"Subject: c\r\n\r\nbody\r\r\n"]
        self.assertEqual(sorted(self.contents()), expected)
        self.assertEqual(facts["octets"], sum(map(len, expected)))

    def test_wrong_sources(self) -> None:
        """What is no Maildir and no mbox is refused with a sentence, and so is an account that is not there."""
        file = self.folder / "file"
        file.write_bytes(b"root:x:0:0\n")
        self.assertIn("no mbox", self.refused(MailsvcError, "import", ALICE, str(file)))
        self.assertIn("new", self.refused(MailsvcError, "import", ALICE, str(self.folder)))
        self.refused(OSError, "import", ALICE, str(self.folder / "nothing"))
        self.refused(NotFound, "import", "nobody@example.org", str(file))
        for wrong in (["--format", "mbox", "--folder", "x"], ["--uidlist", "x", "--no-uidlist"]):
            self.assertEqual(self.run_command("import", ALICE, str(self.folder), *wrong).exit_code, 2)

    def test_why(self) -> None:
        """`mailsvc why` tells of imports."""
        self.succeed("import", ALICE, str(self.maildir({"1.a": message(1)})))
        result = CliRunner().invoke(command, ["--database", self.database, "why", ALICE])
        self.assertIn(f"1 message was imported into the mailbox {ALICE}", result.stdout)


class StoppedTests(TransferCase):
    """Runs that end in the middle."""

    def test_interrupted_export(self) -> None:
        """What an mbox export has counted when it is stopped is there when it goes on."""
        self.deliver_all(b"Subject: %d\r\n\r\n" % number for number in range(50))
        file = self.folder / "mbox"
        target, tally = MboxTarget(str(file), ALICE, 2e9), exporting.Tally()

        def press(messages: int) -> None:
            if messages == 30:
                raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            exporting.export(self.database, self.account_id(ALICE), target, tally, now=2e9, progress=press)
        target.close()
        self.assertEqual(tally.exported, 30)
        facts = self.facts("export", ALICE, str(file), "--format", "mbox")
        self.assertEqual((facts["already_there"], facts["exported"]), (30, 20))

    def stopped(self, target: exporting.Target, after: int) -> exporting.Tally:
        """An export that is interrupted behind so many messages."""
        tally = exporting.Tally()
        with self.assertRaises(KeyboardInterrupt):
            exporting.export(self.database, self.account_id(ALICE), Stopping(target, after), tally, now=2e9)
        return tally

    def test_mbox_export_goes_on(self) -> None:
        """An mbox export that was stopped, at any message, comes out the same as one that was not."""
        self.deliver_all(b"Subject: %d\r\n\r\nFrom x\r\n" % number for number in range(450))
        self.succeed("export", ALICE, str(self.folder / "whole"), "--format", "mbox")
        for after in (0, 1, 199, 200, 201, 449):
            file = self.folder / f"mbox{after}"
            target = MboxTarget(str(file), ALICE, 2e9)
            self.assertEqual(self.stopped(target, after).exported, after)
            target.close()
            self.assertFalse(file.exists())
            output = self.succeed("export", ALICE, str(file), "--format", "mbox")
            self.assertIn(f"{450 - after // 200 * 200:,} messages (", output)
            self.assertEqual(file.read_bytes(), (self.folder / "whole").read_bytes())
            self.assertEqual(sorted(path.name for path in self.folder.glob("mbox*.partial*")), [])

    def test_mbox_partials_of_others(self) -> None:
        """A partial file that is not ours, or of another mailbox, stays as it is."""
        self.deliver(b"Subject: x\r\n\r\n")
        file = self.folder / "mbox"
        partial = self.folder / "mbox.partial"
        partial.write_bytes(b"mine")
        self.refused(AlreadyExists, "export", ALICE, str(file), "--format", "mbox")
        state = self.folder / "mbox.partial.json"
        for text in ("{", "[]", '{"address": "bob@example.org", "begun": 1, "uid": 1, "octets": 2}'):
            state.write_text(text)
            self.refused(MailsvcError, "export", ALICE, str(file), "--format", "mbox")
        state.write_text('{"address": "alice@example.org", "begun": 1, "uid": 1, "octets": 5}')
        self.refused(MailsvcError, "export", ALICE, str(file), "--format", "mbox")
        self.assertEqual(partial.read_bytes(), b"mine")
        partial.unlink()
        self.assertIn("is gone", self.refused(MailsvcError, "export", ALICE, str(file), "--format", "mbox"))

    def test_mbox_partials_are_no_way_into_other_files(self) -> None:
        """A partial file that is a link, hard or symbolic, or belongs to another user: nothing is written."""
        self.deliver(b"Subject: x\r\n\r\n")
        precious, file = self.folder / "precious", self.folder / "mbox"
        precious.write_bytes(b"precious")
        partial, state = self.folder / "mbox.partial", self.folder / "mbox.partial.json"
        forged = '{"address": "alice@example.org", "begun": 1, "uid": 0, "octets": 0}'
        state.write_text(forged)
        partial.hardlink_to(precious)
        self.refused(MailsvcError, "export", ALICE, str(file), "--format", "mbox")
        partial.unlink()
        partial.symlink_to(precious)
        self.refused(OSError, "export", ALICE, str(file), "--format", "mbox")
        if os.geteuid() == 0:
            partial.unlink()
            partial.write_bytes(b"")
            os.chown(state, 12345, 12345)
            self.refused(MailsvcError, "export", ALICE, str(file), "--format", "mbox")
        self.assertEqual(precious.read_bytes(), b"precious")

    def test_two_exports_at_once(self) -> None:
        """The second export into the same mbox is refused while the first one writes."""
        self.deliver(b"Subject: x\r\n\r\n")
        target = MboxTarget(str(self.folder / "mbox"), ALICE, 2e9)
        self.addCleanup(target.close)
        sentence = self.refused(MailsvcError, "export", ALICE, str(self.folder / "mbox"), "--format", "mbox")
        self.assertIn("another export", sentence)

    def test_two_exports_into_one_maildir(self) -> None:
        """Likewise; it would remove what the first one is writing."""
        self.deliver(b"Subject: x\r\n\r\n")
        target = MaildirTarget(str(self.folder / "out"), ALICE)
        sentence = self.refused(MailsvcError, "export", ALICE, str(self.folder / "out"), "--format", "maildir")
        self.assertIn("another export", sentence)
        target.close()
        self.succeed("export", ALICE, str(self.folder / "out"), "--format", "maildir")


class Stopping:
    """A target at which somebody presses Ctrl-C behind so many messages."""

    def __init__(self, target: exporting.Target, after: int) -> None:
        self._target = target
        self._left = after
        self.keep: Callable[[], None] = target.keep
        self.finish: Callable[[int, float], None] = target.finish

    def add(self, item: Outgoing, content: Content) -> bool:
        """Add, or stop."""
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        return self._target.add(item, content)


class ExportTests(TransferCase):
    def files(self, path: Path) -> dict[str, bytes]:
        """What is in a Maildir's cur."""
        return {file.name: file.read_bytes() for file in sorted((path / "cur").iterdir())}

    def test_maildir(self) -> None:
        """One private file for each message, with LF, sizes in its name and its time; the second run does nothing."""
        self.deliver(b"Subject: a\r\n\r\nFrom a\r\n")
        self.deliver(b"Subject: b\r\n\r\nb", received_at=1.6e9)
        path = self.folder / "out"
        self.assertIn("2 messages (", self.succeed("export", ALICE, str(path), "--format", "maildir"))
        files = self.files(path)
        self.assertEqual(sorted(files.values()), [b"Subject: a\n\nFrom a\n", b"Subject: b\n\nb"])
        for name, content in files.items():
            wire = len(content) + content.count(b"\n")
            self.assertTrue(name.endswith(f",S={len(content)},W={wire}:2,"), name)
            status = (path / "cur" / name).stat()
            self.assertEqual(stat.S_IMODE(status.st_mode), 0o600)
            self.assertEqual(int(status.st_mtime), int(name.partition(".")[0]))
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o700)
        self.assertIn(
            "2 messages had been exported before", self.succeed("export", ALICE, str(path), "--format", "maildir")
        )
        self.assertEqual(self.files(path), files)
        self.assertEqual(list((path / "tmp").iterdir()), [])

    def test_maildir_list(self) -> None:
        """The list has every message's unique-id, stays the same where nothing changed, and grows with the mail."""
        self.deliver(b"Subject: a\r\n\r\n")
        path = self.folder / "out"
        self.succeed("export", ALICE, str(path), "--format", "maildir")
        first = (path / "dovecot-uidlist").read_text().splitlines()
        self.assertRegex(first[0], r"\A3 V\d+ N2 G[0-9a-f]{32}\Z")
        self.assertTrue(first[1].startswith(f"1 P{self.items()[0].uidl} :"))
        self.deliver(b"Subject: b\r\n\r\n")
        account_id = self.account_id(ALICE)
        with offline(self.database, create=False) as txn:
            mailboxes.delete_items(txn, account_id, [1])
        self.succeed("export", ALICE, str(path), "--format", "maildir")
        second = (path / "dovecot-uidlist").read_text().splitlines()
        self.assertEqual(second[0], first[0].replace("N2", "N3"))
        self.assertEqual((second[1], len(second)), (first[1], 3))

    def test_foreign_maildirs(self) -> None:
        """A Maildir in use by a Dovecot, or with the export of another mailbox, is left as it is."""
        path = self.maildir({"1.x": b"x"})
        (path / "dovecot-uidlist").write_text("3 V1 N30 G1\n1 :1.x\n")
        self.deliver(b"Subject: a\r\n\r\n")
        self.deliver(b"Subject: a\r\n\r\n", BOB)
        self.assertIn("new folder", self.refused(AlreadyExists, "export", ALICE, str(path), "--format", "maildir"))
        self.assertEqual(self.files(path), {})
        out = self.folder / "out"
        self.succeed("export", ALICE, str(out), "--format", "maildir")
        before = sorted(map(str, out.rglob("*")))
        self.refused(AlreadyExists, "export", BOB, str(out), "--format", "maildir")
        result = self.run_command("export", BOB, str(out), "--format", "maildir")
        self.assertNotIn("goes on from there", result.stdout)
        self.assertEqual(sorted(map(str, out.rglob("*"))), before)
        (self.folder / "link").symlink_to(out)
        self.refused(MailsvcError, "export", ALICE, str(self.folder / "link"), "--format", "maildir")

    def test_other_files_in_a_maildir_stay(self) -> None:
        """A Maildir without a list takes the mail beside what is there."""
        path = self.maildir({"1.x": b"x", "cur/2.y:2,S": b"y", "tmp/3.z": b"z"})
        self.deliver(b"Subject: a\r\n\r\n")
        self.succeed("export", ALICE, str(path), "--format", "maildir")
        self.assertEqual(len(self.files(path)), 2)
        for name in ("new/1.x", "cur/2.y:2,S", "tmp/3.z"):
            self.assertTrue((path / name).exists(), name)

    def test_mbox(self) -> None:
        """One private file in mboxrd form; a file that is there is left as it is."""
        self.deliver(b"Subject: a\r\n\r\nFrom a\r\n>From b\r\n")
        self.deliver(b"Subject: b\r\n\r\nb")
        file = self.folder / "mbox"
        self.succeed("export", ALICE, str(file), "--format", "mbox")
        line = from_line("", 1.7e9)
        self.assertEqual(
            file.read_bytes(),
            line + b"Subject: a\n\n>From a\n>>From b\n\n" + line + b"Subject: b\n\nb\n\n",
        )
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        self.assertIn("there already", self.refused(AlreadyExists, "export", ALICE, str(file), "--format", "mbox"))

    def test_empty_mailbox(self) -> None:
        """Nothing to export is an empty target."""
        self.succeed("export", ALICE, str(self.folder / "mbox"), "--format", "mbox")
        self.assertEqual((self.folder / "mbox").read_bytes(), b"")
        self.assertEqual(self.facts("export", ALICE, str(self.folder / "out"), "--format", "maildir")["exported"], 0)

    def test_held_messages_stay(self) -> None:
        """A message that nobody sees yet (FUTURERELEASE) is not exported."""
        self.deliver(b"Subject: a\r\n\r\n")
        with offline(self.database, create=False) as txn:
            txn.execute("UPDATE mailbox_item SET release_at = 9e9")
        facts = self.facts("export", ALICE, str(self.folder / "mbox"), "--format", "mbox")
        self.assertEqual((facts["exported"], facts["held"]), (0, 1))
        output = self.succeed("export", ALICE, str(self.folder / "out"), "--format", "maildir")
        self.assertIn("\n1 message was left out: nobody is shown what is held until later.\n", output)

    def test_released_between_two_runs(self) -> None:
        """What was held when an mbox was begun is not counted as exported by the run that goes on; it is told of."""
        self.deliver_all(b"Subject: %d\r\n\r\n" % number for number in range(250))
        with offline(self.database, create=False) as txn:
            txn.execute("UPDATE mailbox_item SET release_at = 2e9 WHERE uid = 1")
        file = self.folder / "mbox"
        target = MboxTarget(str(file), ALICE, 1e9)
        with self.assertRaises(KeyboardInterrupt):
            exporting.export(
                self.database, self.account_id(ALICE), Stopping(target, 230), exporting.Tally(), now=target.begun
            )
        target.close()
        with offline(self.database, create=False) as txn:
            txn.execute("UPDATE mailbox_item SET release_at = 1.5e9 WHERE uid = 1")
        facts = self.facts("export", ALICE, str(file), "--format", "mbox")
        self.assertEqual((facts["exported"], facts["already_there"], facts["held"]), (49, 200, 1))


_LINES = st.lists(
    st.sampled_from([b"From x\r\n", b">From y\r\n", b"\r\n", b"\r\r\n", b"a\r\n", b"b\0\xe9 \r\n", b"\rc\r\n"])
)
_MESSAGES = st.lists(_LINES.map(lambda lines: b"Subject: x\r\n\r\n" + b"".join(lines)), min_size=1, max_size=4)


class RoundTrips(TransferCase):
    def setUp(self) -> None:
        super().setUp()
        self.number = 0

    def through(self, messages: Iterable[bytes], form: str) -> None:
        """What went into one mailbox comes out of another, order and octets."""
        self.number += 1
        one, two = f"from{self.number}@example.org", f"to{self.number}@example.org"
        self.add_accounts(one, two)
        sent = list(messages)
        self.deliver_all(sent, one)
        path = str(self.folder / f"out{self.number}")
        self.succeed("export", one, path, "--format", form)
        self.succeed("import", two, path)
        self.assertEqual(self.contents(two), sent)
        if form == "maildir":
            self.assertEqual([item.uidl for item in self.items(two)], [item.uidl for item in self.items(one)])

    @settings(deadline=None, max_examples=12)
    @given(_MESSAGES)
    def test_maildir(self, messages: list[bytes]) -> None:
        """Exported as Maildir and imported again, every message is the same, with the same unique-id."""
        self.through(messages, "maildir")

    @settings(deadline=None, max_examples=12)
    @given(_MESSAGES)
    def test_mbox(self, messages: list[bytes]) -> None:
        """Exported as mbox and imported again, every message is the same."""
        self.through(messages, "mbox")

    def test_into_the_same_mailbox(self) -> None:
        """Imported where it came from, mail is there twice, under unique-ids of which no two are the same."""
        self.deliver(b"Subject: a\r\n\r\n")
        self.succeed("export", ALICE, str(self.folder / "out"), "--format", "maildir")
        facts = self.facts("import", ALICE, str(self.folder / "out"))
        self.assertEqual((facts["imported"], facts["uidls_changed"]), (1, 1))
        self.assertEqual(len({item.uidl for item in self.items()}), 2)
