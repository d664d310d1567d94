"""What Twisted 26.10's mail and TLS classes really do, and that ours do not.

Each test quotes a measured fact about the stock classes and shows the same dialogue with `SMTPServer` or `POP3Server`.
Facts about storage, accounts and the files of certificates have their tests beside those topics.
"""

from __future__ import annotations

import base64

from OpenSSL import SSL
from twisted.internet.address import UNIXAddress

from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS
from tests.memory import ALICE, BOB, MX, MX_OPTIONAL, PASSWORD, MailCase, server_tls, unstuffed, without_trace

HELLO = b"EHLO client.example.net\r\n"
ENVELOPE = b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n"
LOGIN = b"USER alice@example.org\r\nPASS " + PASSWORD.encode() + b"\r\n"


def plain(authzid: bytes, name: bytes, password: bytes = PASSWORD.encode()) -> bytes:
    """The argument of AUTH PLAIN."""
    return base64.b64encode(b"\0".join((authzid, name, password)))


def codes(replies: bytes) -> list[bytes]:
    """The codes of the last lines of replies."""
    return [line[:3] for line in replies.split(b"\r\n") if line[3:4] == b" "]


class SMTPServerTests(MailCase):
    """``twisted.mail.smtp.SMTP`` and ``ESMTP``."""

    def test_starttls_injection(self) -> None:
        """Stock: "lines that arrive in the same segment behind STARTTLS are run after the handshake"."""
        client = self.host().mx_client()
        client.send(b"STARTTLS\r\n" + HELLO + ENVELOPE)
        self.assertEqual((codes(client.take()), client.is_closed), ([b"554"], True))

    def test_state_survives_the_handshake(self) -> None:
        """Stock: "HELO, MAIL, RCPT and AUTH state survive the handshake"."""
        client = self.host().mx_client()
        client.send(b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\nSTARTTLS\r\n")
        client.handshake()
        client.take()
        self.assertEqual(codes(client.ask(b"DATA")), [b"503"])

    def test_starttls_with_argument(self) -> None:
        """Stock: "STARTTLS foo is accepted"."""
        self.assertEqual(codes(self.host().mx_client().ask(b"STARTTLS foo")), [b"501"])

    def test_starttls_inside_tls(self) -> None:
        """Stock: "with ctx set, an implicit-TLS connection advertises STARTTLS too"."""
        client = self.host().smtp(SUBMISSIONS)
        client.handshake()
        self.assertNotIn(b"STARTTLS", client.ask(HELLO[:-2]))
        self.assertEqual(codes(client.ask(b"STARTTLS")), [b"503"])

    def test_body_becomes_commands(self) -> None:
        """Stock: "a DATA line over 16384 bytes switches back to command mode and the rest of the body is executed"."""
        host = self.host()
        client = host.mx_client()
        client.ask(ENVELOPE[:-2])
        body = b"x" * 70_000 + b"\r\nRSET\r\nMAIL FROM:<root@example.org>\r\n"
        for start in range(0, len(body), 10_000):
            client.send(body[start : start + 10_000])
        self.assertEqual(client.take(), b"")
        self.assertEqual(codes(client.ask(b".")), [b"250"])
        self.assertEqual(host.bodies_of(), [body])

    def test_endless_line(self) -> None:
        """Stock: "without CRLF the buffer grows without limit, at quadratic CPU cost, before any AUTH"."""
        host = self.host()
        for client in (host.smtp(MX), host.pop3()):
            client.take()
            for _ in range(2000):
                client.send(b"x" * 10_000)
            self.assertLessEqual(self.pending(client.wire.protocol), 10_000)
            self.assertEqual(client.take().count(b"\r\n"), 1)

    def pending(self, protocol: object) -> int:
        conversation = protocol.conversation  # type: ignore[attr-defined]
        return int(conversation.reader.pending)

    def test_unread_replies(self) -> None:
        """Stock: "output is buffered without limit when the client does not read"."""
        client = self.host().smtp(MX_OPTIONAL, window=100)
        for _ in range(3000):
            client.put(b"HELP\r\n" * 100)
        client.settle()
        self.assertLess(len(client.wire.dataBuffer) + client.wire._tempDataLen, 200_000)
        self.assertGreater(client.wire.undelivered, 2000)

    def test_pipelining(self) -> None:
        """Stock: "MAIL RCPT DATA in one packet with an asynchronous validateFrom gives 503 503 250"."""
        client = self.host(late=True).mx_client()
        client.send(ENVELOPE)
        self.assertEqual(codes(client.take()), [b"250", b"250", b"354"])

    def test_late_recipient(self) -> None:
        """Stock: "a slow validateTo adds its recipient to the *next* transaction"."""
        host = self.host()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>")
        host.store.held = True
        client.send(b"RCPT TO:<alice@example.org>\r\nRSET\r\nMAIL FROM:<>\r\nDATA\r\n")
        host.store.release()
        client.settle()
        self.assertEqual(codes(client.take()), [b"250", b"250", b"250", b"554"])

    def test_behind_the_final_dot(self) -> None:
        """Stock: "RSET or QUIT behind the final dot is answered before the message's own reply"."""
        host = self.host()
        client = host.mx_client()
        client.ask(ENVELOPE[:-2])
        host.store.held = True
        client.send(b".\r\nRSET\r\nQUIT\r\n")
        self.assertEqual(client.take(), b"")
        host.store.release()
        client.settle()
        self.assertEqual(codes(client.take()), [b"250", b"250", b"221"])

    def test_what_dropped_the_connection(self) -> None:
        """Stock: "crashes that drop the connection: AUTH alone, malformed AUTH PLAIN, a non-ASCII command"."""
        client = self.host().secured_smtp(SUBMISSION)
        for command, code in (
            (b"AUTH", b"504"),
            (b"AUTH PLAIN x", b"501"),
            (b"AUTH PLAIN " + base64.b64encode(b"no NUL"), b"501"),
            (b"\xe4\xf6\xfc", b"500"),
            (b"EHLO \xff", b"500"),
            (b"NOOP", b"250"),
        ):
            self.assertEqual(codes(client.ask(command)), [code], command)

    def test_unix_peer(self) -> None:
        """Stock: "EHLO from a UNIX socket peer" drops the connection."""
        host = self.host()
        client = host.connect(host.smtp_factory(MX_OPTIONAL), peer=UNIXAddress(None))
        self.assertIn(b"250", codes(client.ask(HELLO[:-2])))

    def test_transient_failure(self) -> None:
        """Stock: "any failure becomes 550 for everyone, also a transient one"."""
        host = self.host()
        client = host.mx_client()
        client.ask(ENVELOPE[:-2])
        host.store.failure = OSError("disk")
        self.assertEqual(codes(client.ask(b".")), [b"451"])
        self.flushLoggedErrors(OSError)

    def test_header_injection(self) -> None:
        """Stock: "bare LF, bare CR and NUL pass through into the body, into HELO and into quoted local parts"."""
        client = self.host().mx_client(errors=100)
        for octet in (b"\n", b"\r", b"\0"):
            for command in (b"EHLO a%sb", b'MAIL FROM:<"a%sb"@example.net>', b"MAIL FROM:<> AUTH=a%sb"):
                replies = client.ask(command % octet)
                self.assertEqual({code[:1] for code in codes(replies)}, {b"5"}, command % octet)
        client.ask(ENVELOPE[:-2])
        self.assertEqual(codes(client.ask(b"a\nb\r\n.")), [b"550"])

    def test_only_crlf_dot_crlf(self) -> None:
        """Stock, and kept: "only CRLF.CRLF ends DATA"."""
        client = self.host().mx_client()
        client.ask(ENVELOPE[:-2])
        client.send(b"x\n.\nNOOP\r\nx\r\n.\nNOOP\r\nx\n.\r\nNOOP\r\nx\r.\rNOOP\r\n")
        self.assertEqual(client.take(), b"")

    def test_no_blank_line_is_inserted(self) -> None:
        """Stock: "a blank line is inserted when the first body line has no colon"."""
        host = self.host()
        client = host.mx_client()
        client.ask(ENVELOPE[:-2])
        client.ask(b"no colon here\r\n.")
        self.assertEqual(host.bodies_of(), [b"no colon here\r\n"])

    def test_missing(self) -> None:
        """Stock: "missing: NOOP, VRFY, HELP, SIZE, PIPELINING, 8BITMIME, ENHANCEDSTATUSCODES"."""
        host = self.host()
        client = host.smtp(MX_OPTIONAL)
        client.take()
        offered = client.ask(HELLO[:-2])
        for keyword in (b"SIZE 1048576", b"PIPELINING", b"8BITMIME", b"ENHANCEDSTATUSCODES"):
            self.assertIn(keyword, offered)
        replies = client.ask(b"NOOP\r\nVRFY x\r\nHELP")
        self.assertEqual(codes(replies), [b"250", b"252", b"214"])

    def test_parameters(self) -> None:
        """Stock: "MAIL/RCPT parameters are matched and ignored"."""
        client = self.host().mx_client()
        self.assertEqual(codes(client.ask(b"MAIL FROM:<> SIZE=99999999999")), [b"552"])
        self.assertEqual(codes(client.ask(b"MAIL FROM:<> NONSENSE=1")), [b"555"])

    def test_addresses(self) -> None:
        """Stock: "a@[1.2.3.4] is refused, a..b and a 300-byte local part are accepted; no limit on anything"."""
        client = self.host().mx_client()
        for address, code in (
            (b"a@[192.0.2.9]", b"250"),
            (b"a..b@example.net", b"553"),
            (b"a" * 300 + b"@b.net", b"553"),
        ):
            self.assertEqual(codes(client.ask(b"MAIL FROM:<%s>\r\nRSET" % address)), [code, b"250"])

    def test_auth_everywhere(self) -> None:
        """Stock: "AUTH is offered and taken in clear, inside a transaction, without EHLO, any number of times"."""
        host = self.host()
        auth = b"AUTH PLAIN " + plain(b"", ALICE.encode())
        self.assertEqual(codes(host.smtp(SUBMISSION).ask(auth))[1:], [b"530"])
        client = host.smtp(SUBMISSIONS)
        client.handshake()
        client.take()
        self.assertEqual(codes(client.ask(auth)), [b"503"])
        client.ask(HELLO[:-2])
        self.assertEqual(codes(client.ask(auth)), [b"235"])
        self.assertEqual(codes(client.ask(auth)), [b"503"])
        self.assertEqual(codes(client.ask(b"MAIL FROM:<>\r\n" + auth)), [b"250", b"503"])

    def test_authzid(self) -> None:
        """Stock: "the authzid is thrown away"."""
        client = self.host().secured_smtp(SUBMISSION)
        self.assertEqual(codes(client.ask(b"AUTH PLAIN " + plain(BOB.encode(), ALICE.encode()))), [b"535"])
        self.assertEqual(codes(client.ask(b"MAIL FROM:<>")), [b"530"])

    def test_timeouts(self) -> None:
        """Stock: "timeoutConnection uses loseConnection, which never closes a silent TLS peer (three cases: SMTPS and
        silence, STARTTLS and silence, QUIT without close_notify); there is no handshake timeout"."""
        host = self.host()
        smtps = host.smtp(SUBMISSIONS)
        starttls = host.smtp(MX)
        starttls.ask(b"STARTTLS")
        quitting = host.secured_smtp(MX)
        quitting.ask(b"QUIT")
        silent = host.secured_smtp(MX)
        host.reactor.pass_time(30)
        self.assertEqual([client.is_closed for client in (smtps, starttls, quitting)], [True] * 3)
        host.reactor.pass_time(300)
        self.assertTrue(silent.is_closed)

    def test_no_version_is_told(self) -> None:
        """Stock: "receivedHeader's default leaks versions and raises on Python 3"."""
        host = self.host()
        client = host.smtp(MX_OPTIONAL)
        greeting = client.take() + client.ask(HELLO[:-2]) + client.ask(b"HELP")
        client.ask(ENVELOPE[:-2])
        client.ask(b".")
        said = (greeting + host.mail_of()[0]).lower()
        for word in (b"twisted", b"python", b"mailsvc"):
            self.assertNotIn(word, said)

    def test_one_reply_each(self) -> None:
        """ "every command ends in exactly one sendCode": twenty commands, twenty replies, in one write each."""
        client = self.host(late=True).mx_client(errors=100)
        client.wire.writes.clear()
        commands = [b"NOOP", b"RCPT TO:<x>", b"MAIL FROM:<>", b"RCPT TO:<alice@example.org>", b"VRFY x", b"nonsense"]
        client.send(b"\r\n".join(commands * 4) + b"\r\n")
        self.assertEqual(len(codes(client.take())), 24)


class POP3ServerTests(MailCase):
    """``twisted.mail.pop3.POP3``."""

    def test_capa(self) -> None:
        """Stock: "No STLS. CAPA says PIPELINE CELERITY AUSPEX POTENCE"."""
        capabilities = unstuffed(self.pop3_reply(b"CAPA")).split(b"\r\n")
        self.assertIn(b"STLS", capabilities)
        self.assertIn(b"PIPELINING", capabilities)
        self.assertFalse({b"PIPELINE", b"CELERITY", b"AUSPEX", b"POTENCE"} & set(capabilities))

    def pop3_reply(self, command: bytes) -> bytes:
        client = self.host().pop3()
        client.take()
        return client.ask(command)

    def test_no_apop(self) -> None:
        """Stock: "the greeting always offers APOP, which never succeeds on Python 3"."""
        self.assertNotIn(b"<", self.host().pop3().take())
        self.assertEqual(self.pop3_reply(b"APOP alice 0123456789"), b"-ERR unknown command\r\n")

    def test_malformed(self) -> None:
        """Stock: "RETR, USER, USER a b, DELE x, TOP 1, NOOP x, LIST 1 2 abort the session"."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n")
        client = host.reader(errors=100)
        for command in (b"RETR", b"DELE x", b"TOP 1", b"NOOP x", b"LIST 1 2", b"USER", b"USER a b", b"\xff", b"PASS"):
            reply = client.ask(command)
            self.assertEqual((reply[:5], reply.count(b"\r\n")), (b"-ERR ", 1), command)
        self.assertEqual(client.ask(b"STAT"), b"+OK 1 8\r\n")

    def test_dele_0(self) -> None:
        """Stock: "DELE 0 reaches deleteMessage(-1)"."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n")
        client = host.reader()
        self.assertEqual(client.ask(b"DELE 0")[:4], b"-ERR")
        client.ask(b"QUIT")
        self.assertEqual(len(host.mail_of()), 1)

    def test_deleted_do_not_count(self) -> None:
        """Stock: "STAT, LIST and UIDL count deleted messages. UIDL n omits the message number"."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n")
        host.put_message(b"A: bc\r\n\r\n")
        client = host.reader()
        client.ask(b"DELE 1")
        self.assertEqual(client.ask(b"STAT"), b"+OK 1 9\r\n")
        self.assertEqual(client.ask(b"LIST"), b"+OK 1 messages, 9 octets\r\n2 9\r\n.\r\n")
        self.assertEqual(client.ask(b"UIDL").split()[1], b"2")
        self.assertEqual(client.ask(b"UIDL 2").split()[:2], [b"+OK", b"2"])

    def test_failed_commit(self) -> None:
        """Stock: "a failed commit at QUIT still says +OK"."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n")
        client = host.reader()
        client.ask(b"DELE 1")
        host.store.failure = OSError("disk")
        self.assertEqual(client.ask(b"QUIT")[:4], b"-ERR")
        self.flushLoggedErrors(OSError)

    def test_pass_blocks(self) -> None:
        """Stock: "PASS does not block later commands; two logins may be pending"."""
        host = self.host()
        client = host.secured_pop3()
        host.store.held = True
        client.send(LOGIN + LOGIN + b"STAT\r\n")
        self.assertEqual((client.take(), host.store.waiting), (b"+OK now the password\r\n", 1))
        for _ in range(3):
            host.store.release(1)
            client.settle()
        expected = b"+OK 0 messages, 0 octets\r\n-ERR already logged in\r\n-ERR already logged in\r\n+OK 0 0\r\n"
        self.assertEqual(client.take(), expected)

    def test_login_after_the_end(self) -> None:
        """Stock: "a login that finishes after the connection is lost leaks its logout (and a maildrop lock)"."""
        host = self.host()
        client = host.secured_pop3()
        host.store.held = True
        client.send(LOGIN)
        host.store.release(1)  # the password; the maildrop is being opened
        client.hang_up()
        host.store.release()
        self.assertEqual(host.maildrops._holds, {})

    def test_empty_maildrop(self) -> None:
        """Stock: "a mailbox object whose len() is 0 counts as not logged in"."""
        self.assertEqual(self.host().reader().ask(b"STAT"), b"+OK 0 0\r\n")

    def test_dots_at_boundaries(self) -> None:
        """Stock: "dots are stuffed per 16 KiB chunk: a lone . line at a chunk boundary ends the message early; a first
        line that starts with a dot is not stuffed; CRLF input becomes CR CR LF"."""
        for before in range(16_384 - 4, 16_384 + 4):
            host = self.host()
            message = b".first\r\n" + b"x" * (before - 10) + b"\r\n.\r\n..\r\nlast\r\n"
            host.put_message(message, piece=16_384)
            reply = host.reader().ask(b"RETR 1")
            self.assertEqual(unstuffed(reply), message)
            self.assertNotIn(b"\r\r", reply)

    def test_top_at_boundaries(self) -> None:
        """Stock: "TOP can miss the end of the header at a boundary"."""
        for before in range(16_384 - 4, 16_384 + 4):
            host = self.host()
            header = b"A: " + b"x" * (before - 3) + b"\r\n\r\n"
            host.put_message(header + b"one\r\ntwo\r\n", piece=16_384)
            client = host.reader()
            self.assertEqual(unstuffed(client.ask(b"TOP 1 0")), header)
            self.assertEqual(unstuffed(client.ask(b"TOP 1 1")), header + b"one\r\n")

    def test_timer_while_sending(self) -> None:
        """Stock: "the idle timer is off during RETR"."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"x" * 1_000_000)
        client = host.reader()
        client.wire.window = 0
        client.send(b"RETR 1\r\n")
        client.wait(180)
        self.assertTrue(client.is_closed)

    def test_unforeseen_exception(self) -> None:
        """Stock: "getMessage raising an unforeseen exception leaves the client without any reply"."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n")
        client = host.reader()
        host.store.failure = KeyError("unforeseen")
        self.assertEqual(client.ask(b"RETR 1")[:4], b"-ERR")
        self.flushLoggedErrors(KeyError)

    def test_auth(self) -> None:
        """Stock: "AUTH takes one CRAM-like step only": here as many as the mechanism has, and it can be given up."""
        client = self.host().secured_pop3()
        self.assertEqual(client.ask(b"AUTH PLAIN"), b"+ \r\n")
        self.assertEqual(client.ask(b"*")[:4], b"-ERR")
        self.assertEqual(client.ask(b"USER alice@example.org")[:3], b"+OK")


