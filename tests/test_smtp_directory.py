"""Who gets mail, through the SMTP server: what is stored, what a program gets, the warning of a full mailbox."""

from __future__ import annotations

from mailsvc.directory.program import Ended
from mailsvc.directory.tables import Program
from mailsvc.mail.address import parse_address
from mailsvc.storage.aliases import add_alias
from mailsvc.storage.rules import set_quota
from tests.memory import ALICE, BOB, MailCase, MailHost

SORTER = Program(("/bin/sorter", "--to", "$(x) y"))


class ProgramTests(MailCase):
    def host_with_sorter(self) -> MailHost:
        host = self.host()
        host.store.now(add_alias, parse_address("Sort@example.org"), [SORTER], 0.0)
        return host

    def send(self, host: MailHost, *recipients: bytes, body: bytes = b"Subject: x\r\n\r\nbody\r\n") -> bytes:
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>")
        for recipient in recipients:
            self.assertEqual(client.ask(b"RCPT TO:<" + recipient + b">")[:3], b"250")
        client.ask(b"DATA")
        return client.ask(body + b".")

    def test_what_it_is_given(self) -> None:
        """A program gets the message behind its trace header, and the envelope; nothing is stored for it.

        Rule: Pipe: message on standard input, envelope in the environment
        """
        host = self.host_with_sorter()
        self.assertEqual(self.send(host, b"sort+a@example.org", b"SORT@example.org")[:3], b"250")
        [(program, told, message)] = host.programs.given
        self.assertEqual(program, SORTER)
        self.assertEqual(
            (told["SENDER"], told["RECIPIENT"], told["ORIGINAL_RECIPIENT"]),
            ("eve@example.net", "Sort@example.org", "sort+a@example.org"),
        )
        self.assertEqual(told["MESSAGE_SIZE"], str(len(message)))
        top = b"Return-Path: <eve@example.net>\r\nDelivered-To: Sort@example.org\r\nReceived: from "
        self.assertTrue(message.startswith(top), message)
        self.assertTrue(message.endswith(b"\r\nSubject: x\r\n\r\nbody\r\n"), message)
        ((messages,),) = host.store.connection.execute("SELECT COUNT(*) FROM message").fetchall()
        self.assertEqual(messages, 0)
        kinds = [kind for (kind,) in host.store.connection.execute("SELECT kind FROM event ORDER BY id")]
        self.assertEqual(kinds, ["accepted", "noted"])

    def test_same_program_behind_two_aliases(self) -> None:
        """It is run for each alias, as two lists with one manager want it."""
        host = self.host_with_sorter()
        host.store.now(add_alias, parse_address("sort2@example.org"), [SORTER], 0.0)
        self.send(host, b"sort@example.org", b"sort2@example.org")
        told = [told["RECIPIENT"] for _, told, _ in host.programs.given]
        self.assertEqual(told, ["Sort@example.org", "sort2@example.org"])

    def test_with_a_mailbox(self) -> None:
        """What is stored beside a program is the whole message, also after the program has read it."""
        host = self.host_with_sorter()
        self.send(host, b"sort@example.org", ALICE.encode(), body=b"Subject: x\r\n\r\n" + b"y" * 70_000 + b"\r\n")
        [mail] = host.mail_of(ALICE)
        self.assertEqual(mail.count(b"y" * 70_000), 1)
        self.assertTrue(host.programs.given[0][2].endswith(b"y\r\n"))

    def test_refusal_stores_nothing(self) -> None:
        """A program that refuses refuses for all; the sender's next attempt begins anew."""
        host = self.host_with_sorter()
        host.programs.ends["/bin/sorter"] = Ended(65)
        self.assertEqual(self.send(host, b"sort@example.org", ALICE.encode()), b"550 5.6.0 Refused by a program\r\n")
        self.assertEqual(host.mail_of(ALICE), [])


class WarningTests(MailCase):
    def test_once(self) -> None:
        """The delivery that passes nine tenths brings one warning; the counter is what lies there.

        Rule: Quota: one warning at 90 %
        """
        host = self.host()
        host.store.now(set_quota, ALICE, 20_000)
        for size in (17_000, 600, 10):
            client = host.mx_client()
            client.ask(b"MAIL FROM:<eve@example.net>")
            client.ask(f"RCPT TO:<{ALICE}>".encode())
            client.ask(f"RCPT TO:<{BOB}>".encode())
            client.ask(b"DATA")
            body = b"Subject: x\r\n\r\n" + b"z" * 70 + b"\r\n" + (b"y" * 98 + b"\r\n") * (size // 100)
            self.assertEqual(client.ask(body + b".")[:3], b"250")
        warnings = [mail for mail in host.mail_of(ALICE) if b"\r\nSubject: Your mailbox is 9" in mail]
        self.assertEqual((len(warnings), len(host.mail_of(ALICE)), len(host.mail_of(BOB))), (1, 4, 3))
        self.assertTrue(warnings[0].startswith(b"Return-Path: <>\r\n"))
        ((used,),) = host.store.connection.execute("SELECT used_octets FROM account WHERE key = ?", (ALICE,)).fetchall()
        self.assertEqual(used, sum(map(len, host.mail_of(ALICE))))
