"""What MAIL, RCPT and BDAT can say beyond an address, and what becomes of it in a maildrop."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from email.policy import SMTP
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import parse_address
from mailsvc.mail.dsn import Delivered, delivered_report
from mailsvc.mail.wishes import decode_xtext, envelope_id, notifications, original_recipient, returned_part
from mailsvc.smtp.commands import CommandError, parse_bdat, parse_mail, parse_rcpt
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS, lmtp
from mailsvc.smtp.session import Session
from mailsvc.smtp.trace import protocol_keyword
from tests.memory import ALICE, BOB, HOSTNAME, MX, MX_OPTIONAL, PASSWORD, Client, MailCase, MailHost, cut_at, whole

PARAMETERS = frozenset(
    ["SIZE", "BODY", "AUTH", "SMTPUTF8", "REQUIRETLS", "RET", "ENVID", "HOLDFOR", "HOLDUNTIL", "NOTIFY", "ORCPT"]
)


class WishTests(SynchronousTestCase):
    """RFC 3461."""

    def test_xtext(self) -> None:
        """A plus sign and two upper-case hex digits are a character; nothing that breaks a header passes."""
        self.assertEqual(decode_xtext("a+2Bb+3Dc+20d"), "a+b=c d")
        for text in ("a+2b", "+", "a=b", "a b", "+0D+0A", "+00", "+E4", "\u00e4"):
            with self.assertRaises(ValueError, msg=text):
                decode_xtext(text)

    def test_words(self) -> None:
        """RET, NOTIFY, ENVID and ORCPT as RFC 3461 section 4 writes them.

        Rule: DSN: RET, ENVID, NOTIFY and ORCPT
        """
        self.assertEqual((returned_part("full"), returned_part("HDRS")), ("FULL", "HDRS"))
        self.assertEqual(notifications("success,DELAY"), ("SUCCESS", "DELAY"))
        self.assertEqual(notifications("never"), ("NEVER",))
        self.assertEqual(envelope_id("a+20b"), "a b")
        self.assertEqual(original_recipient("RFC822;a+2Bb@example.net", utf8=False), "rfc822;a+b@example.net")

    def test_utf8_original(self) -> None:
        """The address type utf-8 in its two forms (RFC 6533 section 3).

        Rule: DSN: addresses in UTF-8
        """
        self.assertEqual(original_recipient(r"utf-8;j\x{F6}rg@x.example", utf8=False), "utf-8;j\u00f6rg@x.example")
        self.assertEqual(original_recipient("utf-8;j\u00f6rg@x.example", utf8=True), "utf-8;j\u00f6rg@x.example")
        for text in (r"utf-8;a\x{D800}", r"utf-8;a\x{85}", "utf-8;a\\b", "utf-8;a b", "utf-8;", r"utf-8;a\x{110000}"):
            with self.assertRaises(ValueError, msg=text):
                original_recipient(text, utf8=True)

    @settings(deadline=None)
    @given(st.text(max_size=40), st.booleans())
    def test_anything(self, text: str, utf8: bool) -> None:
        """Whatever is said: a value that can stand in a header field, or ValueError.

        Rule: No NUL, CR or LF reaches a header
        """
        for read in (envelope_id, notifications, returned_part, lambda value: original_recipient(value, utf8=utf8)):
            try:
                value = read(text)
            except ValueError:
                continue
            self.assertTrue("".join(value).isprintable(), text)

    @settings(deadline=None)
    @given(st.text(max_size=60))
    def test_any_parameters(self, text: str) -> None:
        """MAIL and RCPT with any text behind the address: parsed, or a reply; never anything else."""
        for parse in (
            lambda: parse_mail(f"FROM:<a@example.org> {text}", esmtp=True, offered=PARAMETERS, size_limit=9),
            lambda: parse_rcpt(f"TO:<a@example.org> {text}", hostname="h", esmtp=True, offered=PARAMETERS, utf8=True),
            lambda: parse_bdat(text),
        ):
            try:
                parse()
            except CommandError as error:
                self.assertIn(error.reply.code, (500, 501, 552, 553, 555))
            except KeyError:
                self.fail(f"a parameter of the other command was let through: {text!r}")


class KeywordTests(SynchronousTestCase):
    """The word of the "with" clause: RFC 3848 and RFC 6531 section 4.3."""

    def test_all(self) -> None:
        """Each combination has its registered name.

        Rule: Received, with the keyword of the protocol
        """
        for mode, letters in ((MX, "ESMTP"), (lmtp(requires_tls=False), "LMTP")):
            for secured in (False, True):
                session = Session(mode, secured=secured, esmtp=True)
                suffix = "S" if secured else ""
                self.assertEqual(protocol_keyword(session), letters + suffix)
                self.assertEqual(protocol_keyword(session, utf8=True), "UTF8" + letters.removeprefix("E") + suffix)
        session = Session(SUBMISSION, secured=True, esmtp=True, login=parse_address(ALICE), account=1)
        self.assertEqual(protocol_keyword(session), "ESMTPSA")
        self.assertEqual(protocol_keyword(session, utf8=True), "UTF8SMTPSA")
        self.assertEqual(protocol_keyword(Session(MX)), "SMTP")


class ReportTests(SynchronousTestCase):
    """RFC 3464."""

    def report(self, *delivered: Delivered, header: bytes = b"Subject: x\r\n\r\n", to: str = ALICE) -> bytes:
        head, body = delivered_report(
            delivered,
            to=parse_address(to),
            hostname=HOSTNAME,
            trace_id="ID2",
            now=0.0,
            envelope_id="QQ 1",
            header=header,
        )
        return head + body

    def test_a_parser_reads_it(self) -> None:
        """Three parts: a text, the fields, the header of the message.

        Rule: DSN: honoured for local delivery
        """
        octets = self.report(Delivered(parse_address(BOB), "rfc822;list@example.net"))
        message = message_from_bytes(octets, policy=SMTP)
        self.assertEqual((message["To"], message["Auto-Submitted"]), ("alice@example.org", "auto-replied"))
        text, status, quoted = message.iter_parts()
        self.assertIn("<bob@example.org>", text.get_content())
        about, recipient = cast(list[Message], status.get_payload())
        self.assertEqual((about["Reporting-MTA"], about["Original-Envelope-Id"]), ("dns; mail.example.org", "QQ 1"))
        self.assertEqual(recipient["Original-Recipient"], "rfc822; list@example.net")
        self.assertEqual(recipient["Final-Recipient"], "rfc822; bob@example.org")
        self.assertEqual((recipient["Action"], recipient["Status"]), ("delivered", "2.0.0"))
        self.assertEqual(
            (quoted.get_content_type(), quoted.get_content()), ("text/rfc822-headers", "Subject: x\r\n\r\n")
        )

    def test_utf8(self) -> None:
        """Addresses in UTF-8 make it a report of RFC 6533.

        Rule: DSN: addresses in UTF-8
        """
        octets = self.report(Delivered(parse_address("j\u00f6rg@example.org"), None))
        self.assertIn(b"report-type=global-delivery-status", octets)
        self.assertIn("Final-Recipient: utf-8; j\u00f6rg@example.org\r\n".encode(), octets)

    def test_a_long_header_is_cut(self) -> None:
        """What is quoted has a limit, and ends with a line."""
        octets = self.report(Delivered(parse_address(BOB), None), header=b"A: b\r\n" * 50_000)
        self.assertLess(len(octets), 70_000)
        self.assertTrue(octets.endswith(b"A: b\r\n\r\n--ID2/mail.example.org--\r\n"))


def told(client: Client, *lines: bytes) -> bytes:
    """The reply to the last of these lines."""
    answer = b""
    for line in lines:
        answer = client.ask(line)
    return answer


def logged_in(host: MailHost, **rules: int) -> Client:
    """A client of the submissions listener, as alice."""
    client = host.secured_smtp(SUBMISSIONS, **rules)
    client.take()
    client.ask(b"AUTH PLAIN " + base64.b64encode(f"\0{ALICE}\0{PASSWORD}".encode()))
    return client


class DeliveryTests(MailCase):
    """In the maildrop and in the tables."""

    def test_delivered_to(self) -> None:
        """Each maildrop has its own Delivered-To; the sizes that POP3 tells are those of what it gives.

        Rule: Delivered-To
        """
        host = self.host()
        client = host.mx_client()
        message = (b"MAIL FROM:<eve@example.net>", b"RCPT TO:<Alice@example.org>", b"RCPT TO:<bob@example.org>")
        told(client, *message, b"BDAT 14 LAST\r\nSubject: x\r\n")
        for address in (ALICE, BOB):
            [mail] = host.mail_of(address)
            self.assertIn(f"\r\nDelivered-To: {address}\r\n".encode(), mail)
            reader = host.reader(address)
            self.assertIn(f" {len(mail)}\r\n".encode(), reader.ask(b"LIST 1"))
            self.assertEqual(reader.ask(b"RETR 1").partition(b"\r\n")[2], mail + b".\r\n")
            self.assertIn(f"Delivered-To: {address}".encode(), reader.ask(b"TOP 1 0"))
            reader.ask(b"QUIT")
        self.assertEqual(host.count("message"), 1)

    def test_wishes_are_kept(self) -> None:
        """What MAIL and RCPT said stands in the tables for whoever sends the message on.

        Rule: DSN: stored for the relay
        """
        host = self.host()
        client = host.secured_smtp(MX)
        told(
            client,
            b"MAIL FROM:<eve@example.net> RET=HDRS ENVID=a+2Bb REQUIRETLS BODY=8BITMIME SMTPUTF8",
            b"RCPT TO:<alice@example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;x@example.net",
            b"RCPT TO:<bob@example.org>",
            b"DATA",
            b"TLS-Required: No\r\n\r\n.",
        )
        row = host.store.connection.execute(
            "SELECT smtputf8, body_8bit, require_tls, tls_optional, dsn_return, envelope_id FROM message"
        ).fetchone()
        self.assertEqual(row, (1, 1, 1, 1, "HDRS", "a+b"))
        rows = host.store.connection.execute("SELECT address, notify, original FROM delivery_wish").fetchall()
        self.assertEqual(rows, [(ALICE, "FAILURE,DELAY", "rfc822;x@example.net")])
        self.assertIn(b"with UTF8SMTPS\r\n", host.mail_of()[0])

    def test_tls_required_is_exact(self) -> None:
        """Only "TLS-Required: No" means anything, and only once (RFC 8689 section 3).

        Rule: TLS-Required: No
        """
        for header, expected in ((b"TLS-Required: no", 1), (b"TLS-Required: Yes", 0), (b"Subject: No", 0)):
            host = self.host()
            told(host.mx_client(), b"MAIL FROM:<>", b"RCPT TO:<bob@example.org>", b"DATA", header + b"\r\n\r\n.")
            self.assertEqual(host.store.connection.execute("SELECT tls_optional FROM message").fetchone(), (expected,))

    def test_report_to_a_local_sender(self) -> None:
        """NOTIFY=SUCCESS: the sender hears of the deliveries, from the null sender; of others not.

        Rule: DSN: honoured for local delivery
        """
        host = self.host()
        host.add_user("carol@example.org")
        told(
            host.mx_client(),
            b"MAIL FROM:<alice@example.org> ENVID=QQ1",
            b"RCPT TO:<bob@example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;old@example.net",
            b"RCPT TO:<carol@example.org> NOTIFY=FAILURE",
            b"DATA",
            b"Subject: hello\r\n\r\nsecret\r\n.",
        )
        [report] = host.mail_of(ALICE)
        self.assertTrue(report.startswith(b"Return-Path: <>\r\nDelivered-To: alice@example.org\r\n"))
        self.assertIn(b"Final-Recipient: rfc822; bob@example.org\r\n", report)
        self.assertIn(b"Original-Recipient: rfc822; old@example.net\r\n", report)
        self.assertIn(b"Subject: hello\r\n", report)
        self.assertNotIn(b"carol", report)
        self.assertNotIn(b"secret", report)

    def test_report_to_a_stranger(self) -> None:
        """For a sender elsewhere it goes out, with the null sender, in the transaction of the delivery.

        Rule: DSN: reports for senders elsewhere
        """
        host = self.host()
        message = (
            b"MAIL FROM:<eve@example.net>",
            b"RCPT TO:<bob@example.org> NOTIFY=SUCCESS",
            b"DATA",
            b"a: b\r\n\r\n.",
        )
        told(host.mx_client(), *message)
        self.assertEqual(host.count("message"), 2)
        rows = host.store.connection.execute("SELECT recipient, reverse_path, notify, account FROM outbound").fetchall()
        self.assertEqual(rows, [("eve@example.net", "", None, "")])
        details = [detail for (detail,) in host.store.connection.execute("SELECT detail FROM event")]
        self.assertTrue(any("goes out to eve@example.net" in detail for detail in details), details)

    def test_no_report_to_the_null_sender(self) -> None:
        """A report never gets a report."""
        host = self.host()
        told(host.mx_client(), b"MAIL FROM:<>", b"RCPT TO:<bob@example.org> NOTIFY=SUCCESS", b"DATA", b"a: b\r\n\r\n.")
        self.assertEqual(host.count("message"), 1)

    def test_report_fails_with_the_delivery(self) -> None:
        """Neither is stored without the other."""
        host = self.host()
        client = host.mx_client()
        told(client, b"MAIL FROM:<alice@example.org>", b"RCPT TO:<bob@example.org> NOTIFY=SUCCESS", b"DATA")
        host.store.failure = OSError("the disk")
        self.assertEqual(client.ask(b"a: b\r\n\r\n.")[:3], b"451")
        host.store.failure = None
        self.assertEqual(host.count("message"), 0)
        self.flushLoggedErrors(OSError)

    def test_future_release(self) -> None:
        """A held message is in no maildrop before its time, and in the next one that is opened after it.

        Rule: FUTURERELEASE
        """
        host = self.host()
        client = logged_in(host, hold_seconds=3600)
        message = (b"MAIL FROM:<alice@example.org> HOLDFOR=60", b"RCPT TO:<bob@example.org>", b"DATA", b"a: b\r\n\r\n.")
        self.assertEqual(told(client, *message)[:3], b"250")
        early = host.reader(BOB)
        self.assertEqual(early.ask(b"STAT"), b"+OK 0 0\r\n")
        early.ask(b"QUIT")
        host.reactor.pass_time(60)
        late = host.reader(BOB)
        self.assertEqual(late.ask(b"STAT")[:6], b"+OK 1 ")
        self.assertTrue(late.ask(b"RETR 1").endswith(b"a: b\r\n\r\n.\r\n"))

    def test_a_time_that_has_passed(self) -> None:
        """HOLDUNTIL a time that has passed is at once (RFC 4865 section 4).

        Rule: FUTURERELEASE
        """
        host = self.host()
        client = logged_in(host, hold_seconds=3600)
        told(client, b"MAIL FROM:<alice@example.org> HOLDUNTIL=1969-12-31T23:59:59Z", b"RCPT TO:<bob@example.org>")
        told(client, b"DATA", b"a: b\r\n\r\n.")
        self.assertEqual(host.reader(BOB).ask(b"STAT")[:6], b"+OK 1 ")

    def test_loop_stores_nothing(self) -> None:
        """In SMTP one recipient's loop refuses the message to all, because one answer is for all.

        Rule: Loop detection by own Delivered-To
        """
        host = self.host()
        message = b"Delivered-To: <BOB@EXAMPLE.ORG>\r\n\r\n."
        client = host.mx_client()
        told(client, b"MAIL FROM:<>", b"RCPT TO:<alice@example.org>", b"RCPT TO:<bob@example.org>", b"DATA")
        self.assertEqual(client.ask(message)[:9], b"554 5.4.6")
        self.assertEqual(host.count("message"), 0)

    def test_lost_between_chunks(self) -> None:
        """A client that goes away between two chunks leaves nothing.

        Rule: CHUNKING: failure in the middle
        """
        host = self.host()
        client = host.mx_client()
        told(client, b"MAIL FROM:<>", b"RCPT TO:<alice@example.org>", b"BDAT 6\r\na: b")
        client.hang_up()
        self.assertEqual(host.count("message"), 0)

    def test_shutdown_between_chunks(self) -> None:
        """Between chunks a session is between commands: the shutdown need not wait for it."""
        host = self.host()
        client = host.mx_client()
        told(client, b"MAIL FROM:<>", b"RCPT TO:<alice@example.org>", b"BDAT 6\r\na: b")
        host.sessions.shut_down()
        client.settle()
        self.assertEqual(client.take()[:9], b"421 4.3.2")


class ChunkingTests(MailCase):
    """RFC 3030: the same message, however it is chunked and however the stream is cut."""

    BODY = b"Subject: chunks\r\n\r\n.\r\n..\r\nRSET\r\n.\r\nQUIT\r\nlast\r\n"

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.integers(0, 50), max_size=6),
        st.lists(st.integers(0, 400), max_size=12),
        st.booleans(),
        st.booleans(),
    )
    def test_any_chunks_in_any_segments(
        self, ends: Sequence[int], places: Sequence[int], late: bool, refused: bool
    ) -> None:
        """Every chunk has one reply, nothing of a chunk is a command, and what is stored is the message.

        Rule: CHUNKING: BDAT
        """
        chunks = cut_at(self.BODY, ends)
        recipient = b"nobody" if refused else b"alice"
        script = b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<" + recipient + b"@example.org>\r\n"
        for chunk in chunks:
            script += b"BDAT %d\r\n" % len(chunk) + chunk
        script += b"BDAT 0 LAST\r\nNOOP\r\n"
        host = self.host(late=late)
        client = host.mx_client()
        client.cut = lambda data: cut_at(data, places) if places else list(whole(data))
        client.put(script)
        client.settle()
        codes = [line[:3] for line in client.take().splitlines()]
        if refused:
            self.assertEqual(codes, [b"250", b"550"] + [b"554"] * (len(chunks) + 1) + [b"250"])
            self.assertEqual(host.mail_of(), [])
        else:
            self.assertEqual(codes, [b"250"] * (len(chunks) + 4))
            self.assertEqual(host.bodies_of(), [self.BODY])
        self.check_end(host)
        self.hosts.remove(host)

    def test_slow_chunk(self) -> None:
        """A chunk that does not come ends the session as a body does that stands still.

        Rule: Limit: idle and progress time
        """
        host = self.host()
        client = host.smtp(MX_OPTIONAL)
        told(client, b"EHLO x", b"BDAT 1000")
        client.wait(host.patience.body)
        self.assertEqual(client.take()[:9], b"421 4.4.2")
