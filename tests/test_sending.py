"""Messages that are handed in: read, completed, composed; the arguments of sendmail(8); verdicts.  No network."""

from __future__ import annotations

from collections.abc import Sequence
from email import message_from_bytes, policy
from email.header import decode_header, make_header

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.config import Configuration
from mailsvc.config.settings import Listen
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import parse_address
from mailsvc.relay.outcome import Kind, Outcome, Phase, by_tls
from mailsvc.relay.url import RelayError
from mailsvc.sending.arguments import Invocation, Mode, UsageMistake, invocation
from mailsvc.sending.compose import Attachment, Draft, composed
from mailsvc.sending.header import Head, MessageError, completed, mailbox, one_line, recipients, sender_of
from mailsvc.sending.letter import Letter, Limits, read_letter, until_dot
from mailsvc.sending.local import local_relays
from mailsvc.sending.target import check_login, relay_of
from mailsvc.sending.verdict import Verdict, facts, lines, queue_id, verdict
from tests.memory import cut_at

ALICE, BOB = parse_address("alice@example.org"), parse_address("bob@example.net")
PIECES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b" ", b"a", b"To: x\n", b"From me\n", b"\xe9"]))


def letter_of(*pieces: bytes, limits: Limits | None = None) -> Letter:
    return read_letter(pieces, limits or Limits())


def body_of(letter: Letter) -> bytes:
    letter.body.seek(0)
    return letter.body.read()


def head_of(text: str) -> Head:
    return letter_of(text.encode()).head


class Letters(SynchronousTestCase):
    def test_line_ends(self) -> None:
        """LF, CRLF and CR CR LF are line ends; a CR alone is one in the body, and a space in the header.

        Rule: Handing in: no line end can be smuggled into the header
        """
        letter = letter_of(b"Subject: a\rBcc: victim@example.org\nTo: b@example.org\r\n\r\none\r\r\ntwo\rthree\n\r")
        self.assertEqual(bytes(letter.head), b"Subject: a Bcc: victim@example.org\r\nTo: b@example.org\r\n")
        self.assertEqual(body_of(letter), b"one\r\ntwo\r\nthree\r\n\r\n")
        self.assertEqual(recipients(letter.head, ""), ((parse_address("b@example.org"),), ()))

    def test_where_the_header_ends(self) -> None:
        """At the empty line, or before the first line that is no field; the mailbox's From line goes."""
        letter = letter_of(b"From alice Sat Nov 21 2026\nSubject: a\n b\nno field\nTo: b@example.org\n")
        self.assertEqual(bytes(letter.head), b"Subject: a\r\n b\r\n")
        self.assertEqual(body_of(letter), b"no field\r\nTo: b@example.org\r\n")
        self.assertEqual(letter.size, len(letter.header) + letter.body_size)
        self.assertEqual(bytes(letter_of(b"Subject: whole").head), b"Subject: whole\r\n")

    @given(PIECES, st.lists(st.integers(0, 60)))
    @settings(deadline=None)
    def test_any_pieces(self, parts: list[bytes], places: Sequence[int]) -> None:
        """However a message comes, it is the same, with CRLF only; and so is its end at a dot."""
        whole = b"".join(parts)

        def read(pieces: Sequence[bytes]) -> tuple[bytes, bytes] | None:
            try:
                letter = read_letter(pieces, Limits())
            except MessageError:
                return None
            return letter.header, body_of(letter)

        cut = cut_at(whole, places)
        self.assertEqual(read(cut), read([whole]))
        self.assertEqual(b"".join(until_dot(cut)), b"".join(until_dot([whole])))
        for octets in read([whole]) or ():
            self.assertEqual(octets.replace(b"\r\n", b"").count(b"\r") + octets.replace(b"\r\n", b"").count(b"\n"), 0)

    def test_dot(self) -> None:
        """A line with a dot alone ends the message, at its first line too; other dots do not."""
        self.assertEqual(b"".join(until_dot([b"a\n.b\n..\n.", b"\r\nmore\n"])), b"a\n.b\n..\n")
        self.assertEqual(b"".join(until_dot([b".\nmore"])), b"")
        self.assertEqual(b"".join(until_dot([b"a\n."])), b"a\n.")

    def test_limits(self) -> None:
        """What is too large is refused while it comes; nothing is no message.

        Rule: Handing in: a message has limits
        """
        for pieces, words in (
            ((b"a: b\n\n", b"x" * 1000), "larger than 1000 octets"),
            ((b"a: b\n" * 30,), "header of the message is larger than 100"),
            ((b"a: " + b"x" * 200,), "header of the message is larger than 100"),
            ((), "nothing was read"),
        ):
            error = self.assertRaises(MessageError, letter_of, *pieces, limits=Limits(1000, 100))
            self.assertIn(words, str(error))

    def test_content(self) -> None:
        """It can be read several times, and tells how far it is."""
        heard: list[int] = []
        content = letter_of(b"a: b\n\n" + b"x" * 100_000).content(heard.append)

        async def read() -> bytes:
            return b"".join([piece async for piece in content()])

        first = self.successResultOf(Deferred.fromCoroutine(read()))
        self.assertEqual((first, heard[0], heard[-1]), (b"a: b\r\n\r\n" + b"x" * 100_000, 0, len(first)))
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(read())), first)