class TLSTests(MailCase):
    """``twisted.internet.ssl`` and ``twisted.protocols.tls`` under both servers."""

    def test_alpn(self) -> None:
        """Stock: "a default CertificateOptions server aborts any client that offers ALPN"."""
        host = self.host()
        for client in (host.smtp(SUBMISSIONS), host.pop3(implicit_tls=True)):
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.set_alpn_protos([b"smtp", b"pop3", b"http/1.1"])
            client.begin_handshake(context)
            for _ in range(3):
                client.settle()
            self.assertIn(b"mail.example.org", client.take())

    def test_old_versions(self) -> None:
        """TLS 1.2 is taken, 1.1 and older are not (RFC 8996)."""
        host = self.host()
        for version, works in ((SSL.TLS1_2_VERSION, True), (SSL.TLS1_1_VERSION, False)):
            client = host.smtp(SUBMISSIONS)
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_max_proto_version(version)
            try:
                client.begin_handshake(context)
                for _ in range(3):
                    client.settle()
            except SSL.Error:
                self.assertFalse(works)
            self.assertEqual(client.is_closed, not works)

    def test_one_object(self) -> None:
        """ "A pyOpenSSL Context cannot be changed after its first Connection": many connections share one object that
        was complete before."""
        host = self.host()
        for _ in range(3):
            client = host.secured_smtp(MX)
            self.assertEqual(client.ask(b"NOOP")[:3], b"250")
        self.assertIs(server_tls(), server_tls())

    def test_what_the_trace_tells(self) -> None:
        """ "X25519MLKEM768 is negotiated by default; get_group_name() reports it": the trace names what was used."""
        host = self.host()
        client = host.secured_smtp(MX)
        client.ask(ENVELOPE[:-2])
        client.ask(b".")
        [message] = host.mail_of()
        self.assertIn(b"(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256 bits), group X25519MLKEM768;", message)
        self.assertEqual(without_trace(message), b"")
