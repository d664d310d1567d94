"""The POP3 server beyond its dialogues: the lock, the deletes, long replies, failures, the end."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.mail import pop3

from mailsvc.pop3.mailbox import MaildropInUse
from mailsvc.pop3.server import POP3Server
from mailsvc.pop3.session import VERBS
from mailsvc.storage import mailboxes
from tests.memory import ALICE, BOB, PASSWORD, Client, MailCase, MailHost, cut_at, log_lines, unstuffed

IN_USE = b"-ERR [IN-USE] another session has this maildrop open\r\n"
LOGIN = b"USER alice@example.org\r\nPASS " + PASSWORD.encode() + b"\r\n"


def server(client: Client) -> POP3Server:
    """The session at the other end."""
    protocol = client.wire.protocol
    while not isinstance(protocol, POP3Server):
        protocol = protocol.wrappedProtocol  # type: ignore[attr-defined]
    return protocol


def one_message(case: MailCase) -> tuple[MailHost, Client]:
    """A host with one message of 8 octets, and who has logged in to read it."""
    host = case.host()
    host.put_message(b"A: b\r\n\r\n")
    return host, host.reader()


class LockTests(MailCase):
    """One session a maildrop; the lock always comes back (RFC 1939 section 4)."""

    def is_free(self, host: MailHost) -> bool:
        """Whether somebody can log in; the lock is given back at once."""
        try:
            self.successResultOf(Deferred.fromCoroutine(host.maildrops.open(host.account(ALICE)))).release()
        except MaildropInUse:
            return False
        return True

    def test_release(self) -> None:
        """It is given back by QUIT, by a lost connection, by a timeout, and by an abort."""
        for end in ("quit", "lost", "timeout", "abort", "errors"):
            host = self.host()
            client = host.reader(errors=3)
            self.assertFalse(host.maildrops._holds == {}, end)
            match end:
                case "quit":
                    client.ask(b"QUIT")
                case "lost":
                    client.hang_up()
                case "timeout":
                    client.wait(310)
                case "abort":
                    host.sessions.abort()
                    client.settle()
                case "errors":
                    client.ask(b"x\r\nx\r\nx")
                    client.close_tls()
            self.assertTrue(self.is_free(host), end)

    def test_lost_while_logging_in(self) -> None:
        """A login that succeeds when the client has gone gives the lock back, wherever it was when it went."""
        for steps in range(3):
            host = self.host()
            client = host.secured_pop3()
            host.store.held = True
            client.send(LOGIN)
            for _ in range(steps):
                host.store.release(1)
                client.settle()
            client.hang_up()
            self.assertEqual(host.store.cancelled, ["account"] if steps == 0 else [])
            host.store.release()
            host.store.release()
            host.store.held = False
            self.assertTrue(self.is_free(host), steps)
            self.assertEqual(self.flushLoggedErrors(), [])

    def test_not_while_deletes_are_committed(self) -> None:
        """While deletes are committed nobody else may log in, also when the client has gone; then they may."""
        host, client = one_message(self)
        client.ask(b"DELE 1")
        host.store.held = True
        client.send(b"QUIT\r\n")
        client.hang_up()
        self.assertEqual(list(host.maildrops._holds), [host.account_id(ALICE)])
        host.store.release()
        self.assertEqual((host.maildrops._holds, host.mail_of()), ({}, []))

    def test_failed_login_takes_no_lock(self) -> None:
        """When the maildrop cannot be read there is no session, and no lock."""
        host = self.host()
        client = host.secured_pop3()
        host.store.held = True
        client.send(LOGIN)
        host.store.release(1)
        host.store.failure = ZeroDivisionError()
        host.store.release()
        client.settle()
        self.assertIn(b"-ERR [SYS/TEMP] local trouble", client.take())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        host.store.failure = None
        host.store.held = False
        self.assertTrue(self.is_free(host))

    def test_release_twice(self) -> None:
        """A second release does not take the lock of the next session away."""
        host = self.host()
        account = host.account(ALICE)
        first = self.successResultOf(Deferred.fromCoroutine(host.maildrops.open(account)))
        first.release()
        second = self.successResultOf(Deferred.fromCoroutine(host.maildrops.open(account)))
        first.release()
        self.failureResultOf(Deferred.fromCoroutine(host.maildrops.open(account)), MaildropInUse)
        second.release()

    def test_two_logins_at_once(self) -> None:
        """Of two that log in at the same moment one gets the maildrop."""
        host = self.host()
        clients = [host.secured_pop3(), host.secured_pop3()]
        host.store.late = True
        for client in clients:
            client.put(LOGIN)
        host.reactor.settle()
        replies = [client.take().split(b"\r\n", 1)[1] for client in clients]
        self.assertEqual(sorted(replies), [b"+OK 0 messages, 0 octets\r\n", IN_USE])


class DeleteTests(MailCase):
    """Deletes happen at QUIT, all of them before +OK."""

    def test_before_the_answer(self) -> None:
        """+OK comes after the commit."""
        host, client = one_message(self)
        client.ask(b"DELE 1")
        host.store.held = True
        self.assertEqual(client.ask(b"QUIT"), b"")
        host.store.release()
        client.settle()
        self.assertEqual((client.take(), host.mail_of()), (b"+OK bye\r\n", []))

    def test_failed(self) -> None:
        """When the commit fails QUIT says so, and the messages are there."""
        host, client = one_message(self)
        client.ask(b"DELE 1")
        host.store.failure = ZeroDivisionError()
        self.assertEqual(client.ask(b"QUIT")[:15], b"-ERR [SYS/TEMP]")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        host.store.failure = None
        self.assertEqual(len(host.mail_of()), 1)
        self.assertEqual(host.maildrops._holds, {})

    def test_nothing_to_delete(self) -> None:
        """QUIT without deletes does not write."""
        host = self.host()
        client = host.reader()
        host.store.calls.clear()
        client.ask(b"QUIT")
        self.assertEqual(host.store.calls, [])

    def test_many(self) -> None:
        """Twelve hundred deletes go in slices, so that deliveries pass in between; all are gone."""
        host = self.host()
        for _ in range(1200):
            host.put_message(b"A: b\r\n\r\n")
        client = host.reader()
        client.send(b"".join(b"DELE %d\r\n" % number for number in range(1, 1201)))
        host.store.calls.clear()
        client.ask(b"QUIT")
        self.assertEqual((host.store.calls, host.mail_of()), (["carry_out"] * 3, []))

    def test_shared_message(self) -> None:
        """What one recipient deletes stays with the other."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\nx\r\n", ALICE, BOB)
        client = host.reader()
        client.ask(b"DELE 1")
        client.ask(b"QUIT")
        self.assertEqual((host.mail_of(ALICE), host.mail_of(BOB)), ([], [b"A: b\r\n\r\nx\r\n"]))

    def test_only_the_marked(self) -> None:
        """Mail that came meanwhile, and what was not marked, stays."""
        host = self.host()
        for number in range(4):
            host.put_message(b"A: %d\r\n\r\n" % number)
        client = host.reader()
        client.send(b"DELE 2\r\nDELE 4\r\nRSET\r\nDELE 1\r\nDELE 3\r\n")
        host.put_message(b"A: new\r\n\r\n")
        client.ask(b"QUIT")
        self.assertEqual(host.mail_of(), [b"A: 1\r\n\r\n", b"A: 3\r\n\r\n", b"A: new\r\n\r\n"])


