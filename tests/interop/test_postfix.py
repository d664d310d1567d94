"""Postfix in front of us: it hands over mail by SMTP with STARTTLS, and by LMTP; its smtp-source sends much at once.

Postfix announces what it sends as it knows how to (SIZE, BODY, SMTPUTF8, RET, ENVID, NOTIFY, ORCPT), and sends ahead
where PIPELINING is offered.  smtp-source does neither, nor TLS (its manual says so); commands and messages that are
sent ahead by many sessions at once come from a client of ours.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from tests.interop.clients import poplib_fetches
from tests.interop.mail import message
from tests.interop.postfix import Postfix
from tests.interop.programs import InteropCase, program, run
from tests.peer import Peer
from tests.running import User, after_trace

LMTP = ("--lmtp=tcp:0:interface=127.0.0.1", "--lmtp=unix:lmtp.sock:mode=666")
_numbers = count(1)


class Receiving(InteropCase):
    def account(self, address: str) -> User:
        """One more account."""
        [user] = self.service.add_users(address)
        return user

    def fetched(self, user: User) -> list[bytes]:
        """All messages of an account."""
        self.user = user
        return poplib_fetches(self)


class BehindPostfix(Receiving):
    options = LMTP

    def setUp(self) -> None:
        super().setUp()
        # Postfix's own user has to come as far as the socket.
        os.chmod(self.service.folder, 0o711)
        self.postfix = Postfix(
            self.home,
            self.service.ca,
            {
                "example.org": f"smtp:[localhost]:{self.port('smtp')}",
                "unix.example.org": f"lmtp:unix:{self.service.folder}/lmtp.sock",
                "tcp.example.org": f"lmtp:inet:localhost:{self.port('lmtp')}",
            },
        )
        self.addCleanup(self.postfix.stop)
        self.postfix.start()

    def test_it_hands_over_by_smtp_with_starttls_and_by_lmtp_on_both_kinds_of_socket(self) -> None:
        """What it took for three domains arrives unchanged behind its own Received field; TLS was verified by it."""
        number = next(_numbers)
        users = {
            "ESMTPS": self.user,
            "LMTP": self.account(f"user{number}@unix.example.org"),
            "LMTPS": self.account(f"user{number}@tcp.example.org"),
        }
        sender = self.user.address
        sent = message(number, sender)
        with self.postfix.submit() as session:
            session.sendmail(sender, [user.address for user in users.values()], sent, ["BODY=8BITMIME"])
        for address, (status, said) in self.postfix.results(3).items():
            self.assertEqual(status, "sent", said)
            self.assertRegex(said, r"^250 2\.\d\.0 ", address)
        self.assertIn("Verified TLS connection established to localhost", "\n".join(self.postfix.log))
        for keyword, user in users.items():
            [fetched] = self.fetched(user)
            trace = fetched[: len(fetched) - len(after_trace(fetched))]
            self.assertIn(b"from relay.example.net ", trace)
            self.assertIn(f" with {keyword}\r\n".encode(), trace)
            self.assertIn(f"Return-Path: <{sender}>\r\nDelivered-To: {user.address}\r\n".encode(), trace)
            self.assertTrue(after_trace(fetched).startswith(b"Received: from client.example.org "))
            self.assertTrue(fetched.endswith(sent), fetched)

    def test_of_the_recipients_of_one_message_each_has_its_own_answer(self) -> None:
        """By LMTP and by SMTP: one is delivered, two are refused, and Postfix's bounces for them come in, from <>.

        Rule: LMTP: one reply for each recipient
        """
        number, sender = next(_numbers), self.user
        there = self.account(f"user{number}@unix.example.org")
        nobodies = ["nobody@unix.example.org", "nobody@example.org"]
        with self.postfix.submit() as session:
            session.sendmail(sender.address, [there.address, *nobodies], message(number, sender.address))
        results = self.postfix.results(4)
        self.assertEqual(results[there.address][0], "sent")
        for nobody in nobodies:
            self.assertEqual(results[nobody][0], "bounced")
            self.assertIn("said: 550 5.1.1 ", results[nobody][1])
        self.assertEqual(results[sender.address][0], "sent")
        self.assertEqual(len(self.fetched(there)), 1)
        for bounce in self.fetched(sender):
            self.assertTrue(bounce.startswith(b"Return-Path: <>\r\n"))
            self.assertIn(b"\r\nStatus: 5.1.1\r\n", bounce)

    def test_utf8_addresses_and_wishes_for_reports_come_through(self) -> None:
        """SMTPUTF8, RET, ENVID, NOTIFY and ORCPT: Postfix passes them on, and the report comes from us."""
        number, sender = next(_numbers), self.user
        there = self.account(f"b\u00fccher{number}@unix.example.org")
        sent = message(number, sender.address)
        with self.postfix.submit() as session:
            session.ehlo()
            session.mail(sender.address, ["SMTPUTF8", "BODY=8BITMIME", "RET=HDRS", "ENVID=envelope+2B1"])
            session.command_encoding = "utf-8"
            code, said = session.rcpt(there.address, ["NOTIFY=SUCCESS", "ORCPT=rfc822;somebody@example.com"])
            self.assertEqual(code, 250, said)
            self.assertEqual(session.data(sent)[0], 250)
        self.assertEqual(self.postfix.results(1)[there.address][0], "sent")
        [fetched] = self.fetched(there)
        self.assertIn(b" with UTF8LMTP\r\n", fetched)
        self.assertTrue(fetched.endswith(sent))
        [report] = self.fetched(sender)
        self.assertIn(b"\r\nOriginal-Envelope-Id: envelope+1\r\n", report)
        self.assertIn(b"\r\nOriginal-Recipient: rfc822; somebody@example.com\r\n", report)
        self.assertIn(b"\r\nAction: delivered\r\n", report)


class SmtpSource(Receiving):
    options = ("--tls=optional", *LMTP)

    def test_twenty_sessions_send_two_hundred_messages(self) -> None:
        """To the MX listener and both LMTP sockets, three recipients each: everybody has every message."""
        number = next(_numbers)
        users = [self.account(f"{copy}source{number}@example.org") for copy in ("", 2, 3)]
        # smtp-source sends an empty line behind the file.
        body = self.write("source", b"Subject: much\n\n.\n..dot\nlast line")
        places = (
            ((), f"inet:127.0.0.1:{self.port('smtp')}"),
            (("-L",), f"inet:127.0.0.1:{self.port('lmtp')}"),
            (("-L",), f"unix:{self.service.folder}/lmtp.sock"),
        )
        for protocol, place in places:
            many = ("-s", "20", "-m", "200", "-r", "3", "-F", str(body))
            who = ("-f", "", "-t", f"source{number}@example.org", "-M", "client.example.org")
            done = run([program("smtp-source"), *protocol, *many, *who, place], home=self.home)
            self.assertEqual((self.succeeds(done).text, place), ("", place))
        for user in users:
            fetched = Counter(after_trace(mail) for mail in self.fetched(user))
            self.assertEqual(fetched, {b"Subject: much\r\n\r\n.\r\n..dot\r\nlast line\r\n\r\n": 600})

    def test_ten_sessions_send_everything_ahead(self) -> None:
        """RFC 2920: 50 transactions, each in one piece up to DATA, the next one with the message of the one before."""
        user = self.user

        def send(session: int) -> list[bytes]:
            envelope = f"MAIL FROM:<>\r\nRCPT TO:<{user.address}>\r\nRCPT TO:<nobody@example.org>\r\nDATA\r\n".encode()
            with Peer(self.port("smtp"), self.service.ca, tls=False) as peer:
                peer.reply()
                peer.smtp(b"EHLO client.example.org")
                peer.send(envelope)
                codes = []
                for last in [False] * 4 + [True]:
                    codes += [peer.reply()[-1][:3] for _ in range(4)]
                    peer.send(f"Subject: {session}\r\n\r\n..\r\n.\r\n".encode() + (b"QUIT\r\n" if last else envelope))
                    codes.append(peer.reply()[-1][:3])
                self.assertTrue(peer.reply()[-1].startswith(b"221 "))
                self.assertTrue(peer.at_end())
            return codes

        with ThreadPoolExecutor(10) as threads:
            for codes in threads.map(send, range(10)):
                self.assertEqual(codes, [b"250", b"250", b"550", b"354", b"250"] * 5)
        self.assertEqual(len(self.fetched(user)), 50)
