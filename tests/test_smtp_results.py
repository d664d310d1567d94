"""Authentication-Results: what we write, and what others wrote in our name."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.policy import SMTP

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.directory.tables import Program
from mailsvc.mail.address import parse_address
from mailsvc.mail.channel import NO_CERTIFICATE, NOT_ASKED, Failed, Resumed, Verified
from mailsvc.smtp.modes import lmtp
from mailsvc.smtp.results import results_field, speaks_for, without_forged
from mailsvc.storage import aliases
from tests.memory import HOSTNAME, MX_OPTIONAL, MailCase, MailHost, without_trace

OURS = (
    b" mail.example.org; dkim=pass",
    b"mail.example.org",
    b" MAIL.Example.ORG 1; spf=pass",
    b' "mail.example.org" 1; spf=pass',
    b' "mail.example\\.org"; spf=pass',
    b"\r\n\tmail.example.org;\r\n spf=pass",
    b" (a (nested\\) ) comment) mail.example.org ; x=pass",
    b" mail.example.org.; spf=pass",
    b" mail.example.org/1; spf=pass",
    b" mail.example.org(comment); spf=pass",
    b" (never closed mail.example.org; spf=pass",
    b" =mail.example.org; spf=pass",
    b' "mail.example.org; spf=pass',
    b" (" * 60 + b"mail.example.org",
    b" (ends in a backslash mail.example.org\\",
    b" =?utf-8?b?bWFpbC5leGFtcGxlLm9yZw==?=; dkim=pass",
    b' "=?utf-8?q?mail=2Eexample=2Eorg?="; dkim=pass',
    b" mail.=?utf-8?q?example?=.org; dkim=pass",
    b" (=?utf-8?q?)_mail=2Eexample=2Eorg=3B?= ) other.example; dkim=pass",
)
NOT_OURS = (
    b" mx.example.org; dkim=pass header.d=mail.example.org",
    b" mail.example.org.example.com; spf=pass",
    b" (mail.example.org) other.example; spf=pass",
    b" xmail.example.org; none",
    b' "other.example" 1; spf=pass',
    b' other.example; dkim=fail reason="=?utf-8?q?mail?="',
    b" ; nobody",
    b" \xff; none",
    b"",
)


PIECES = (b"\r\n", b" x", b"a: b\r\n", b"Authentication-Results: ", b"(", b'"', HOSTNAME.encode())


class FieldTests(SynchronousTestCase):
    """What we write (RFC 8601 section 2.2)."""

    def test_each_result(self) -> None:
        """pass, fail with a reason, none, neutral; nothing when nobody asked.

        Rule: Authentication-Results for the client's certificate
        """
        spki = "ab" * 32
        for client, words in (
            (Verified("CN=a,O=b", "CN=ca", (), spki), ["x-tls-client=pass", 'policy.subject="CN=a,O=b"']),
            (Failed(("long",), "CN=a", brief=("expired 2026-01-01",)), ["x-tls-client=fail", 'reason="expired 2026']),
            (NO_CERTIFICATE, ["x-tls-client=none"]),
            (Resumed("CN=a", spki), ["x-tls-client=neutral", "not checked"]),
        ):
            field = results_field(HOSTNAME, client).decode()
            self.assertTrue(field.startswith("Authentication-Results: mail.example.org;\r\n\tx-tls-client="), field)
            for word in words:
                self.assertIn(word, field)
            parsed = message_from_bytes(field.encode() + b"\r\n", policy=SMTP)
            self.assertEqual((parsed.keys(), parsed.defects), (["Authentication-Results"], []))
        self.assertEqual(results_field(HOSTNAME, NOT_ASKED), b"")

    def test_quoted(self) -> None:
        """Quotes and backslashes of a name do not end its string."""
        field = results_field(HOSTNAME, Verified('CN=a"; spf=pass', "CN=x\\", (), "")).decode()
        self.assertIn('policy.subject="CN=a\\"; spf=pass"\r\n\tpolicy.issuer="CN=x\\\\"\r\n', field)

    def test_ours_are_found_again(self) -> None:
        """What we write is what we take out when it comes in."""
        field = results_field(HOSTNAME, NO_CERTIFICATE)
        self.assertEqual(without_forged(field + b"X: y\r\n\r\n", HOSTNAME), (b"X: y\r\n\r\n", 1))


class ForgedTests(SynchronousTestCase):
    """Whose a field claims to be (RFC 8601 section 5)."""

    def test_whose(self) -> None:
        """In every way of writing our name; where it cannot be read, the side of caution.

        Rule: Forged Authentication-Results are taken out
        """
        for value in OURS:
            self.assertTrue(speaks_for(value, HOSTNAME), value)
        for value in NOT_OURS:
            self.assertFalse(speaks_for(value, HOSTNAME), value)

    def test_only_they_go(self) -> None:
        """Every other octet of the header stays where it was; folded fields go whole.

        Rule: Forged Authentication-Results are taken out
        """
        others = [b"Subject: a\r\n", b"X-Authentication-Results: mail.example.org\r\n", b"b: c\r\n\td\r\n", b"\r\n"]
        header = b"".join(
            b"AUTHENTICATION-results :" + forged + b"\r\n" + other for forged, other in zip(OURS, others, strict=False)
        )
        self.assertEqual(without_forged(header, HOSTNAME), (b"".join(others), len(others)))
        kept = b"".join(b"Authentication-Results:" + value + b"\r\n" for value in NOT_OURS) + b"\r\n"
        self.assertEqual(without_forged(kept, HOSTNAME), (kept, 0))

    @settings(deadline=None)
    @given(
        st.lists(
            st.sampled_from([b"\r\n", b" x", b"a: b\r\n", b"Authentication-Results: ", b"(", b'"', HOSTNAME.encode()])
        )
    )
    def test_any_header(self, pieces: list[bytes]) -> None:
        """What is left is the same header with whole fields missing, and nothing in it speaks for us."""
        header = b"".join(pieces)
        left, removed = without_forged(header, HOSTNAME)
        self.assertEqual(without_forged(left, HOSTNAME)[1], 0, header)
        self.assertEqual(left == header, removed == 0)
        lines = iter(header.splitlines(keepends=True))
        self.assertTrue(all(any(line == each for each in lines) for line in left.splitlines(keepends=True)))

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_any_value(self, value: bytes) -> None:
        """Whatever stands there, there is an answer."""
        speaks_for(value, HOSTNAME)


FORGED = b"Authentication-Results: mail.example.org; dkim=pass header.d=bank.example\r\n"
REST = b"Subject: \xc3\xa9 x\r\nAuthentication-Results: other.example; spf=pass\r\n\r\nbody\r\n" + FORGED


class TakenTests(MailCase):
    """A message with a forged field."""

    def send(self, host: MailHost, message: bytes, to: bytes = b"alice@example.org") -> None:
        client = host.smtp(MX_OPTIONAL)
        for line in (b"EHLO x.example", b"MAIL FROM:<a@example.net> BODY=8BITMIME", b"RCPT TO:<" + to + b">", b"DATA"):
            client.ask(line)
        client.put(message)
        self.assertEqual(client.ask(b".")[:3], b"250")

    def test_the_rest_stays(self) -> None:
        """The forged field goes from the header, and nothing else, also not the same text in the body; it is noted.

        Rule: Forged Authentication-Results are taken out
        """
        host = self.host()
        self.send(host, FORGED + REST)
        self.assertEqual(host.bodies_of(), [REST])
        size, header_size = host.store.connection.execute("SELECT size, header_size FROM message").fetchone()
        stored = host.mail_of()[0]
        prefix = stored.index(b"Received:")
        self.assertEqual((size, header_size), (len(stored) - prefix, stored.index(b"body") - prefix))
        [detail] = host.store.connection.execute("SELECT detail FROM event WHERE kind = 'noted'").fetchone()
        self.assertIn("1 Authentication-Results field in our name", detail)

    def test_nothing_but_forged(self) -> None:
        """A header of nothing else, with and without an empty line behind it."""
        host = self.host()
        for message, left in (
            (FORGED + b"\r\nbody\r\n", b"\r\nbody\r\n"),
            (FORGED, b""),
            (FORGED * 3 + b"no field\r\n", b"no field\r\n"),
        ):
            self.send(host, message)
            self.assertEqual(host.bodies_of()[-1], left)

    def test_behind_a_line_that_is_no_field(self) -> None:
        """Programs that pass over such a line read on behind it: an empty line makes body of what is forged there.

        Rule: Forged Authentication-Results are taken out
        """
        host = self.host()
        for number, (message, left) in enumerate(
            (
                (
                    b"a: b\r\nno field\r\n" + FORGED + b"\r\nbody\r\n",
                    b"a: b\r\n\r\nno field\r\n" + FORGED + b"\r\nbody\r\n",
                ),
                (b"no field\r\n" + FORGED, b"\r\nno field\r\n" + FORGED),
                (FORGED + b"no field\r\n" + FORGED, b"\r\nno field\r\n" + FORGED),
                (b"a: b\r\nno field\r\nc: d\r\n\r\n" + FORGED, b"a: b\r\nno field\r\nc: d\r\n\r\n" + FORGED),
            )
        ):
            self.send(host, message)
            self.assertEqual(host.bodies_of()[-1], left, number)
            stored = host.mail_of()[-1]
            size, header_size = host.store.connection.execute(
                "SELECT size, header_size FROM message ORDER BY id DESC LIMIT 1"
            ).fetchone()
            prefix = stored.index(b"Received:")
            self.assertEqual(size, len(stored) - prefix)
            if number < 3:
                self.assertTrue(stored[prefix:][:header_size].endswith(b"\r\n\r\n"))

    def test_a_long_header_that_does_not_end(self) -> None:
        """Where nobody looks so far, an empty line ends the header."""
        host = self.host()
        host.body = replace(host.body, message_size=1 << 21)
        self.send(host, b"no field\r\n" + (b"x" * 900 + b"\r\n") * 1300 + FORGED)
        self.assertTrue(host.bodies_of()[-1].startswith(b"\r\nno field\r\n"))

    def test_fetched_whole(self) -> None:
        """POP3 tells sizes that fit what it gives."""
        host = self.host()
        self.send(host, FORGED + REST.replace(b"\xc3\xa9", b"e"))
        reader = host.reader()
        size = int(reader.ask(b"LIST 1").split()[2])
        self.assertEqual(len(reader.ask(b"RETR 1").partition(b"\r\n")[2]) - 3, size)

    def test_programs_get_the_same(self) -> None:
        """A program that gets the message does not get the forged field either; the size that it is told is right."""
        host = self.host()
        host.store.now(aliases.add_alias, parse_address("robot@example.org"), [Program(("/bin/robot",))], 0.0)
        self.send(host, FORGED + REST, b"robot@example.org")
        [(_, told, given)] = host.programs.given
        self.assertEqual(without_trace(given), REST)
        self.assertEqual(int(told["MESSAGE_SIZE"]), len(given))

    def test_a_server_of_ours_in_front(self) -> None:
        """By LMTP it is ours who brings mail, and may have looked at it in our name: the field stays."""
        host = self.host()
        client = host.smtp(lmtp(requires_tls=False))
        for line in (b"LHLO x", b"MAIL FROM:<a@example.net> BODY=8BITMIME", b"RCPT TO:<alice@example.org>", b"DATA"):
            client.ask(line)
        client.put(FORGED + REST)
        client.ask(b".")
        self.assertEqual(host.bodies_of(), [FORGED + REST])