class RetrieveTests(MailCase):
    """RETR and TOP: the stored octets, dots stuffed, at any boundary."""

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.sampled_from((b"\r\n", b".", b"..", b"x", b"\r\n.\r\n", b"\xff\0")), max_size=30).map(b"".join),
        st.integers(1, 9),
        st.integers(0, 5),
    )
    def test_any_body(self, body: bytes, piece: int, lines: int) -> None:
        """Whatever the body and the pieces it is stored in: RETR is the message, TOP its header and n lines."""
        host = self.host()
        header = b"Subject: x\r\n\r\n"
        body += b"\r\n"
        host.put_message(header + body, piece=piece)
        client = host.reader()
        reply = client.ask(b"RETR 1")
        self.assertTrue(reply.startswith(b"+OK %d octets\r\n" % len(header + body)))
        self.assertEqual(unstuffed(reply), header + body)
        top = b"".join(line + b"\r\n" for line in body.split(b"\r\n")[:-1][:lines])
        self.assertEqual(unstuffed(client.ask(b"TOP 1 %d" % lines)), header + top)
        self.check_end(host)
        self.hosts.remove(host)

    def test_top_reads_no_more_than_needed(self) -> None:
        """TOP 1 0 of a large message reads its header and nothing of its body."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"x\r\n" * 20_000, piece=1000)
        client = host.reader()
        host.store.calls.clear()
        client.ask(b"TOP 1 0")
        self.assertEqual(host.store.calls, ["openings"])
        host.store.calls.clear()
        client.ask(b"TOP 1 1")
        self.assertEqual(host.store.calls, ["openings", "content_part"])

    def test_small_message_is_one_write(self) -> None:
        """Status line and header leave together."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n")
        client = host.pop3()
        client.ask(b"STLS")
        client.handshake()
        client.send(LOGIN)
        client.wire.writes.clear()
        client.ask(b"RETR 1")
        self.assertEqual(len(client.wire.writes), 1)

    def test_slow_reader(self) -> None:
        """Of a large message only so much is read from the database as the client reads: memory is bounded."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"x" * 78 + b"\r\n" * 10_000 + b"y" * 2_000_000, piece=100_000)
        client = host.reader()
        host.store.calls.clear()
        client.wire.window = 150_000
        client.send(b"RETR 1\r\nNOOP\r\n")
        self.assertLess(len(host.store.calls), 6)
        for _ in range(20):
            client.wait(100)
            client.wire.window = 150_000
            client.settle()
        reply = client.take()
        self.assertTrue(reply.endswith(b"y\r\n.\r\n+OK\r\n"))

    def test_client_gone_in_the_middle(self) -> None:
        """A client that goes away while a message is sent to it ends that, quietly."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"y" * 2_000_000, piece=100_000)
        client = host.reader()
        client.wire.window = 1000
        client.send(b"RETR 1\r\n")
        client.hang_up()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_reader_that_stops(self) -> None:
        """A client that stops reading is cut off after `unread` seconds."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"y" * 2_000_000, piece=100_000)
        client = host.reader()
        client.wire.window = 1000
        client.send(b"RETR 1\r\n")
        client.wait(181)
        self.assertTrue(client.wire.aborted)

    def test_failure_in_the_middle(self) -> None:
        """When a part cannot be read any more the connection is cut: a dot would claim that the message is whole."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"x\r\n" * 1000, piece=100)
        client = host.reader()
        host.store.connection.execute("DELETE FROM message_content WHERE part = 5")
        reply = client.ask(b"RETR 1")
        self.assertFalse(reply.endswith(b".\r\n"))
        self.assertTrue(client.wire.aborted)

    def test_removed_meanwhile(self) -> None:
        """A message that an administrator removed during the session is -ERR, and the session lives."""
        host, client = one_message(self)
        host.store.connection.execute("DELETE FROM mailbox_item")
        host.store.connection.execute("DELETE FROM message")
        self.assertEqual(client.ask(b"RETR 1"), b"-ERR [SYS/PERM] the message is not there any more\r\n")
        self.assertEqual(client.ask(b"NOOP"), b"+OK\r\n")

    def test_refused_without_utf8(self) -> None:
        """Where that is wanted, only a session with UTF8 gets an internationalised message; another 8-bit one all get.

        Rule: POP3: UTF8 as a code
        """
        host = self.host()
        host.put_message("Subject: für\r\n\r\n".encode())
        host.put_message("Subject: für\r\n\r\n".encode("latin-1"))
        client = host.reader(refuse_utf8=True)
        refused = b"-ERR [UTF8] the message needs UTF-8; say UTF8 before you log in\r\n"
        self.assertEqual((client.ask(b"RETR 1"), client.ask(b"TOP 1 0")), (refused, refused))
        self.assertTrue(client.ask(b"RETR 2").startswith(b"+OK"))
        client.ask(b"QUIT")
        client = host.secured_pop3(refuse_utf8=True)
        client.ask(b"UTF8")
        client.ask(b"USER " + ALICE.encode())
        client.ask(b"PASS " + PASSWORD.encode())
        self.assertEqual(unstuffed(client.ask(b"RETR 1")), "Subject: für\r\n\r\n".encode())

    def test_timer_stands_while_sending(self) -> None:
        """A message that takes longer to fetch than the idle limit is fetched."""
        host = self.host()
        host.patience = replace(host.patience, command=50, unread=40)
        host.put_message(b"A: b\r\n\r\n" + b"y" * 1_000_000, piece=100_000)
        client = host.reader()
        client.wire.window = 100_000
        client.send(b"RETR 1\r\n")
        for _ in range(15):
            client.wait(30)
            client.wire.window = 100_000
            client.settle()
        self.assertTrue(client.take().endswith(b"y\r\n.\r\n"))


