"""Reports about mail that goes out: whether there is one, who gets it, what it says, and that the chain ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from itertools import count, product
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import parse_address
from mailsvc.mail.dsn import QUOTED_MESSAGE, About, Action, Reported, report
from mailsvc.mail.message import MessageScanner
from mailsvc.relay.bounces import Reports, is_wanted
from mailsvc.relay.outcome import Kind, Outcome, Phase, by_reply
from mailsvc.relay.queue import Queue, QueueRules
from mailsvc.relay.replies import PeerReply
from mailsvc.relay.schedule import Schedule
from mailsvc.relay.seams import Told
from mailsvc.relay.settling import judge, settle
from mailsvc.storage import outbound
from mailsvc.storage.accounts import add_account
from mailsvc.storage.aliases import add_alias, remove_alias
from mailsvc.storage.rules import set_disabled, set_quota
from tests.memory import ALICE, BOB, HOSTNAME, MailHost
from tests.relay_world import FakeAttempts, Network, NodeClock
from tests.test_smtp_forwarding import CAROL, TEAM, ForwardCase

NEVER = by_reply(PeerReply(550, ("5.1.1 no such user", "here")), Phase.RCPT, "mx.example.net")
LATER = by_reply(PeerReply(450, ("4.2.0 greylisted",)), Phase.RCPT, "mx.example.net")
TAKEN = by_reply(PeerReply(250, ("2.0.0 taken",)), Phase.END, "mx.example.net")
EVE = "eve@example.com"
POSTMASTER = parse_address(f"postmaster@{HOSTNAME}")


def parsed(octets: bytes) -> EmailMessage:
    return message_from_bytes(octets, policy=SMTP)


def parts_of(octets: bytes) -> tuple[str, list[EmailMessage], EmailMessage]:
    """The text, the blocks of fields, and the third part of a report."""
    text, status, quoted = cast(list[EmailMessage], list(parsed(octets).iter_parts()))
    blocks = cast(list[EmailMessage], status.get_payload())
    return text.get_content(), blocks, quoted


class BounceCase(ForwardCase):
    def setUp(self) -> None:
        super().setUp()
        numbers = count(1)
        self.reports = Reports(HOSTNAME, lambda: f"R{next(numbers)}")

    def befalls(
        self, host: MailHost, outcome: Outcome | Mapping[str, Outcome], schedule: Schedule | None = None
    ) -> int:
        """What is queued and due is tried, with this outcome (or these, by recipient); how many rows it was."""
        now = host.reactor.seconds()
        claimed = host.store.now(outbound.claim, "me", now, seconds=60.0, rows=100, of_each=100, content=1 << 20)
        rules = schedule or Schedule(jitter=0.0)
        results = [
            judge(row, outcome if isinstance(outcome, Outcome) else outcome[row.recipient], rules, now, lambda: 0.5)
            for row in claimed.rows
        ]
        host.store.now(settle, "me", results, self.reports, now)
        return len(results)

    def submit(self, host: MailHost, *recipients: str, options: str = "", header: str = "Subject: x\r\n") -> None:
        """alice, who has logged in, writes to these."""
        client = self.user(host)
        self.assertEqual(client.ask(f"MAIL FROM:<{ALICE}>{options}".encode())[:3], b"250")
        for recipient in recipients:
            text = recipient if " " in recipient else f"<{recipient}>"
            self.assertEqual(client.ask(f"RCPT TO:{text}".encode())[:3], b"250")
        client.ask(b"DATA")
        octets = f"{header}\r\nsecret\r\n.\r\n".encode()
        for at in range(0, len(octets), 16000):
            client.send(octets[at : at + 16000])
        self.assertEqual(client.take()[:3], b"250")


class ToTheSenderTests(BounceCase):
    def test_failed(self) -> None:
        """A user's message that is refused comes back as a report with the server's words; then nothing is left of it.

        Rule: DSN: failed, delayed and relayed
        """
        host = self.a_host()
        self.submit(host, f"<{CAROL}> ORCPT=rfc822;{CAROL}", options=" ENVID=QQ1")
        self.assertEqual(self.befalls(host, NEVER), 1)
        [octets] = host.mail_of(ALICE)
        self.assertTrue(octets.startswith(b"Return-Path: <>\r\nDelivered-To: alice@example.org\r\nFrom: Mail Delivery"))
        message = parsed(octets)
        self.assertEqual(message["Subject"], "Failed: your message could not be delivered")
        self.assertEqual((message["To"], message["Auto-Submitted"]), (ALICE, "auto-replied"))
        text, [about, recipient], quoted = parts_of(octets)
        self.assertIn(f"<{CAROL}>", text)
        self.assertIn("mx.example.net answered RCPT TO with 550 5.1.1 no such user here", " ".join(text.split()))
        self.assertEqual((about["Reporting-MTA"], about["Original-Envelope-Id"]), (f"dns; {HOSTNAME}", "QQ1"))
        self.assertEqual(about["Arrival-Date"], "Thu, 01 Jan 1970 00:00:00 +0000")
        expected = {
            "Original-Recipient": f"rfc822; {CAROL}",
            "Final-Recipient": f"rfc822; {CAROL}",
            "Action": "failed",
            "Status": "5.1.1",
            "Remote-MTA": "dns; mx.example.net",
            "Diagnostic-Code": "smtp; 550 5.1.1 no such user here",
            "Last-Attempt-Date": "Thu, 01 Jan 1970 00:00:00 +0000",
        }
        self.assertEqual(dict(recipient.items()), expected)
        self.assertEqual(quoted.get_content_type(), "text/rfc822-headers")
        self.assertIn("Subject: x", quoted.get_content())
        self.assertEqual((host.count("outbound"), host.count("message")), (0, 1))
        notes = host.store.connection.execute("SELECT trace_id, detail FROM event WHERE kind = 'noted'").fetchall()
        self.assertTrue(any(trace == "ID1" and "is told that it failed, by R1" in text for trace, text in notes), notes)
        self.assertTrue(any(trace == "R1" and "a report that ID1 could not" in text for trace, text in notes), notes)

    def test_delayed_and_relayed(self) -> None:
        """Those who have asked hear that a server took it which does not report; all hear of a long delay, once."""
        host = self.a_host()
        self.submit(host, CAROL, "<x@a.example> NOTIFY=SUCCESS")
        fate = {CAROL: LATER, "x@a.example": TAKEN}
        schedule = Schedule(jitter=0.0, delayed=1.0, first=60.0)
        self.befalls(host, fate, schedule)
        [relayed] = host.mail_of(ALICE)
        _, [_, recipient], _ = parts_of(relayed)
        self.assertEqual((recipient["Action"], recipient["Status"]), ("relayed", "2.0.0"))
        for _ in range(3):
            host.reactor.advance(3600)
            self.assertEqual(self.befalls(host, fate, schedule), 1)
        [_, delayed] = host.mail_of(ALICE)
        text, [_, recipient], _ = parts_of(delayed)
        self.assertEqual((recipient["Action"], recipient["Status"]), ("delayed", "4.2.0"))
        self.assertEqual(recipient["Will-Retry-Until"], "Tue, 06 Jan 1970 00:00:00 +0000")
        self.assertIn("It is tried until Tue, 06 Jan 1970", text)

    def test_together(self) -> None:
        """Recipients that fail together are in one report, in the order of the queue."""
        host = self.a_host()
        self.submit(host, CAROL, "x@a.example", "y@a.example")
        self.befalls(host, {CAROL: NEVER, "x@a.example": LATER, "y@a.example": NEVER})
        [octets] = host.mail_of(ALICE)
        _, [_, *recipients], _ = parts_of(octets)
        self.assertEqual([each["Final-Recipient"] for each in recipients], [f"rfc822; {CAROL}", "rfc822; y@a.example"])

    def test_to_a_stranger(self) -> None:
        """The one who wrote to an alias hears of the failure by mail from the null sender, under the alias' name.

        Rule: DSN: reports for senders elsewhere
        """
        host = self.a_host()
        self.send(host.mx_client(), EVE, TEAM)
        self.befalls(host, NEVER)
        self.assertEqual([row[:3] for row in self.rows(host)], [(EVE, "", "")])
        claimed = host.store.now(outbound.claim, "me", 0.0, seconds=60.0, rows=9, of_each=9, content=1 << 20)
        octets = claimed.rows[0].message.content or b""
        text, [_, recipient], _ = parts_of(octets)
        self.assertEqual(recipient["Original-Recipient"], f"rfc822; {TEAM}")
        self.assertIn(f"<{CAROL}>\r\n        to whom a message for <{TEAM}> goes on", text)
        # The copy in alice's maildrop stays, the report is gone when it has been taken.
        self.assertEqual(host.count("message"), 2)
        host.store.now(outbound.delivered, [claimed.rows[0].id])
        host.store.now(outbound.forget_messages, [claimed.rows[0].message.id])
        self.assertEqual(host.count("message"), 1)

    def test_through_the_real_queue(self) -> None:
        """Five days without an answer: a notice of the delay, a report of the failure, and nothing is left."""
        host = self.a_host()
        network = Network(host.reactor)
        network.others = lambda now, row: LATER
        clock = NodeClock(host.reactor)
        rules = QueueRules(Schedule(jitter=0.0), poll=3600.0)
        attempts = FakeAttempts("one", network, clock)
        queue = Queue(host.store, host.reactor, attempts, self.reports, rules=rules)
        queue.start()
        self.submit(host, CAROL)
        queue.wake()
        host.reactor.pass_time(6 * 86400)
        subjects = [parsed(octets)["Subject"].partition(":")[0] for octets in host.mail_of(ALICE)]
        self.assertEqual((subjects, host.count("outbound")), (["Delayed", "Failed"], 0))
        self.successResultOf(queue.stop())


class WantedTests(BounceCase):
    def test_every_wish(self) -> None:
        """NOTIFY decides, for each of its values; what another server reports is not reported twice.

        Rule: DSN: NOTIFY is honoured
        """
        host = self.a_host()
        self.submit(host, CAROL)
        [row] = host.store.now(outbound.claim, "me", 0.0, seconds=60.0, rows=9, of_each=9).rows
        words = ("SUCCESS", "FAILURE", "DELAY")
        wishes: list[str | None] = [None, "NEVER"]
        for chosen in product((False, True), repeat=3):
            wishes += (
                [",".join(word for word, is_in in zip(words, chosen, strict=True) if is_in)] if any(chosen) else []
            )
        needs = {Action.FAILED: "FAILURE", Action.DELAYED: "DELAY", Action.RELAYED: "SUCCESS"}
        for wish, action, dsn in product(wishes, needs, (False, True)):
            expected = action is not Action.RELAYED if wish is None else needs[action] in wish.split(",")
            expected = expected and not (action is Action.RELAYED and dsn)
            told = Told(action, replace(row, notify=wish), replace(TAKEN, dsn=dsn))
            self.assertEqual(is_wanted(told), expected, (wish, action, dsn))
        self.assertEqual(len(wishes), 9)

    def test_never(self) -> None:
        """NOTIFY=NEVER: the message fails, and nobody hears of it; not the postmaster either, without a sender."""
        host = self.a_host()
        self.submit(host, f"<{CAROL}> NOTIFY=NEVER")
        self.send(host.mx_client(), "", f"RCPT TO:<{TEAM}> NOTIFY=NEVER")
        self.assertEqual(self.befalls(host, NEVER), 2)
        self.assertEqual((len(host.mail_of(ALICE)), host.count("outbound")), (1, 0))


class QuotedTests(BounceCase):
    def quoted(self, options: str, header: str = "Subject: x\r\n") -> EmailMessage:
        host = self.a_host()
        self.submit(host, CAROL, options=options, header=header)
        self.befalls(host, NEVER)
        [octets] = host.mail_of(ALICE)
        return parts_of(octets)[2]

    def test_ret(self) -> None:
        """RET=FULL gives the whole message back, anything else its header.

        Rule: DSN: RET, and what is quoted has a limit
        """
        for options in ("", " RET=HDRS", " RET=FULL REQUIRETLS"):  # RFC 8689 section 5
            part = self.quoted(options)
            self.assertEqual(part.get_content_type(), "text/rfc822-headers")
            self.assertNotIn("secret", part.as_string())
        part = self.quoted(" RET=FULL")
        self.assertEqual(part.get_content_type(), "message/rfc822")
        [inner] = cast(list[EmailMessage], part.get_payload())
        self.assertEqual((inner["Subject"], inner.get_content()), ("x", "secret\r\n"))

    def test_limits(self) -> None:
        """A large message is not given back whole, and of a long header the beginning."""
        many = "".join(f"X-{number}: {'y' * 900}\r\n" for number in range(60))
        body = "\r\n" + "z" * 900
        for header in (f"Subject: x\r\n{body * (QUOTED_MESSAGE // 900)}", f"Subject: x\r\n{many}"):
            part = self.quoted(" RET=FULL", header)
            if "X-1:" in header:
                self.assertEqual(part.get_content_type(), "message/rfc822")
            else:
                self.assertEqual(part.get_content_type(), "text/rfc822-headers")
            self.assertIn("Subject: x", part.as_string())
        reported = Reported(0.0, None, b"A: b\r\n" * 50_000)
        head, body_of = report(
            Action.FAILED, [About(POSTMASTER)], reported, to=POSTMASTER, hostname=HOSTNAME, trace_id="R1", now=0.0
        )
        self.assertLess(len(head + body_of), 70_000)

    def test_of_a_large_message_in_parts(self) -> None:
        """What a claim does not bring along is read from the tables."""
        host = self.a_host()
        self.submit(host, CAROL, options=" RET=FULL", header="Subject: x\r\n" + ("\r\n" + "z" * 900) * 200)
        rows = host.store.now(outbound.claim, "me", 0.0, seconds=60.0, rows=9, of_each=9, content=0).rows
        self.assertIsNone(rows[0].message.content)
        host.store.now(self.reports.report, rows[0].message, [Told(Action.FAILED, rows[0], NEVER)], 0.0)
        [octets] = host.mail_of(ALICE)
        self.assertEqual(octets.count(b"z" * 900), 200)

    def test_nul(self) -> None:
        """A NUL may stand in no part of a message: then the header goes back."""
        host = self.a_host()
        self.submit(host, CAROL, options=" RET=FULL", header="Subject: x\r\n\r\na\0b\r\n")
        self.befalls(host, NEVER)
        self.assertNotIn(b"\0", host.mail_of(ALICE)[0])


class Utf8Tests(BounceCase):
    def test_utf8(self) -> None:
        """A report with addresses in UTF-8 is one of RFC 6533, and goes out as such.

        Rule: DSN: of mail in UTF-8
        """
        host = self.a_host()
        client = host.mx_client()
        client.ask("MAIL FROM:<j\u00f6rg@example.com> SMTPUTF8 RET=FULL".encode())
        client.ask(f"RCPT TO:<{TEAM}>".encode())
        client.ask(b"DATA")
        client.ask("Subject: \u00fcber\r\n\r\nx\r\n.".encode())
        self.befalls(host, NEVER)
        claimed = host.store.now(outbound.claim, "me", 0.0, seconds=60.0, rows=9, of_each=9, content=1 << 20)
        [row] = claimed.rows
        self.assertEqual(
            (row.recipient, row.message.smtputf8, row.message.body_8bit), ("j\u00f6rg@example.com", True, True)
        )
        content = row.message.content or b""
        self.assertIn(b"report-type=global-delivery-status", content)
        self.assertIn(b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n", content)
        self.assertIn(b"Content-Type: message/global\r\n", content)

    def test_ascii_stays_ascii(self) -> None:
        """Without them a report can be given to every server."""
        host = self.a_host()
        self.send(host.mx_client(), EVE, TEAM)
        self.befalls(host, NEVER)
        flags = host.store.connection.execute("SELECT smtputf8, body_8bit FROM message WHERE trace_id = 'R1'")
        self.assertEqual(flags.fetchone(), (0, 0))


class PostmasterTests(BounceCase):
    def test_no_sender(self) -> None:
        """The failure of a message without a sender is the postmaster's to know; its delay is nobody's.

        Rule: DSN: never about a report; the postmaster hears of it once
        """
        host = self.a_host()
        host.add_user(str(POSTMASTER))
        self.send(host.mx_client(), "", TEAM)
        self.befalls(host, LATER, Schedule(jitter=0.0, delayed=0.5, first=60.0))
        self.assertEqual(host.mail_of(str(POSTMASTER)), [])
        host.reactor.advance(3600)
        self.befalls(host, LATER, Schedule(jitter=0.0, delayed=1.0))
        self.assertEqual((host.mail_of(str(POSTMASTER)), host.count("outbound")), ([], 1))
        host.reactor.advance(86400)
        self.befalls(host, NEVER)
        [octets] = host.mail_of(str(POSTMASTER))
        self.assertEqual(parsed(octets)["Subject"], "Undeliverable: a message that cannot go back to its sender")
        self.assertNotIn(b"\r\nbody\r\n", octets)
        self.assertEqual(host.count("outbound"), 0)

    def test_the_chain_ends(self) -> None:
        """A message fails, the report of it, and what the postmaster elsewhere is told of that: then it is over."""
        host = self.a_host()
        host.store.now(add_account, POSTMASTER, "", 0.0)
        host.store.connection.execute("DELETE FROM account WHERE address = ?", (str(POSTMASTER),))
        host.store.now(add_alias, POSTMASTER, [parse_address("boss@example.net")], 0.0)
        self.send(host.mx_client(), EVE, TEAM)
        chain = []
        for _ in range(10):
            chain += [(row[0], row[1][:4], row[4]) for row in self.rows(host)]
            if not self.befalls(host, NEVER):
                break
        self.assertEqual(chain, [(CAROL, "SRS0", None), (EVE, "", None), ("boss@example.net", "", "NEVER")])
        # What is left is the copy in alice's maildrop.
        self.assertEqual(host.count("message"), 1)

    def test_senders_that_cannot_be_told(self) -> None:
        """A local sender who is gone or disabled, or a claimed one who has no room: the postmaster hears of it."""
        for spoil in ("gone", "disabled", "full"):
            host = self.a_host()
            host.add_user(str(POSTMASTER))
            host.store.now(remove_alias, parse_address(TEAM))
            host.store.now(add_alias, parse_address(TEAM), [parse_address(CAROL)], 0.0)
            self.send(host.mx_client(), BOB, TEAM)
            bob = parse_address(BOB).key
            if spoil == "gone":
                host.store.connection.execute("DELETE FROM account WHERE address = ?", (BOB,))
            elif spoil == "disabled":
                host.store.now(set_disabled, bob, True)
            else:
                host.store.now(set_quota, bob, 100)
            self.befalls(host, NEVER)
            self.assertEqual((len(host.mail_of(str(POSTMASTER))), host.count("message")), (1, 1), spoil)

    def test_a_user_who_is_full(self) -> None:
        """Who has logged in to send hears of the failure all the same, but of nothing else."""
        host = self.a_host()
        self.submit(host, CAROL, "<x@a.example> NOTIFY=SUCCESS")
        host.store.now(set_quota, parse_address(ALICE).key, 100)
        self.befalls(host, {CAROL: NEVER, "x@a.example": TAKEN})
        [octets] = host.mail_of(ALICE)
        self.assertEqual(parsed(octets)["Subject"], "Failed: your message could not be delivered")

    def test_nobody_at_all(self) -> None:
        """When even the postmaster is nobody, an event is all that can be had."""
        host = self.a_host()
        self.send(host.mx_client(), "", TEAM)
        host.store.connection.executescript("DELETE FROM mailbox_item; DELETE FROM account;")
        self.befalls(host, NEVER)
        details = [detail for (detail,) in host.store.connection.execute("SELECT detail FROM event")]
        self.assertTrue(any("nobody is told" in detail for detail in details), details)


class AnyOutcomeTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.tuples(st.text(max_size=1500), st.text(max_size=300), st.text(max_size=1500)), max_size=5),
        st.sampled_from(list(Action)),
        st.binary(max_size=300),
    )
    def test_any_words(self, words: list[tuple[str, str, str]], action: Action, header: bytes) -> None:
        """Whatever a server says: three parts, a block of fields for each recipient, no line beyond 998 octets."""
        outcomes = [Outcome(Kind.FAILED, text, 550, host=host, reply=reply) for text, host, reply in words]
        about = [
            About(POSTMASTER, None, each.enhanced, each.host, each.reply, each.text, 0.0, 1.0) for each in outcomes
        ]
        header = header.replace(b"\r", b"").replace(b"\n", b"\r\n")
        head, body = report(
            action, about, Reported(0.0, "QQ", header), to=POSTMASTER, hostname=HOSTNAME, trace_id="R1", now=0.0
        )
        scanner = MessageScanner(measure_lines=True)
        scanner.feed(head + body)
        scanner.close()
        self.assertFalse(scanner.has_bare_line_end)
        self.assertLessEqual(scanner.longest_line, 998)
        parts = body.split(b"--R1/mail.example.org\r\n")
        self.assertEqual(len(parts), 4)
        fields = parts[2].split(b"\r\n\r\n")
        self.assertEqual(len(fields), len(about) + 3)
        self.assertEqual(body.count(b"\r\nAction: "), len(about))
