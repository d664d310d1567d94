"""What an attack on the running service once achieved, and must not achieve again: one class for each finding."""

from __future__ import annotations

import resource
from collections.abc import Generator
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailsvc.accounts.throttle import network
from mailsvc.directory.program import RETRY, verdict
from mailsvc.directory.running import Programs
from mailsvc.directory.tables import Program
from mailsvc.mail.address import parse_address
from mailsvc.mail.authors import AUTHORS, AuthorsError, authors
from mailsvc.mail.downgrade import LONGEST, downgraded_field
from mailsvc.mail.event import DROPPED_KEY, Accepted, Refused
from mailsvc.mail.message import MessageScanner, Summary, fields_named, header_fields
from mailsvc.mail.reply import Reply
from mailsvc.mail.surrogate import HEADER_LIMIT
from mailsvc.parts import affordable
from mailsvc.smtp.defaults import OpenGate, OpenGuard
from mailsvc.smtp.modes import lmtp
from mailsvc.smtp.reporting import MOST_MAILDROPS, MailLoop, check_loop
from mailsvc.smtp.seams import Client as Seen
from mailsvc.storage import accounts, credentials, events
from mailsvc.storage.aliases import add_alias
from mailsvc.storage.deleted import Removal, remove
from mailsvc.storage.events import Entry
from mailsvc.storage.mailboxes import NewMessage, deliver
from mailsvc.storage.rules import set_disabled, set_quota
from mailsvc.storage.senders import set_check_sender
from mailsvc.storage.stories import story_of
from mailsvc.surroundings import descriptors
from mailsvc.wire.sessions import Sessions
from tests.memory import ALICE, BOB, PASSWORD, Client, MailCase, MailHost, unstuffed
from tests.scram_client import ScramClient
from tests.storage_cases import OfflineCase
from tests.test_smtp_auth import SubmissionCase
from tests.test_wire_conversation import ConversationCase


class _Session:
    """A session that does nothing."""

    def shut_down(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""


def admitted(sessions: Sessions, peer: str, attempts: int) -> int:
    """How many of so many connections from ``peer`` are let in."""
    return sum(sessions.admit(_Session(), peer) for _ in range(attempts))


class OneNetworkTakesEveryPlace(SynchronousTestCase):
    """2000 connections from one host, kept open with a NOOP now and then, and nobody else was served any more."""

    def test_newcomers_find_a_place(self) -> None:
        """One network gets half, the next half of what is left, and so on: a newcomer always finds a place."""
        sessions = Sessions(2000, network)
        self.assertEqual(admitted(sessions, "192.0.2.1", 3000), 1000)
        self.assertEqual(admitted(sessions, "192.0.2.2", 3000), 500)
        self.assertEqual(admitted(sessions, "192.0.2.3", 3), 3)

    def test_a_network_is_one_peer(self) -> None:
        """The addresses of one IPv6 /64 share."""
        sessions = Sessions(100, network)
        self.assertEqual(sum(admitted(sessions, f"2001:db8::{number:x}", 1) for number in range(200)), 50)

    def test_the_last_places_are_for_those_who_hold_few(self) -> None:
        """When it is crowded ten for each network are no luxury; the limit holds all the same."""
        sessions = Sessions(100, network)
        for number in range(1, 10):
            self.assertGreaterEqual(admitted(sessions, f"192.0.2.{number}", 10), 10)
        self.assertEqual(admitted(sessions, "192.0.2.99", 100), 10)
        self.assertEqual(len(sessions), 100)
        self.assertEqual(admitted(sessions, "192.0.2.100", 1), 0)

    def test_places_come_back(self) -> None:
        """What a network has left counts no more."""
        sessions = Sessions(100, network)
        held = [_Session() for _ in range(50)]
        self.assertTrue(all(sessions.admit(each, "192.0.2.1") for each in held))
        self.assertFalse(sessions.admit(_Session(), "192.0.2.1"))
        for each in held:
            sessions.ended(each)
            sessions.ended(each)
        self.assertEqual(admitted(sessions, "192.0.2.1", 100), 50)

    def test_both_servers_ask_for_the_peer(self) -> None:
        """A listener tells where its clients come from."""
        host = MailHost(limit=40)
        for factory in (host.smtp_factory(), host.pop3_factory()):
            built = [factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 40000)) for _ in range(30)]
            self.assertTrue(built)
        self.assertEqual(len(host.sessions), 20)