class ListingTests(MailCase):
    """LIST and UIDL."""

    def test_long(self) -> None:
        """A listing of thousands comes in blocks, whole and in order; UIDLs are unique and of RFC 1939's characters."""
        host = self.host()
        for _ in range(1700):
            host.put_message(b"A: b\r\n\r\n")
        client = host.reader()
        lines = client.ask(b"LIST").split(b"\r\n")
        self.assertEqual(lines[1:-2], [b"%d 8" % number for number in range(1, 1701)])
        client.wire.window = 5000
        client.send(b"UIDL\r\n")
        for _ in range(20):
            client.wire.window = 20_000
            client.settle()
        uidls = [line.split(b" ")[1] for line in client.take().split(b"\r\n")[1:-2]]
        self.assertEqual((len(uidls), len(set(uidls))), (1700, 1700))
        for uidl in uidls:
            self.assertRegex(uidl.decode(), r"\A[!-~]{1,70}\Z")

    def test_uidl_is_stable(self) -> None:
        """A message keeps its UIDL, whatever is deleted before it."""
        host = self.host()
        host.put_message(b"A: 1\r\n\r\n")
        host.put_message(b"A: 2\r\n\r\n")
        client = host.reader()
        second = client.ask(b"UIDL 2").split()[2]
        client.ask(b"DELE 1")
        client.ask(b"QUIT")
        client.close_tls()
        self.assertEqual(host.reader().ask(b"UIDL 1").split()[2], second)