class Headers(SynchronousTestCase):
    def test_recipients(self) -> None:
        """To, Cc and Bcc, groups and names, each once; a bare name gets the domain; Resent- fields stand for all."""
        head = head_of(
            'To: "B, Bob" <bob@example.net>, root\nCc: us: bob@example.net;\nBcc: Eve X. <eve@example.com>\n'
        )
        found, bare = recipients(head, "example.org")
        self.assertEqual([str(each) for each in found], ["bob@example.net", "root@example.org", "eve@example.com"])
        self.assertEqual([str(each) for each in bare], ["root@example.org"])
        again = head_of("To: bob@example.net\nResent-To: eve@example.com\n")
        self.assertEqual([str(each) for each in recipients(again, "")[0]], ["eve@example.com"])

    def test_unreadable(self) -> None:
        """A list that cannot be read is refused and not guessed at."""
        for text in ("To: bob@example.net eve@example.com\n", "To: <bob@example.net\n", "To: root\n"):
            self.assertRaises(MessageError, recipients, head_of(text), "")

    def test_completed(self) -> None:
        """Bcc goes; From, Date and Message-ID come where they are missing, and stay where they are not.

        Rule: Handing in: Bcc is not sent
        """
        made = completed(
            head_of("To: a@b.example\nBcc: c@d.example\nResent-Bcc: e@f.example\n"),
            sender=ALICE,
            name='A "B" C',
            date="now",
            message_id="<1@x>",
        )
        self.assertEqual(
            bytes(made),
            b'To: a@b.example\r\nFrom: "A \\"B\\" C" <alice@example.org>\r\nDate: now\r\nMessage-ID: <1@x>\r\n',
        )
        again = completed(made, sender=BOB, name="", date="later", message_id="<2@x>")
        self.assertEqual(again, made)
        self.assertEqual(sender_of(made, ""), ALICE)

    def test_injection(self) -> None:
        """A name, a subject or a file's name with a line end in it is refused.

        Rule: Handing in: arguments cannot forge a header
        """
        for text in ("a\nBcc: v@x", "a\rBcc: v@x", "a\0", "a\u2028Bcc: v@x", "\udce9"):
            self.assertRaises(MessageError, one_line, text, "it")
            self.assertRaises(MessageError, mailbox, ALICE, text)
            draft = Draft(ALICE, [BOB], text)
            self.assertRaises(MessageError, composed, draft, date="d", message_id="<m@x>")
            draft = Draft(ALICE, [BOB], attachments=[Attachment(text, b"")])
            self.assertRaises(MessageError, composed, draft, date="d", message_id="<m@x>")
        self.assertEqual(mailbox(ALICE, "Jürg"), "=?utf-8?b?SsO8cmc=?= <alice@example.org>")

    def test_long_names(self) -> None:
        """Encoded words of the right length on one line, without a line end among them; what is too long is refused."""
        whole = mailbox(ALICE, "\U0001f600" * 100)
        self.assertLess(len(whole), 950)
        self.assertTrue(whole.isprintable())
        self.assertLessEqual(max(map(len, whole.split(" "))), 76)
        self.assertEqual(str(make_header(decode_header(whole.rpartition(" ")[0]))), "\U0001f600" * 100)
        self.assertRaises(MessageError, mailbox, ALICE, "\u00e9" * 101)

    def test_composed(self) -> None:
        """Subject, text and files come out again as they went in, over seven bits."""
        files = [Attachment("Übersicht.pdf", b"%PDF\r\n\n\x00"), Attachment("mail.eml", b"Subject: x\n\n")]
        draft = Draft(ALICE, [BOB], "Grüße", "Hällo\n.\n", cc=[ALICE], name="Älice", attachments=files)
        octets = composed(draft, date="Fri, 20 Nov 2026 23:36:46 +0000", message_id="<1@example.org>")
        self.assertTrue(octets.isascii())
        read = message_from_bytes(octets, policy=policy.default)
        self.assertEqual((read["subject"], read["from"], read["to"], read["cc"]), (
            "Grüße", "Älice <alice@example.org>", "bob@example.net", "alice@example.org"
        ))  # fmt: skip
        text, *attached = read.iter_parts()
        self.assertEqual(text.get_content().replace("\r\n", "\n"), "Hällo\n.\n")
        self.assertEqual([each.get_filename() for each in attached], ["Übersicht.pdf", "mail.eml"])
        self.assertEqual([each.get_payload(decode=True) for each in attached], [each.data for each in files])
        self.assertEqual(
            [each.get_content_type() for each in attached], ["application/pdf", "application/octet-stream"]
        )