class ConnectionsTakeTheDatabasesDescriptors(SynchronousTestCase):
    """Under the usual limit of 1024 open files a thousand idle connections kept every message from being stored."""

    def affordable(self, soft: int, hard: int) -> tuple[int, list[int]]:
        """How many of 2000 connections there may be under these limits, and to what the soft one was raised."""
        system = _Limits(soft, hard)
        return affordable(2000, lambda wanted: descriptors(wanted, system)), system.raised_to

    def test_the_limit_is_raised(self) -> None:
        """What the hard limit allows is taken."""
        self.assertEqual(self.affordable(1024, 524288), (2000, [4100]))

    def test_no_more_connections_than_descriptors(self) -> None:
        """A connection costs two, and the database keeps its own."""
        self.assertEqual(self.affordable(1024, 1024)[0], 462)

    def test_never_none(self) -> None:
        """Even a silly limit leaves one."""
        self.assertEqual(self.affordable(64, 64)[0], 1)

    def test_enough_already(self) -> None:
        """A limit that is high enough is left alone, also one without end."""
        for soft in (4100, 100_000, resource.RLIM_INFINITY):
            self.assertEqual(self.affordable(soft, resource.RLIM_INFINITY), (2000, []))

    def test_forbidden(self) -> None:
        """A sandbox that answers no questions is no reason not to start, one that forbids raising neither."""
        self.assertEqual(descriptors(4100, _Limits(1024, 4096, may_ask=False)), 4100)
        self.assertEqual(descriptors(4100, _Limits(1024, 4096, may_raise=False)), 1024)


class _Limits:
    """The system's limits of open files, as the module `resource` tells them."""

    def __init__(self, soft: int, hard: int, *, may_ask: bool = True, may_raise: bool = True) -> None:
        self.raised_to: list[int] = []
        self._limits = (soft, hard)
        self._may_ask = may_ask
        self._may_raise = may_raise

    def getrlimit(self, which: int, /) -> tuple[int, int]:
        if not self._may_ask:
            raise OSError("Operation not permitted")
        return self._limits

    def setrlimit(self, which: int, limits: tuple[int, int], /) -> None:
        if not self._may_raise:
            raise OSError("Operation not permitted")
        if limits[0] > self._limits[1] != resource.RLIM_INFINITY:
            raise ValueError("not allowed to raise maximum limit")
        self.raised_to.append(limits[0])


class AnswersOfTheTLSLayerPileUp(ConversationCase):
    """A client that asked for KeyUpdates without end and read nothing made TLS fill our memory with its answers."""

    def test_not_a_segment_is_read(self) -> None:
        """Whoever does not read is not read from, also when no octet of his waits for us; later all goes on."""
        script, client = self.begin(window=0)
        client.send(b"write 100000\r\n")
        client.put(b"hello\r\n")
        client.settle()
        self.assertEqual(client.wire.undelivered, 1)
        client.wire.window = None
        client.wire.startWriting()
        client.settle()
        self.assertEqual((client.take(), len(script.events)), (b"x" * 100_000 + b"hello\r\n", 2))

    def test_also_while_a_long_reply_waits(self) -> None:
        """The same when it is a handler that writes."""
        script, client = self.begin(window=0)
        client.send(b"flood 1000000\r\n")
        client.put(b"hello\r\n")
        client.settle()
        self.assertEqual(client.wire.undelivered, 1)
        client.wire.window = None
        client.wire.startWriting()
        client.settle()
        self.assertEqual((script.flooded, client.take()[-7:]), (["done"], b"hello\r\n"))