class LoginTests(MailCase):
    """USER and PASS."""

    def test_password_to_the_letter(self) -> None:
        """The password is the rest of the line, spaces and 8-bit octets as they are."""
        host = self.host()
        client = host.secured_pop3()
        client.send(b"USER alice@example.org\r\nPASS  \xff two  \r\n")
        [login] = host.checker.logins
        self.assertEqual(
            (login.username, login.password, login.peer, login.protocol),
            (b"alice@example.org", b" \xff two  ", "192.0.2.7", "pop3"),
        )

    def test_no_secret_in_the_log(self) -> None:
        """Promise H, for POP3."""
        host = self.host()

        def dialogue() -> None:
            client = host.secured_pop3()
            client.ask(b"USER alice@example.org")
            client.ask(b"PASS xyzzy")
            client.ask(b"PASS xyzzy")
            client.send(LOGIN)
            client.ask(b"QUIT")

        lines = log_lines(dialogue)
        self.assertIn("pop3: login refused for alice@example.org from 192.0.2.7", lines)
        self.assertIn("pop3: alice@example.org from 192.0.2.7: 0 retrieved, 0 deleted", lines)
        for line in lines:
            self.assertNotIn("xyzzy", line)
            self.assertNotIn("sesame", line)

    def test_the_name_asked_for_is_in_the_log(self) -> None:
        """The line of a login tells the channel, and the host name that the client asked for, if it did."""
        host = self.host()
        self.assertTrue(
            any("logged in from 192.0.2.7, TLSv1.3, no name asked for" in x for x in log_lines(host.reader))
        )

    def test_no_line_of_the_peers_in_the_log(self) -> None:
        """A name cannot write lines of its own into the log, nor colours."""
        host = self.host()
        lines = log_lines(lambda: host.secured_pop3().send(b"USER a\x1b[31m\xe2\x80\xa8b\r\nPASS x\r\n"))
        [line] = [line for line in lines if "refused" in line]
        self.assertTrue(line.isascii() and line.isprintable(), line)