class Targets(SynchronousTestCase):
    def test_ports(self) -> None:
        """A port means what its standard says; a login wants TLS on each."""
        for text, without, with_login in (
            ("h.example:25", "smtp+tls://h.example", "tls://h.example"),
            ("h.example:587", "tls://h.example:587", "tls://h.example:587"),
            ("[::1]:465", "smtps://[::1]", "smtps://[::1]"),
            ("h.example", "smtp+tls://h.example", "tls://h.example:587"),
            ("ssl://h.example", "ssl://h.example", "ssl://h.example"),
        ):
            self.assertEqual((str(relay_of(text)), str(relay_of(text, login=True))), (without, with_login))
        for text in ("h.example:99", "h.example:x", ":25", "[::1]x", "", "h.example:"):
            self.assertRaises(RelayError, relay_of, text)

    def test_no_password_in_clear(self) -> None:
        """A channel that may be plain text gets no password.

        Rule: Handing in: a password goes over a guaranteed channel only
        """
        for url in ("smtp://h.example", "smtp+tls://h.example", "lmtp://h.example", "tls://", "tls://label@h.example"):
            self.assertRaises(MailsvcError, check_login, relay_of(url))
        for url in ("tls://h.example", "smtps://h.example", "ssl://h.example", "tls://h.example?verify=none"):
            check_login(relay_of(url))

    def test_local(self) -> None:
        """The listeners of this machine: LMTP's socket first, then SMTP; with a login where one logs in, verified."""
        listen = Listen(
            smtp=("tcp:25",), submission=("tcp:587",), submissions=("tcp6:465",), lmtp=("unix:/run/l.sock",)
        )
        configuration = Configuration(hostname="mail.example.org", listen=listen)
        found = [(str(relay), where) for relay, where in local_relays(configuration, login=False, ca=None)]
        self.assertEqual(found, [("lmtp:///run/l.sock", ()), ("tls://mail.example.org?verify=none", ("127.0.0.1",))])
        found = [(str(relay), where) for relay, where in local_relays(configuration, login=True, ca="/ca.pem")]
        self.assertEqual(
            found,
            [
                ("smtps://mail.example.org?ca=/ca.pem", ("::1",)),
                ("tls://mail.example.org:587?ca=/ca.pem", ("127.0.0.1",)),
            ],
        )