class TinyHeaderFieldsHoldEverybodyUp(SynchronousTestCase):
    """Two megabytes of "a:" lines kept the reactor busy for 150 ms at a time, and then the database's thread."""

    def test_a_header_is_taken_in_one_step(self) -> None:
        """The lines of a piece are not looked at one by one; what is counted stays the same."""
        piece = b"a:\r\n b\r\nReceived : c\r\n" * 1000
        judged = []

        class Watched(MessageScanner):
            def _header_line(self) -> None:
                judged.append(self)

        scanner = Watched()
        scanner.feed(piece)
        self.assertEqual(
            (judged, scanner.header_size, scanner.received_fields, scanner.fields), ([], len(piece), 1000, 2000)
        )

    def test_the_same_in_any_cut(self) -> None:
        """Octet by octet every line is looked at alone; both ways must agree."""
        pieces = [
            b"a:",
            b" ",
            b"\t",
            b"\r\n",
            b"x",
            b"Received:",
            b"received \t:",
            b"n" * 899,
            b"n" * 102,
            b" " * 90,
            b":",
        ]
        random = Random(4)
        for _ in range(2000):
            message = b"".join(random.choices(pieces, k=random.randrange(1, 12)))
            whole, single = MessageScanner(), MessageScanner()
            whole.feed(message)
            for place in range(len(message)):
                single.feed(message[place : place + 1])
            whole.close()
            single.close()
            counted = [(scanner.header_size, scanner.received_fields, scanner.fields) for scanner in (whole, single)]
            self.assertEqual(counted[0], counted[1], message)


class BodiesEatTheReserve(MailCase):
    """Room was asked for at MAIL only: several large bodies at once could fill the disk that removing mail needs."""

    def test_a_large_body_is_put_off_on_its_way(self) -> None:
        """The disk is asked again for each MiB; the answer stands at the end of the body, and the session goes on."""
        host = self.host()
        host.body = replace(host.body, message_size=1 << 23)
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA")
        host.store.room = 1 << 19
        for _ in range(3):
            client.send((b"x" * 1022 + b"\r\n") * 1024)
        self.assertEqual(client.ask(b"."), b"452 4.3.1 Insufficient system storage; try again later\r\n")
        self.assertEqual(host.bodies_of(), [])
        self.assertEqual(client.ask(b"RSET"), b"250 2.0.0 Ok\r\n")


class ProgramsRunForNothing(MailCase):
    """A message that was refused in the end had been given to the programs before, again with each attempt."""

    def send(self, host: MailHost, header: bytes, *recipients: bytes) -> bytes:
        """The answer to a message with this header, by BDAT."""
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>")
        for recipient in recipients:
            self.assertEqual(client.ask(b"RCPT TO:<" + recipient + b">")[:3], b"250")
        message = header + b"\r\n" + b"x" * 500 + b"\r\n"
        return client.ask(b"BDAT %d LAST\r\n" % len(message) + message[:-2])

    def host_with_program(self) -> MailHost:
        """``run@`` is a program."""
        host = self.host()
        host.store.now(add_alias, parse_address("run@example.org"), [Program(("/bin/run",))], 0.0)
        return host

    def test_a_full_mailbox(self) -> None:
        """The quota is looked at before."""
        host = self.host_with_program()
        host.store.now(set_quota, ALICE, 600)
        self.assertEqual(self.send(host, b"Subject: x\r\n", b"run@example.org", ALICE.encode())[:9], b"452 4.2.2")
        self.assertEqual(host.programs.given, [])

    def test_a_loop(self) -> None:
        """So is where the message has been."""
        host = self.host_with_program()
        header = b"Delivered-To: alice@example.org\r\n"
        self.assertEqual(self.send(host, header, b"run@example.org", ALICE.encode())[:9], b"554 5.4.6")
        self.assertEqual(host.programs.given, [])

    def test_a_program_that_sends_on_to_itself(self) -> None:
        """Its own Delivered-To counts like a mailbox's."""
        host = self.host_with_program()
        self.assertEqual(self.send(host, b"Delivered-To: Run@example.org\r\n", b"run@example.org")[:9], b"554 5.4.6")
        self.assertEqual(host.programs.given, [])

    def test_a_full_disk(self) -> None:
        """And the disk, where only a program wants the message, too."""
        host = self.host_with_program()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<run@example.org>\r\nDATA")
        host.store.room = 1
        self.assertEqual(client.ask(b"Subject: x\r\n\r\nx\r\n.")[:9], b"452 4.3.1")
        self.assertEqual(host.programs.given, [])


