"""What a session is sent of a message, and that LIST, STAT and RETR agree about how long it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import parse_address
from mailsvc.mail.message import Summary
from mailsvc.mail.snapshot import MaildropItem, Snapshot
from mailsvc.mail.surrogate import Appearance
from mailsvc.pop3.rendering import Renderer, View, Workarounds
from mailsvc.storage import mailboxes
from mailsvc.storage.accounts import add_account
from mailsvc.storage.deleted import Removal, undelete
from mailsvc.storage.devices import Device, carry_out
from mailsvc.storage.migrate import shipped_upgrades
from tests.memory import ALICE, PASSWORD, Client, MailCase, MailHost, unstuffed

UTF8 = "From: jö@example.org\r\nSubject: Grüße\r\n\r\n.höhö\r\n".encode()
PARTS = (
    'Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; name="ü"\r\n\r\nü\r\n--b--\r\n'
).encode()
PLAIN = b"Subject: x\r\n\r\n8 bit: \xff\0\r\n"
NO_BODY = b"Subject: x\r\n"
KINDS = [UTF8, PLAIN, PARTS, NO_BODY, b"\r\n\xff\r\n"]


def all_of(client: Client, count: int) -> list[bytes]:
    """Every message, after LIST, STAT and RETR have agreed about it."""
    sizes = [int(line.split()[1]) for line in unstuffed(client.ask(b"LIST")).splitlines()]
    messages = [unstuffed(client.ask(b"RETR %d" % number)) for number in range(1, count + 1)]
    assert sizes == [len(message) for message in messages], (sizes, messages)
    for number, size in enumerate(sizes, 1):
        assert client.ask(b"LIST %d" % number) == b"+OK %d %d\r\n" % (number, size)
        assert client.ask(b"RETR %d" % number).startswith(b"+OK %d " % size)
    assert client.ask(b"STAT") == b"+OK %d %d\r\n" % (count, sum(sizes))
    return messages


def utf8_reader(host: MailHost) -> Client:
    client = host.secured_pop3()
    for line in (b"UTF8", b"USER " + ALICE.encode(), b"PASS " + PASSWORD.encode()):
        assert client.ask(line).startswith(b"+OK")
    return client


class Sessions(MailCase):
    def test_before_and_after_utf8(self) -> None:
        """Before UTF8 headers are ASCII, at every level; after it every octet is as it came. All sizes are true.

        Rule: UTF8: before it, an internationalised message is downgraded
        Rule: LIST and STAT say the size that RETR sends
        """
        host = self.host()
        sent = [UTF8, PLAIN, PARTS, b"Subject: caf\xe9\r\n\r\n"]
        for message in sent:
            host.put_message(message, piece=7)
        messages = all_of(host.reader(), len(sent))
        self.assertEqual(
            messages[0],
            b"From: =?utf-8?q?j=C3=B6=40example=2Eorg?= :;\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\n\r\n"
            + ".höhö\r\n".encode(),
        )
        self.assertEqual(messages[1], PLAIN)
        self.assertIn(b"name*=utf-8''%C3%BC", messages[2])
        self.assertTrue(messages[2].endswith("\r\n\r\nü\r\n--b--\r\n".encode()))
        self.assertEqual(messages[3], b"Subject: =?unknown-8bit?q?caf=E9?=\r\n\r\n")
        self.end_sessions(host)
        self.assertEqual(all_of(utf8_reader(host), len(sent)), sent)

    def end_sessions(self, host: MailHost) -> None:
        for client in host.clients:
            client.hang_up()

    def test_top(self) -> None:
        """The lines of TOP are those of what is sent (RFC 6858 section 4)."""
        host = self.host()
        host.put_message(PARTS, piece=5)
        client = host.reader()
        whole = unstuffed(client.ask(b"RETR 1"))
        for lines in range(8):
            header, _, body = whole.partition(b"\r\n\r\n")
            expected = header + b"\r\n\r\n" + b"".join(body.splitlines(keepends=True)[:lines])
            self.assertEqual(unstuffed(client.ask(b"TOP 1 %d" % lines)), expected)

    def test_marks(self) -> None:
        """DELE and RSET count what is sent."""
        host = self.host()
        host.put_message(UTF8)
        host.put_message(PLAIN)
        client = host.reader()
        before = client.ask(b"STAT")
        client.ask(b"DELE 1")
        self.assertEqual(client.ask(b"STAT"), b"+OK 1 %d\r\n" % len(PLAIN))
        client.ask(b"RSET")
        self.assertEqual(client.ask(b"STAT"), before)

    def test_what_stands_before_the_message(self) -> None:
        """An address beyond ASCII in Delivered-To is downgraded too, in front of any message, and counted."""
        host = self.host()
        account = host.store.now(add_account, parse_address("jö@example.org"), PASSWORD, 0.0)
        for prefix in ("Delivered-To: jö@example.org\r\n", "Return-Path: <ö@example.net>\r\n", "X: a\r\n"):
            for message in (PLAIN, UTF8, b"Content-Type: message/global-headers\r\n\r\nSubject: x\r\n"):
                self.put(host, account, prefix.encode(), message)
        messages = all_of(host.reader("jö@example.org"), 9)
        self.assertTrue(messages[0].startswith(b"Delivered-To: =?utf-8?q?j=C3=B6=40example=2Eorg?= :;\r\nSubject: x"))
        self.assertTrue(all(message.partition(b"\r\n\r\n")[0].isascii() for message in messages))

    def put(self, host: MailHost, account: int, prefix: bytes, message: bytes) -> None:
        end = message.index(b"\r\n\r\n") + 4
        summary = Summary(len(message), end, sha256(message).hexdigest(), None, None, None, None)
        new = mailboxes.NewMessage("ID0", "", 0.0, b"", summary)
        before = {account: prefix}
        host.store.now(
            lambda txn: mailboxes.deliver(txn, new, message[:end], [message[end:]], [account], prefixes=before)
        )

    def test_workarounds(self) -> None:
        """NULs and the end of the header are changed when it is wanted, the sizes with them."""
        host = self.host()
        host.put_message(PLAIN)
        host.put_message(NO_BODY)
        host.put_message(b"Subject: x\r\nno field\r\n")
        host.put_message("Subject: ü\0\r\nno field\0\r\n".encode())
        self.assertEqual(all_of(host.reader(), 4)[1:3], [NO_BODY, b"Subject: x\r\nno field\r\n"])
        self.end_sessions(host)
        host.maildrops._workarounds = Workarounds(replace_nuls=True, end_of_header=True)
        self.assertEqual(
            all_of(host.reader(), 4),
            [
                PLAIN.replace(b"\0", b"\x80"),
                NO_BODY + b"\r\n",
                b"Subject: x\r\n\r\nno field\r\n",
                b"Subject: =?utf-8?b?w7wA?=\r\n\r\nno field\x80\r\n",
            ],
        )

    def test_stored_before_the_upgrade(self) -> None:
        """What nobody has measured is measured at the first login that needs it, and once."""
        host = self.host()
        for number in range(60):
            host.put_message((UTF8, PLAIN, PARTS)[number % 3])
        expected = all_of(host.reader(), 60)
        self.end_sessions(host)
        host.store.connection.execute("UPDATE mailbox_item SET surrogate_size = -1")
        self.assertEqual(all_of(host.reader(), 60), expected)
        unknown = host.store.connection.execute("SELECT COUNT(*) FROM mailbox_item WHERE surrogate_size = -1")
        self.assertEqual(unknown.fetchone()[0], 0)

    def test_deleted_and_brought_back(self) -> None:
        """A message that comes back is shown as before."""
        host = self.host()
        host.put_message(UTF8)
        account = host.account_id(ALICE)
        device = Device(account, "password")
        host.store.now(carry_out, device, [1], Removal(0.0, credential="password", keep=True), 0.0)
        host.store.now(undelete, account, [1], 1.0)
        [message] = all_of(host.reader(), 1)
        self.assertTrue(message.startswith(b"From: =?utf-8?q?"))

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.sampled_from(KINDS), max_size=8), st.booleans(), st.booleans())
    def test_any_maildrop(self, messages: list[bytes], utf8: bool, workarounds: bool) -> None:
        """Whatever lies in it and whatever is wanted, sizes are true."""
        host = MailHost()
        for message in messages:
            host.put_message(message, piece=11)
        if workarounds:
            host.maildrops._workarounds = Workarounds(True, True)
        all_of(utf8_reader(host) if utf8 else host.reader(), len(messages))
        host.end()

    def test_plan(self) -> None:
        """A login in a maildrop of plain messages does not read it a second time: an index has what matters."""
        host = self.host()
        client = host.reader()
        questions: list[str] = []
        host.store.connection.set_trace_callback(questions.append)
        client.ask(b"QUIT")
        host.reader()
        host.store.connection.set_trace_callback(None)
        [question] = [question for question in questions if "header_gap > 0" in question]
        plan = str(host.store.connection.execute(f"EXPLAIN QUERY PLAN {question}").fetchall())
        self.assertEqual(plan.count("COVERING INDEX mailbox_item_shown"), 2, plan)
        self.assertNotIn("PRIMARY KEY", plan)

    def test_upgrade(self) -> None:
        """The upgrade marks what was stored before it: announced or with such a header, and without its end."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            for upgrade in shipped_upgrades():
                if upgrade.number == 11:
                    connection.execute("INSERT INTO domain (id, name, created) VALUES (1, 'example.org', 1.0)")
                    connection.execute(
                        "INSERT INTO account (id, domain_id, address, key, created) VALUES (1, 1, 'a', 'a', 1.0)"
                    )
                    for number, (header, prefix, announced) in enumerate(self.OLD, 1):
                        connection.execute(
                            "INSERT INTO message (id, trace_id, reverse_path, received_at, size, header_size, sha256,"
                            " body_8bit) VALUES (?, 't', '', 1.0, 10, 1, '', ?)",
                            (number, announced),
                        )
                        connection.execute("INSERT INTO message_content VALUES (?, 0, ?)", (number, header))
                        connection.execute(
                            "INSERT INTO mailbox_item (account_id, uid, message_id, size, uidl, prefix)"
                            " VALUES (1, ?, ?, 10, 'x', ?)",
                            (number, number, prefix),
                        )
                connection.executescript(upgrade.sql)
            found = connection.execute("SELECT surrogate_size, header_gap FROM mailbox_item ORDER BY uid").fetchall()
        self.assertEqual(found, [(None, 0), (-1, 0), (-1, 0), (-1, 0), (None, 2), (-1, 0)])

    OLD = (
        (b"Subject: x\r\n\r\n", b"X: y\r\n", 0),
        ("Subject: ü\r\n\r\n".encode(), b"", 0),
        (b"Subject: \xff\r\n\r\n", b"", 0),
        (b"Subject: x\r\n\r\n", "X: ü\r\n".encode(), 0),
        (b"Subject: x\r\n", b"", 0),
        (b"Subject: x\r\n\r\n", b"", 1),
    )