class Arguments(SynchronousTestCase):
    def test_as_programs_call_it(self) -> None:
        """Cron, PHP, mutt and mail(1); together and apart; what has no meaning is ignored."""
        for words, wanted in {
            "-i -FCronDaemon -B8BITMIME -oem root": Invocation(to=("root",), ignore_dots=True, full_name="CronDaemon"),
            "-t -i": Invocation(from_header=True, ignore_dots=True),
            "-ti -f a@b": Invocation(from_header=True, ignore_dots=True, sender="a@b"),
            "-oem -oi -fa@b -- x@y": Invocation(to=("x@y",), ignore_dots=True, sender="a@b"),
            "-r a@b -N never -R hdrs -V id -O Timeout=1 -odb -L tag -v x": Invocation(
                to=("x",), sender="a@b", notify="never", ret="hdrs", envid="id", verbose=True
            ),
            "-bs": Invocation(Mode.SMTP),
            "-bp": Invocation(Mode.QUEUE),
            "-I": Invocation(Mode.ALIASES),
            "-bm -C /etc/x x": Invocation(to=("x",), config="/etc/x"),
        }.items():
            self.assertEqual(invocation(words.split()), wanted, words)

    def test_addresses_are_no_options(self) -> None:
        """Behind the first address, and behind --, nothing is an option any more.

        Rule: Handing in: an address is never taken for an option
        """
        self.assertEqual(invocation(["x@y", "-fboss@z"]), Invocation(to=("x@y", "-fboss@z")))
        self.assertEqual(invocation(["-i", "--", "-C/etc/passwd"]), Invocation(to=("-C/etc/passwd",), ignore_dots=True))

    def test_refused(self) -> None:
        """What would mislead, what lacks its value, what nobody knows."""
        for words in (["-bd"], ["-bt"], ["-f"], ["-Z"], ["--help"], ["-B", "9BIT"]):
            self.assertRaises(UsageMistake, invocation, words)


class Verdicts(SynchronousTestCase):
    def test_status(self) -> None:
        """One number says what to do."""
        taken = Outcome(Kind.DELIVERED, "x", 250, phase=Phase.END)
        later, never = Outcome(Kind.DEFERRED, "x"), Outcome(Kind.FAILED, "x")
        for outcomes, wanted in (
            ([taken, taken], Verdict.TAKEN),
            ([taken, later], Verdict.PARTLY),
            ([later, never], Verdict.LATER),
            ([never, never], Verdict.REFUSED),
            ([by_tls("x"), by_tls("x")], Verdict.OURS),
        ):
            self.assertEqual(verdict(dict(zip((ALICE, BOB), outcomes, strict=True))), wanted)

    def test_ids(self) -> None:
        """What servers call the message in their replies."""
        for text, wanted in {
            "mx answered the message with 250 2.0.0 Ok: queued as 4XYZ12": "4XYZ12",
            "250 2.0.0 Ok: stored as ABCDEFGH": "ABCDEFGH",
            "250 OK id=1uAbCd-000001-2E": "1uAbCd-000001-2E",
            "250 2.0.0 Ok": "",
        }.items():
            self.assertEqual(queue_id(text), wanted)

    def test_told(self) -> None:
        """Those of one fate stand together; programs get every fact."""
        taken = Outcome(Kind.DELIVERED, "mx answered the message with 250 Ok: queued as 4XYZ", 250, host="mx")
        said = list(lines({ALICE: taken, BOB: taken}, message_id="<1@x>", size=1234))
        self.assertEqual(said[:2], ["Taken: alice@example.org, bob@example.net", "  by mx as 4XYZ"])
        self.assertEqual(said[-1], "Message-ID <1@x>, 1,234 octets")
        refused = list(lines({ALICE: by_tls("no TLS", "mx")}, message_id="<1@x>", size=1))
        self.assertEqual(refused[0], "Not sent: alice@example.org")
        told = facts({BOB: taken}, message_id="<1@x>", size=1, sender="")
        self.assertEqual((told["verdict"], told["recipients"][0]["id"]), ("taken", "4XYZ"))  # type: ignore[index]
