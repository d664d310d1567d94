"""The property of DESIGN section 4, for both servers: one script in every segmentation, with a database that answers at
once, late, or only when everything has arrived, gives identical replies and identical stored messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from mailsvc.storage import devices
from tests.memory import (
    ALICE,
    BOB,
    MX,
    MX_OPTIONAL,
    PASSWORD,
    Client,
    Cut,
    MailCase,
    MailHost,
    byte_by_byte,
    cut_at,
    whole,
)

SMTP_PARTS = (
    b"EHLO client.example.net\r\n",
    b"HELO client.example.net\r\n",
    b"MAIL FROM:<eve@example.net>\r\n",
    b"MAIL FROM:<eve@example.net> SIZE=10\r\n",
    b"RCPT TO:<alice@example.org>\r\n",
    b"RCPT TO:<bob@example.org>\r\n",
    b"RCPT TO:<nobody@example.org>\r\n",
    b"RCPT TO:<x@example.com>\r\n",
    b"DATA\r\n",
    b"Subject: one\r\n\r\nbody\r\n.\r\n",
    b"..\r\n...\r\n.\r\n",
    b".\r\n",
    b"text\n.\r\nMAIL FROM:<smuggled@example.net>\r\n.\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"NOOP\n",
    b"\r\n",
    b"VRFY alice\r\n",
    b"nonsense\r\n",
    b"NOOP " + b"x" * 2100 + b"\r\n",
    b"QUIT\r\n",
)
# a transaction that succeeds must be likely, or nothing would be stored
_LETTER = (SMTP_PARTS[0], SMTP_PARTS[2], SMTP_PARTS[4], SMTP_PARTS[8], SMTP_PARTS[9])
smtp_scripts = st.lists(
    st.one_of(st.sampled_from(SMTP_PARTS).map(lambda part: (part,)), st.just(_LETTER), st.just(_LETTER[1:])),
    max_size=10,
).map(lambda groups: b"".join(part for group in groups for part in group))

POP3_PARTS = (
    b"USER alice@example.org\r\n",
    b"PASS " + PASSWORD.encode() + b"\r\n",
    b"PASS wrong\r\n",
    b"STAT\r\n",
    b"LIST\r\n",
    b"LIST 2\r\n",
    b"UIDL\r\n",
    b"RETR 1\r\n",
    b"RETR 2\r\n",
    b"RETR 9\r\n",
    b"TOP 2 1\r\n",
    b"TOP 2 0\r\n",
    b"DELE 1\r\n",
    b"DELE 2\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"NOOP\n",
    b"CAPA\r\n",
    b"\r\n",
    b"x" * 3000 + b"\r\n",
    b"QUIT\r\n",
)
_LOGIN = (POP3_PARTS[0], POP3_PARTS[1])
pop3_scripts = st.lists(
    st.one_of(st.sampled_from(POP3_PARTS).map(lambda part: (part,)), st.just(_LOGIN)), max_size=12
).map(lambda groups: b"".join(part for group in groups for part in group))

some_places = st.lists(st.integers(0, 1500), max_size=20)

Outcome = tuple[bytes, bool, list[bytes], list[bytes]]
Play = Callable[[Client, bytes], None]


def at_once(client: Client, script: bytes) -> None:
    """Everything arrives before the server does anything."""
    client.put(script)
    client.settle()


def one_by_one(client: Client, script: bytes) -> None:
    """The server looks at each segment before the next one arrives."""
    for segment in client.cut(script):
        client.cut = whole
        client.send(segment)


class SegmentationCase(MailCase):
    """Plays one script in many ways; ``tests/system`` does so with more scripts."""

    def smtp(self, script: bytes, cut: Cut, play: Play, *, late: bool, tls: bool, held: bool = False) -> Outcome:
        """Play a script to the SMTP server: the replies, whether it closed, and the messages it has stored."""
        host = self.host(late=late)
        client = host.secured_smtp(MX) if tls else host.smtp(MX_OPTIONAL)
        client.take()
        return self.outcome(host, client, script, cut, play, held)

    def pop3(self, script: bytes, cut: Cut, play: Play, *, late: bool, held: bool = False) -> Outcome:
        """The same for the POP3 server."""
        host = self.host(late=late)
        # The first login of an hour is noted beside what the client does; this is to be about the client alone.
        host.store.now(devices.note_login, devices.Device(host.account_id(ALICE), "password"), 0.0)
        host.put_message(b"Subject: one\r\n\r\n.one\r\n", piece=3)
        host.put_message(b"Subject: two\r\n\r\n.\r\nline 2\r\n\r\n..\r\n" * 20, piece=7)
        return self.outcome(host, host.secured_pop3(), script, cut, play, held)

    def outcome(self, host: MailHost, client: Client, script: bytes, cut: Cut, play: Play, held: bool) -> Outcome:
        client.cut = cut
        host.store.held = held
        play(client, script)
        while host.store.waiting:
            self.assertEqual(host.store.waiting, 1, "one command is in flight")
            host.store.release(1)
            client.settle()
        # A UIDL has 64 random bits.
        replies = re.sub(rb"\.[0-9a-f]{16}\r\n", b".uidl\r\n", client.take())
        closed = client.saw_close_notify or client.is_closed
        outcome = replies, closed, host.mail_of(ALICE), host.mail_of(BOB)
        self.check_end(host)
        self.hosts.remove(host)
        return outcome

    def same_smtp(self, script: bytes, places: list[int]) -> None:
        """Assert that SMTP in clear is the same in all ways."""
        expected = self.smtp(script, whole, at_once, late=False, tls=False)
        for cut in self.cuts(places):
            for play in (at_once, one_by_one):
                for late, held in ((False, False), (True, False), (False, True)):
                    outcome = self.smtp(script, cut, play, late=late, tls=False, held=held)
                    self.assertEqual(outcome, expected)

    def same_smtp_in_tls(self, script: bytes, places: list[int]) -> None:
        """The same inside TLS, where a segment is a TLS record."""
        expected = self.smtp(script, whole, at_once, late=False, tls=True)
        for late, held in ((False, False), (True, False), (False, True)):
            cut = self.cuts(places)[1]
            self.assertEqual(self.smtp(script, cut, at_once, late=late, tls=True, held=held), expected)

    def same_pop3(self, script: bytes, places: list[int]) -> None:
        """The same for POP3, inside TLS."""
        expected = self.pop3(script, whole, at_once, late=False)
        for play in (at_once, one_by_one):
            for late, held in ((False, False), (True, False), (False, True)):
                self.assertEqual(self.pop3(script, self.cuts(places)[1], play, late=late, held=held), expected)

    def cuts(self, places: Sequence[int]) -> list[Cut]:
        return [whole, lambda data: cut_at(data, places)]


class SegmentationTests(SegmentationCase):
    """Identical replies and identical bodies."""

    @settings(deadline=None, max_examples=10)
    @given(smtp_scripts, some_places)
    def test_smtp(self, script: bytes, places: list[int]) -> None:
        """SMTP in clear.

        Rule: PIPELINING
        """
        self.same_smtp(script, places)

    @settings(deadline=None, max_examples=10)
    @given(smtp_scripts, some_places)
    def test_smtp_in_tls(self, script: bytes, places: list[int]) -> None:
        """SMTP inside TLS."""
        self.same_smtp_in_tls(script, places)

    @settings(deadline=None, max_examples=10)
    @given(pop3_scripts, some_places)
    def test_pop3(self, script: bytes, places: list[int]) -> None:
        """POP3, inside TLS."""
        self.same_pop3(script, places)

    def test_byte_by_byte(self) -> None:
        """A fixed script of every command, octet by octet, to each server."""
        smtp = b"".join(SMTP_PARTS)
        expected = self.smtp(smtp, whole, at_once, late=False, tls=False)
        self.assertEqual(len(expected[2]), 1)
        self.assertEqual(self.smtp(smtp, byte_by_byte, one_by_one, late=True, tls=False), expected)
        inside_tls = self.smtp(smtp, byte_by_byte, at_once, late=True, tls=True)[0]
        self.assertEqual(inside_tls, expected[0].replace(b"250 STARTTLS", b"250 REQUIRETLS"))
        pop3 = b"".join(POP3_PARTS)
        self.assertEqual(
            self.pop3(pop3, byte_by_byte, one_by_one, late=True), self.pop3(pop3, whole, at_once, late=False)
        )