class ALoginOutlivesItsAccount(SubmissionCase):
    """A session that had logged in went on to send after its account was disabled or its password was changed."""

    AGAIN = b"421 4.7.0 The account has changed since the login; log in again\r\n"

    def test_disabled_or_removed(self) -> None:
        """Also with the null sender, and for an account whose senders are not checked."""
        for number, sender in enumerate((b"alice@example.org", b"")):
            host = self.auth_host()
            disabled, removed = self.logged_in(host), self.logged_in(host)
            self.assertEqual(disabled.ask(b"MAIL FROM:<" + sender + b">")[:3], b"250")
            disabled.ask(b"RSET")
            host.store.now(set_check_sender, ALICE, bool(number))
            host.store.now(set_disabled, ALICE, True)
            self.assertEqual(disabled.ask(b"MAIL FROM:<" + sender + b">"), self.AGAIN)
            host.store.now(accounts.remove_account, ALICE)
            self.assertEqual(removed.ask(b"MAIL FROM:<" + sender + b">"), self.AGAIN)

    def test_in_the_middle_of_a_message(self) -> None:
        """A transaction that was begun before is not ended by it: the message is refused as a whole, and is nowhere.

        Rule: Submission: nothing is sent when the login is taken back
        """
        host = self.auth_host()
        client = self.logged_in(host)
        for line in (b"MAIL FROM:<alice@example.org>", b"RCPT TO:<bob@example.org>", b"DATA"):
            self.assertIn(client.ask(line)[:1], b"23")
        client.send(b"From: alice@example.org\r\nSubject: x\r\n")
        host.store.now(set_disabled, ALICE, True)
        self.assertEqual(client.ask(b"\r\nbody\r\n."), self.AGAIN)
        self.assertEqual(host.count("message"), 0)

    def test_what_it_logged_in_with(self) -> None:
        """Another password, a revoked app password; the same password with another hash is the same."""
        store = self.auth_host().store
        number = store.now(accounts.account, ALICE)
        assert number is not None
        facts = store.now(credentials.login_facts, ALICE)
        assert facts is not None

        def holds(app_password: int | None, changed: float | None) -> bool:
            return store.now(credentials.still_holds, number.id, app_password, changed)

        app = store.now(credentials.add_app_password, ALICE, "phone", "", "digest", "verifier", 1.0)
        self.assertTrue(holds(None, facts.changed) and holds(app, None) and holds(None, None))
        store.now(credentials.renew_hash, ALICE, PASSWORD, "another hash")
        self.assertTrue(holds(None, facts.changed))
        store.now(accounts.set_password, ALICE, "another", 7.0)
        self.assertFalse(holds(None, facts.changed))
        self.assertTrue(holds(app, None))
        store.now(credentials.revoke_app_password, ALICE, "phone")
        self.assertFalse(holds(app, None))

    def test_a_changed_password_ends_a_session(self) -> None:
        """By SCRAM, where the proof's own facts are what is remembered; other accounts' sessions go on."""
        host = self.auth_host()
        client, other = self.client(host), self.logged_in(host)
        self.assertEqual(self.scram(client, ScramClient(ALICE, PASSWORD))[:3], b"235")
        host.store.now(accounts.set_password, BOB, "another", 7.0)
        self.assertEqual(client.ask(b"MAIL FROM:<alice@example.org>")[:3], b"250")
        client.ask(b"RSET")
        host.store.now(accounts.set_password, ALICE, "another", 7.0)
        self.assertEqual(client.ask(b"MAIL FROM:<alice@example.org>"), self.AGAIN)
        # A checker that does not tell when a password was set is not held to it.
        self.assertEqual(other.ask(b"MAIL FROM:<alice@example.org>")[:3], b"250")


