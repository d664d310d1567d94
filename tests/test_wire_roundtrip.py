"""Promise D: what POP3 returns is what SMTP took, byte for byte after the added trace headers; the sizes agree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mailsvc.wire.lines import stuffed
from tests.memory import ALICE, Client, MailCase, MailHost, unstuffed, without_trace
from tests.messages import NASTY, Message, as_sent, cpython, huge

ENVELOPE = b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n"


def stuff(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """A body as a client sends it."""
    at_line_start = True
    for piece in filter(None, pieces):
        yield stuffed(piece, at_line_start)
        at_line_start = piece.endswith(b"\n")
    yield b".\r\n" if at_line_start else b"\r\n.\r\n"


def as_given(sent: bytes) -> bytes:
    """What stands behind the trace fields: a message that begins with white space is kept apart from them."""
    return b"\r\n" + sent if sent[:1] in (b" ", b"\t") else sent


class RoundTripTests(MailCase):
    """From DATA to RETR."""

    def mail_host(self) -> MailHost:
        host = self.host()
        host.body = replace(host.body, message_size=1 << 27, header_size=1 << 22, in_memory=1 << 16)
        return host

    def deliver(self, host: MailHost, message: Message) -> None:
        """Send a message by SMTP."""
        client = host.mx_client()
        client.ask(ENVELOPE[:-2])
        for piece in stuff(message()):
            client.send(piece)
        reply = client.take()
        self.assertTrue(reply.startswith(b"250 2.0.0 Ok: stored as "), reply)
        client.ask(b"QUIT")

    def fetch(self, client: Client, number: int) -> bytes:
        """Get a message by POP3, and compare the sizes that it tells."""
        size = int(client.ask(b"LIST %d" % number).split()[2])
        reply = client.ask(b"RETR %d" % number)
        self.assertTrue(reply.startswith(b"+OK %d octets\r\n" % size))
        message = unstuffed(reply)
        self.assertEqual(len(message), size)
        return message

    def check(self, messages: dict[str, Message]) -> None:
        host = self.mail_host()
        for message in messages.values():
            self.deliver(host, message)
        client = host.reader(ALICE, utf8=True)
        for number, (name, message) in enumerate(messages.items(), 1):
            expected = as_given(as_sent(b"".join(message())))
            fetched = without_trace(self.fetch(client, number))
            self.assertEqual(len(fetched), len(expected), name)
            self.assertTrue(fetched == expected, name)
            host.reactor.settle()
        digests = [row[0] for row in host.store.connection.execute("SELECT sha256 FROM message ORDER BY id")]
        self.assertEqual(
            digests, [hashlib.sha256(as_sent(b"".join(message()))).hexdigest() for message in messages.values()]
        )

    def test_nasty(self) -> None:
        """Every message of `tests.messages`."""
        self.check(NASTY)

    def test_cpython(self) -> None:
        """CPython's own email test messages."""
        self.check(cpython())

    @settings(deadline=None, max_examples=40)
    @given(
        st.lists(
            st.sampled_from(
                (b"\r\n", b".", b"..", b" ", b"A: b\r\n", b"Received: x\r\n", b"x", b"\r\n\r\n", b"\0\xff")
            ),
            max_size=40,
        )
    )
    def test_any(self, pieces: list[bytes]) -> None:
        """Any message of which the parts are troublesome, in pieces that are cut anywhere."""
        host = self.mail_host()
        self.deliver(host, lambda: pieces)
        expected = as_given(as_sent(b"".join(pieces)))
        self.assertEqual(host.bodies_of(), [expected])
        self.assertEqual(without_trace(self.fetch(host.reader(ALICE, utf8=True), 1)), expected)
        self.check_end(host)
        self.hosts.remove(host)

    def test_nobody_writes_into_our_trace(self) -> None:
        """A first line that begins with white space does not become part of our Received field (RFC 5322, 2.2.3)."""
        host = self.mail_host()
        self.deliver(host, lambda: [b" (checked by the bank)\r\nSubject: x\r\n\r\n"])
        fetched = self.fetch(host.reader(ALICE, utf8=True), 1)
        header, _, body = fetched.partition(b"\r\n\r\n")
        self.assertNotIn(b"bank", header)
        self.assertEqual(body, b" (checked by the bank)\r\nSubject: x\r\n\r\n")

    def test_50_mb(self) -> None:
        """A message of 50 MB comes back as it was; of it no more than a piece is in the server's buffers."""
        message = huge()
        host = self.mail_host()
        self.deliver(host, message)
        client = host.reader(ALICE, utf8=True)
        sent = hashlib.sha256()
        size = 0
        for piece in message():
            sent.update(piece)
            size += len(piece)
        [(stored_size, digest)] = host.store.connection.execute(
            "SELECT item.size, sha256 FROM mailbox_item AS item JOIN message ON message.id = message_id"
        ).fetchall()
        self.assertEqual(digest, sent.hexdigest())
        client.take()
        client.wire.window = 1 << 20
        client.send(b"RETR 1\r\n")
        received = hashlib.sha256()
        octets = 0
        rest = b""
        most = 0
        while not rest.endswith(b"\r\n.\r\n"):
            most = max(most, len(client.wire.dataBuffer) + client.wire._tempDataLen)
            client.wire.writes.clear()
            client.wire.window = 1 << 20
            client.settle()
            rest += client.take()
            if not octets:
                # what stands before the message: the status line and the trace header
                before, found, behind = rest.partition(b"Subject: huge\r\n")
                self.assertTrue(found)
                rest = found + behind
            if not rest.endswith(b"\r\n.\r\n"):
                lines, rest = rest[: rest.rindex(b"\r\n") + 2], rest[rest.rindex(b"\r\n") + 2 :]
            else:
                lines = rest[:-3]
            plain = (b"\r\n" + lines).replace(b"\r\n.", b"\r\n")[2:]
            received.update(plain)
            octets += len(plain)
        self.assertEqual((octets, received.hexdigest()), (size, sent.hexdigest()))
        self.assertEqual(stored_size, size + len(before) - before.index(b"\r\n") - 2)
        self.assertLess(most, 1 << 20)