class DefectTests(MailCase):
    """Our own mistakes."""

    def test_in_a_command(self) -> None:
        """An error that nobody foresaw is one -ERR, is logged, and ends nothing."""
        host, client = one_message(self)
        host.store.failure = ZeroDivisionError()
        self.assertEqual(client.ask(b"RETR 1"), b"-ERR [SYS/TEMP] local trouble; try again later\r\n")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        host.store.failure = None
        self.assertEqual(client.ask(b"STAT"), b"+OK 1 8\r\n")


class ShutDownTests(MailCase):
    """The service stops."""

    def test_idle(self) -> None:
        """An idle session ends, and deletes nothing."""
        host, client = one_message(self)
        client.ask(b"DELE 1")
        done = host.sessions.shut_down()
        client.settle()
        self.assertEqual(client.take(), b"-ERR [SYS/TEMP] the service is shutting down; nothing is deleted\r\n")
        client.close_tls()
        self.successResultOf(done)
        self.assertEqual(len(host.mail_of()), 1)

    def test_in_quit(self) -> None:
        """Deletes that are being committed are answered as ever."""
        host, client = one_message(self)
        client.ask(b"DELE 1")
        host.store.held = True
        client.send(b"QUIT\r\n")
        host.sessions.shut_down()
        host.store.release()
        client.settle()
        self.assertEqual(client.take(), b"+OK bye\r\n")

    def test_in_a_message(self) -> None:
        """A message that is being sent comes to its end first."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"x" * 300_000, piece=100_000)
        client = host.reader()
        client.wire.window = 1000
        client.send(b"RETR 1\r\n")
        host.sessions.shut_down()
        client.wire.window = None
        client.wire.startWriting()
        client.settle()
        self.assertTrue(
            client.take().endswith(b"x\r\n.\r\n-ERR [SYS/TEMP] the service is shutting down; nothing is deleted\r\n")
        )

    def test_in_a_login(self) -> None:
        """A login that is under way is answered, and the session ends; the lock comes back."""
        host = self.host()
        client = host.secured_pop3()
        host.store.held = True
        client.send(LOGIN)
        host.sessions.shut_down()
        host.store.release()
        host.store.release()
        client.settle()
        self.assertTrue(client.take().endswith(b"nothing is deleted\r\n"))
        client.close_tls()
        self.assertEqual(host.maildrops._holds, {})


class TypeTests(MailCase):
    """What the design promises of the classes."""

    def test_derived(self) -> None:
        """The protocol is Twisted's, for whoever embeds it, and every verb is ours."""
        self.assertTrue(issubclass(POP3Server, pop3.POP3))
        for verb in VERBS:
            self.assertIsNot(getattr(POP3Server, f"do_{verb}"), getattr(pop3.POP3, f"do_{verb}", None))

    def test_pieces(self) -> None:
        """The parts of a message are as large as the storage makes them: 256 KiB."""
        self.assertEqual(mailboxes.PART_LIMIT, 262_144)
        self.assertEqual(cut_at(b"abc", [1, 1, 9]), [b"a", b"bc"])