class AuthorsBehindABrokenHeader(SubmissionCase):
    """A line that is no field ends the header for us; many mail programs pass over it, and showed the From behind."""

    def test_nothing_hides_there(self) -> None:
        """Whoever is held to his own names must write a header that everybody reads in the same way."""
        host = self.auth_host()
        client = self.logged_in(host)
        spoofed = b"From: bob@example.org\r\n\r\nhello\r\n"
        for first in (
            b"From: alice@example.org\r\nno field\r\n",
            b"From alice Fri Nov 20 00:00:00 2026\r\n",
            b"Subject: x\r\n\xc3\xbc: y\r\n",
            b" x\r\n",
        ):
            client.ask(b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA")
            self.assertEqual(
                client.ask(first + spoofed + b"."),
                b"550 5.7.1 The sender cannot be checked: a line of the header is no header field\r\n",
            )
        for whole in (b"From: alice@example.org\r\n", b"Subject: x\r\n\r\n" + spoofed, b"\r\n" + spoofed, b""):
            client.ask(b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA")
            self.assertEqual(client.ask(whole + b".")[:3], b"250", whole)
        message = b"Subject: no line end"
        client.ask(b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.org>")
        client.send(b"BDAT %d LAST\r\n" % len(message) + message)
        self.assertEqual(client.take()[:3], b"250")

    def test_who_is_not_checked(self) -> None:
        """May write what he likes, as strangers may."""
        host = self.auth_host()
        host.store.now(set_check_sender, ALICE, False)
        client = self.logged_in(host)
        client.ask(b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA")
        self.assertEqual(client.ask(b"no field\r\nFrom: bob@example.org\r\n.")[:3], b"250")


class AnswersOfLMTPAreCutOff(MailCase):
    """The end of a session stood behind the first recipient's answer: the others got the message, and got it again."""

    def deliver(self, host: MailHost, client: Client, header: bytes = b"") -> list[bytes]:
        """The answers to a message for alice, bob and alice again."""
        client.ask(b"LHLO x\r\nMAIL FROM:<eve@example.net>")
        for name in (b"alice", b"bob", b"alice"):
            client.ask(b"RCPT TO:<" + name + b"@example.org>")
        client.ask(b"DATA")
        client.put(header + b"Subject: x\r\n\r\nx\r\n.\r\n")
        host.store.held = True
        client.settle()
        client.take()
        if not header:
            host.smtp_factory().sessions.shut_down()
        host.store.held = False
        host.store.release()
        client.settle()
        return [line[:9] for line in client.take().splitlines()]

    def test_at_shutdown(self) -> None:
        """Everybody's answer first, then the end."""
        host = self.host()
        client = host.smtp(lmtp(requires_tls=False))
        self.assertEqual(self.deliver(host, client), [b"250 2.0.0"] * 3 + [b"421 4.3.2"])

    def test_too_many_errors(self) -> None:
        """The same."""
        host = self.host()
        client = host.smtp(lmtp(requires_tls=False), errors=1)
        answers = self.deliver(host, client, b"Delivered-To: alice@example.org\r\n")
        self.assertEqual(answers, [b"554 5.4.6", b"250 2.0.0", b"554 5.4.6", b"421 4.7.0"])


class AMessageIDThatLies(OfflineCase):
    """With a Message-ID like one of our addresses a stranger hid from `mailsvc why` what was known of the address."""

    def test_it_hides_nothing(self) -> None:
        """The address is asked for first; in brackets it is the message."""
        with self.transaction() as txn:
            true = Entry(1.0, Refused("MAIL", "553 5.7.1 no", ALICE), trace_id=None)
            lie = Entry(2.0, Accepted("eve@example.net", (BOB,), 5, message_id_header=f"<{ALICE}>"), trace_id="T")
            events.record(txn, [true, lie])
            self.assertEqual([entry.time for entry in story_of(txn, ALICE).entries], [1.0])
            self.assertEqual([entry.time for entry in story_of(txn, f"<{ALICE}>").entries], [2.0])

    def test_only_in_brackets(self) -> None:
        """Anything else is no key: neither an address nor one of our own words."""
        for lie in (ALICE, "#7", DROPPED_KEY, f"<{ALICE}> x", f"<a> <{ALICE}>", "<>"):
            self.assertEqual(Accepted("", (), 5, message_id_header=lie).found_by(), ())
        self.assertEqual(Accepted("", (), 5, message_id_header="<1@x>").found_by(), ("<1@x>",))


class AuthorsAndDeliveriesWithoutEnd(SynchronousTestCase):
    """Two megabytes of Delivered-To held the one thread that writes for two seconds; of From, the reactor for one."""

    def test_of_one_name(self) -> None:
        """Fields are found by their names as they are one by one."""
        parts = [b"from", b"From", b" :", b":", b"\r\n", b" ", b"\t", b"x", b"sender:", b"resent-from:", b"xfrom:"]
        random = Random(5)
        for _ in range(3000):
            header = b"a:\r\n" + b"".join(random.choices(parts, k=random.randrange(1, 14))) + b"\r\n"
            scanner = MessageScanner()
            scanner.feed(header)
            scanner.close()
            header = header[: scanner.header_size]
            slow = [field for field in header_fields(header) if field[0] in AUTHORS]
            self.assertEqual(list(fields_named(header, *AUTHORS)), slow, header)

    def test_many_maildrops(self) -> None:
        """A message that has been in so many maildrops goes in a circle."""
        mine = parse_address(ALICE)
        header = b"".join(b"Delivered-To: a%d@example.net\r\n" % number for number in range(MOST_MAILDROPS))
        check_loop(header * 2, {1: mine}, {1: ALICE})
        with self.assertRaises(MailLoop):
            check_loop(header + b"Delivered-To: b@example.net\r\n", {1: mine}, {1: ALICE})

    def test_many_authors(self) -> None:
        """What all these fields hold together is limited."""
        field = b"From: " + b"(x)" * 8000 + b"a@example.net\r\n"
        self.assertEqual(len(authors(field * 2)), 2)
        with self.assertRaises(AuthorsError):
            authors(field * 3)


class ReportsFillAFullMailbox(MailCase):
    """With forged reverse-paths strangers filled a mailbox beyond its quota, by the reports that they asked for."""

    def test_the_quota_holds(self) -> None:
        """There is no report for whom there is no room for it; the message itself is taken."""
        host = self.host()
        for quota, reports in ((100_000, 1), (3000, 0)):
            before = len(host.mail_of(ALICE))
            host.store.now(set_quota, ALICE, quota)
            client = host.mx_client()
            client.ask(b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.org> NOTIFY=SUCCESS\r\nDATA")
            self.assertEqual(client.ask(b"X: " + b"x" * 2000 + b"\r\n.")[:3], b"250")
            self.assertEqual(len(host.mail_of(ALICE)) - before, reports)
        self.assertEqual(len(host.mail_of(BOB)), 2)


class ProgramsWaitWithoutEnd(TestCase):
    """Whoever hung up behind his message came again with the next: one slow program kept thousands of files open."""

    @inlineCallbacks
    def test_the_line_is_bounded(self) -> Generator[Deferred[Any], Any, None]:
        """Who finds it full is told to come again."""
        programs = Programs(reactor, at_once=1, queue=1)
        program = Program(("/bin/sleep", "60"))
        first, second, third = (Deferred.fromCoroutine(programs.run(program, {}, b"", BytesIO(b"x"))) for _ in range(3))
        ended = yield third
        self.assertEqual(verdict(ended), RETRY)
        # Those who wait do not begin when the service stops.
        programs.stop()
        yield first
        ended = yield second
        self.assertEqual(ended.why, "was ended because the service stops")


class ChunksBecomeCommands(MailCase):
    """When a guard failed at BDAT the octets behind it, a stranger's words, were read as commands."""

    def test_a_defect_at_bdat(self) -> None:
        """They are read as what they are, and the answer is 451."""
        host = self.host()

        class Broken(OpenGuard):
            async def command(self, client: Seen, verb: str, argument: str) -> Reply | None:
                if verb == "BDAT":
                    raise RuntimeError("a defect")
                return None

        class Gate(OpenGate):
            def admit(self, client: Seen) -> OpenGuard:
                return Broken()

        host.helpers = replace(host.helpers, gate=Gate())
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>")
        self.assertEqual(client.ask(b"BDAT 6 LAST\r\nNOOP"), b"451 4.3.0 Local trouble; try again later\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class ABodyWithoutItsLineEnd(MailCase):
    """BDAT brought messages that end in the middle of a line: LIST said two octets less than RETR sent."""

    def test_sizes_agree(self) -> None:
        """The last line is closed when the message is taken; what ends in a bare CR is refused as before."""
        host = self.host()
        for number, message in enumerate((b"Subject: x", b"Subject: x\r\n\r\nbody", b"a: b\r\n\r\nbody\r\n"), 1):
            client = host.mx_client()
            client.ask(b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>")
            client.send(b"BDAT %d LAST\r\n" % len(message) + message)
            self.assertEqual(client.take()[:3], b"250")
            mail = host.mail_of(ALICE)[-1]
            self.assertTrue(mail.endswith(b"\r\n" + message.removesuffix(b"\r\n") + b"\r\n"), mail)
            reader = host.reader()
            self.assertEqual(reader.ask(b"LIST %d" % number), b"+OK %d %d\r\n" % (number, len(mail)))
            self.assertEqual(reader.ask(b"RETR %d" % number).partition(b"\r\n")[2], mail + b".\r\n")
            reader.ask(b"QUIT")
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>")
        client.send(b"BDAT 7 LAST\r\na: b\r\n\r")
        self.assertEqual(client.take()[:10], b"550 5.6.11")


class WhiteSpaceWithoutEnd(SynchronousTestCase):
    """A letter beyond ASCII and 65,000 tabs behind it in one field took twenty seconds of all threads at delivery."""

    def test_white_space(self) -> None:
        """The time goes with the length: with its square this test would take minutes."""
        space = b"\t" * 60_000 + b"\r\n " * 20_000
        for name in (b"Subject: ", b"Date: ", b"To: ", b"Received: ", b"Content-Type: ", b"Message-ID: "):
            for field in (b"\xc3\xa9" + space, b"(\xc3\xa9" + space + b")", space + b"\xc3\xa9"):
                given = downgraded_field(name + field + b"\r\n")
                self.assertTrue(given.isascii() and given.endswith(b"\r\n"))


class SizesThatNobodyKnew(MailCase):
    """LIST told sizes that RETR did not send, where a session and somebody else met, or two limits."""

    def test_deleted_while_it_is_measured(self) -> None:
        """A message of before an upgrade, that another session deletes while its surrogate is measured, had -1."""
        message = "Subject: ü\r\n\r\nbody\r\n".encode()
        for removal in (Removal(0.0), Removal(0.0, keep=False)):
            host = self.host()
            host.put_message(message)
            host.store.connection.execute("UPDATE mailbox_item SET surrogate_size = -1")
            account = host.account_id(ALICE)
            client = host.secured_pop3()
            client.ask(b"USER " + ALICE.encode())
            host.store.held = True
            client.ask(b"PASS " + PASSWORD.encode())
            while "open_maildrop" not in host.store.calls:
                host.store.release(1)
            host.store.now(remove, account, [1], removal)
            host.store.held = False
            host.store.release()
            client.settle()
            size = int(client.take().split()[3])
            self.assertEqual(client.ask(b"STAT"), b"+OK 1 %d\r\n" % size)
            answer = client.ask(b"RETR 1")
            if removal.keep:
                self.assertEqual(len(unstuffed(answer)), size)
                self.assertTrue(answer.isascii())
            else:
                self.assertEqual(size, len(message))
                self.assertEqual(answer, b"-ERR [SYS/PERM] the message is not there any more\r\n")

    def test_before_a_long_header(self) -> None:
        """What stands before a message in one maildrop shares its limit of octets that are looked at closely."""
        for field in (b"X: " + b"\xff" * 123 + b"\r\n", "To: a@ö.org\r\n".encode()):
            for limit in (LONGEST, HEADER_LIMIT):
                # What a field costs beside its octets is 50, and one Delivered-To more makes the difference.
                for fields in (limit // len(field), limit // (len(field) + 50), limit // (len(field) + 50) - 1):
                    self.before(field, fields)

    def before(self, field: bytes, fields: int) -> None:
        header = field * fields + b"\r\n"
        prefix = "Delivered-To: jö@example.org\r\n".encode()
        host = self.host()
        account = host.account_id(ALICE)
        digest = sha256(header).hexdigest()
        new = NewMessage("ID0", "", 0.0, b"", Summary(len(header), len(header), digest, None, None, None, None))
        host.store.now(lambda txn: deliver(txn, new, header, [], [account], prefixes={account: prefix}))
        client = host.reader()
        size = int(client.ask(b"LIST 1").split()[2])
        self.assertEqual(len(unstuffed(client.ask(b"RETR 1"))), size)
