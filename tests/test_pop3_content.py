"""What a session reads of its messages, and how often it goes to the database for that."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mailsvc.pop3.content import READ_AHEAD, SMALL, Content
from mailsvc.storage import deleted, mailboxes
from tests.memory import ALICE, MailCase, MailHost, unstuffed


def mail(number: int, size: int) -> bytes:
    """A message of at least `size` octets that no other number has."""
    return b"Subject: %d\r\n\r\n" % number + (b"%d." % number * (size // 2))[:size] + b"\r\n"


class ContentTests(MailCase):
    """Few journeys, the right octets, bounded memory."""

    def content(self, host: MailHost) -> Content:
        """What a session that begins now reads with."""
        account = host.account_id(ALICE)
        items = host.store.now(mailboxes.snapshot, account)
        host.store.calls.clear()
        return Content(host.store, account, items)

    def whole(self, content: Content, number: int) -> list[bytes]:
        """The pieces of a message; what is read from it fails the test when it fails."""

        async def collected() -> list[bytes]:
            return [piece async for piece in content.pieces(number)]

        return self.successResultOf(collected())

    def filled(self, *sizes: int, piece: int = mailboxes.PART_LIMIT) -> MailHost:
        """A host whose only account has messages of these sizes."""
        host = self.host()
        for number, size in enumerate(sizes, 1):
            host.put_message(mail(number, size), piece=piece)
        return host

    def test_one_after_the_other(self) -> None:
        """Small messages in a row are read many at once: 160 of 4 KB in 10 journeys."""
        host = self.filled(*[4000] * 160)
        content = self.content(host)
        for number in range(1, 161):
            self.assertEqual(b"".join(self.whole(content, number)), mail(number, 4000))
        self.assertEqual(host.store.calls, ["openings"] * 10)

    def test_not_in_a_row(self) -> None:
        """A single message, wherever it is, brings no other; the next one after it does."""
        host = self.filled(*[4000] * 40)
        content = self.content(host)
        for number, held in ((20, 1), (30, 1), (25, 1), (26, 15), (10, 1)):
            self.whole(content, number)
            self.assertEqual(len(content._ahead), held, number)

    def test_top_and_retr_are_one_journey(self) -> None:
        """Looking at a small message and then fetching it asks the database once."""
        host = self.filled(4000, 4000)
        client = host.reader()
        host.store.calls.clear()
        client.ask(b"TOP 1 0")
        self.assertEqual(unstuffed(client.ask(b"RETR 1")), mail(1, 4000))
        self.assertEqual(unstuffed(client.ask(b"RETR 2")), mail(2, 4000))
        self.assertEqual(host.store.calls, ["openings"])

    def test_large_messages_come_part_by_part(self) -> None:
        """Of a large message nothing is read before it is its turn, and one part at a time."""
        host = self.filled(4000, SMALL + 1, 4000, piece=10_000)
        content = self.content(host)
        self.whole(content, 1)
        self.assertEqual(list(content._ahead), [1])
        self.assertEqual(len(self.whole(content, 2)), 5)
        self.assertEqual(content._ahead, {})
        self.assertEqual(host.store.calls, ["openings"] * 2 + ["content_part"] * 4)

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.sampled_from((0, 3, 5000, SMALL - 100, SMALL + 1, 100_000)), min_size=1, max_size=30),
        st.data(),
    )
    def test_any_order(self, sizes: list[int], data: st.DataObject) -> None:
        """Whatever is asked for in whatever order: each message is itself, and what is held is bounded."""
        host = self.filled(*sizes, piece=20_000)
        content = self.content(host)
        numbers = st.integers(1, len(sizes))
        orders = st.one_of(st.just(list(range(1, len(sizes) + 1))), st.lists(numbers, max_size=20))
        for number in data.draw(orders):
            self.assertEqual(b"".join(self.whole(content, number)), mail(number, sizes[number - 1]))
            held = sum(len(piece) for pieces in content._ahead.values() for piece in pieces)
            self.assertLessEqual(held, READ_AHEAD)
        self.check_end(host)
        self.hosts.remove(host)

    def test_many_tiny(self) -> None:
        """One journey brings 100 messages at most."""
        host = self.filled(*[1] * 150)
        content = self.content(host)
        self.whole(content, 1)
        self.assertEqual(len(content._ahead), 100)

    def test_read_ahead_survives_removal(self) -> None:
        """A message that was removed after it was read is still handed out; one that was removed before is not."""
        host = self.filled(*[30_000] * 4)
        client = host.reader()
        client.ask(b"RETR 1")
        host.store.connection.execute("DELETE FROM mailbox_item")
        host.store.connection.execute("DELETE FROM message")
        self.assertEqual(unstuffed(client.ask(b"RETR 2")), mail(2, 30_000))
        self.assertTrue(client.ask(b"RETR 3").startswith(b"-ERR [SYS/PERM]"))
        self.assertEqual(client.ask(b"NOOP"), b"+OK\r\n")

    def test_deleted_meanwhile(self) -> None:
        """What left the maildrop during the session, and can come back, is still handed out."""
        host = self.filled(4000, 100_000)
        client = host.reader()
        account = host.account_id(ALICE)
        self.assertEqual(host.store.now(deleted.remove, account, [1, 2], deleted.Removal(host.reactor.seconds())), 2)
        self.assertEqual(unstuffed(client.ask(b"RETR 1")), mail(1, 4000))
        self.assertEqual(unstuffed(client.ask(b"RETR 2")), mail(2, 100_000))

    def test_gone_in_the_middle_of_a_row(self) -> None:
        """A message that is gone does not take those along that would have been read with it."""
        host = self.filled(*[4000] * 5)
        client = host.reader()
        host.store.connection.execute("DELETE FROM mailbox_item WHERE uid = 2")
        client.ask(b"RETR 1")
        self.assertTrue(client.ask(b"RETR 2").startswith(b"-ERR [SYS/PERM]"))
        self.assertEqual(unstuffed(client.ask(b"RETR 3")), mail(3, 4000))