class Views(SynchronousTestCase):
    def test_most_sessions_need_no_memory(self) -> None:
        """Without such messages the sizes are the very array of the snapshot, and nothing renders."""
        items = Snapshot.of([MaildropItem(uid, uid, 10, f"u{uid}") for uid in (2, 4, 6)])
        view = View(items, {}, utf8=False, workarounds=Workarounds())
        self.assertIs(view.sizes, items.sizes)
        self.assertIsNone(view.renderer(1))
        view = View(
            items, {4: Appearance(12), 5: Appearance(9), 7: Appearance(9)}, utf8=False, workarounds=Workarounds()
        )
        self.assertEqual((list(view.sizes), list(items.sizes)), ([10, 12, 10], [10, 10, 10]))
        self.assertEqual([view.is_surrogate(number) for number in (1, 2, 3)], [False, True, False])
        self.assertIs(View(items, {4: Appearance(12, 2)}, utf8=True, workarounds=Workarounds()).sizes, items.sizes)

    def test_a_header_that_ends_in_the_middle_of_a_line(self) -> None:
        """It gets its line end, and the empty line."""
        renderer = Renderer(end_of_header=True)
        self.assertEqual(renderer.feed(b"Subject: x") + renderer.close(), b"Subject: x\r\n\r\n")
