"""Messages that break mail software, through the whole service: in by submission, out by POP3, byte for byte.

A message is sent with and without a last CRLF as far as SMTP can tell the two apart: it cannot, the end of a body is
CRLF.CRLF, so that one without gets one (RFC 5321 section 4.1.1.4).
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

from twisted.trial.unittest import SkipTest

from mailsvc.storage.database import offline
from mailsvc.storage.senders import set_check_sender
from tests.interop.programs import InteropCase
from tests.peer import pop3_session, send_message, submission_session
from tests.running import after_trace, crlf

HEADER = b"From: a@example.org\r\nSubject: nasty\r\n\r\n"
MEGABYTE = 1 << 20


class Nasty(InteropCase):
    def setUp(self) -> None:
        """These messages are about octets: the account may send in anybody's name."""
        super().setUp()
        with offline(str(self.service.database), create=False) as txn:
            set_check_sender(txn, self.user.address, False)

    def round_trip(self, *bodies: bytes) -> None:
        """Send all in one session through STARTTLS, fetch all in one session through STLS, and compare."""
        user, ca = self.user, self.service.ca
        with submission_session(self.port("submission"), ca, user.address, user.password, tls=False) as peer:
            for body in bodies:
                said = send_message(peer, user.address, user.address, body)
                self.assertTrue(said.startswith(b"250 "), said)
            peer.smtp(b"QUIT")
        with pop3_session(self.port("pop3"), ca, user.address, user.password, tls=False) as peer:
            for number, body in enumerate(bodies, 1):
                size = int(peer.pop3(b"RETR %d" % number).split()[1])
                fetched = peer.dotted()
                self.assertEqual(size, len(fetched))
                self.same(after_trace(fetched), body if body.endswith(b"\r\n") else body + b"\r\n")
            peer.pop3(b"QUIT")

    def same(self, got: bytes, sent: bytes) -> None:
        """Assert equality, without printing megabytes when there is none."""
        if got != sent:
            at = next((i for i, (a, b) in enumerate(zip(got, sent, strict=False)) if a != b), min(len(got), len(sent)))
            self.fail(
                f"{len(got)} octets came back for {len(sent)}; from {at} on: {got[at : at + 40]!r},"
                f" sent: {sent[at : at + 40]!r}"
            )

    def test_fifty_megabytes(self) -> None:
        """Lines of base64, as attachments have them."""
        random_line = random.Random(1).randbytes(38).hex().encode()  # 76 octets
        lines = [random_line[n % 76 :] + random_line[: n % 76] + b"\r\n" for n in range(76)]
        body = HEADER + b"".join(lines) * (50 * MEGABYTE // (76 * 78) + 1)
        self.assertGreaterEqual(len(body), 50 * MEGABYTE)
        self.round_trip(body)

    def test_a_header_of_a_megabyte(self) -> None:
        """In 20,000 fields, in one folded field, and in one line."""
        fields = b"".join(b"X-Field-%05d: %s\r\n" % (n, b"v" * 36) for n in range(20_000))
        folded = b"X-Folded: begin\r\n" + b"".join(b"\t%07d and so on\r\n" % n for n in range(MEGABYTE // 20))
        one = b"X-Long: " + b"v" * MEGABYTE + b"\r\n"
        self.round_trip(*(field + HEADER + b"body\r\n" for field in (fields, folded, one)))

    def test_a_hundred_thousand_lines(self) -> None:
        """Short ones, empty ones, and each with a dot at its beginning."""
        self.round_trip(
            HEADER + b"".join(b"line %d\r\n" % n for n in range(100_000)),
            HEADER + b"\r\n" * 100_000,
            HEADER + b".\r\n" * 100_000,
        )

    def test_one_line_of_a_megabyte(self) -> None:
        """Longer than any buffer on its way, with a dot in front, and without a line end."""
        self.round_trip(HEADER + b"." + b"x" * MEGABYTE, HEADER + b"x" * MEGABYTE + b"\r\n")

    def test_only_dots(self) -> None:
        """Nothing but dots, of every number, with and without a header."""
        dots = b"".join(b"." * n + b"\r\n" for n in range(1, 200))
        self.round_trip(dots, HEADER + dots, b".\r\n", b"..\r\n", HEADER + b".", b"." * 5000)

    def test_eight_bit_and_controls(self) -> None:
        """Every octet there is except CR and LF, and each of them at the beginning of a line."""
        octets = bytes(n for n in range(256) if n not in b"\r\n")
        self.round_trip(HEADER + octets + b"\r\n", HEADER + b"".join(b"%c\r\n" % n for n in octets), octets)

    def test_hardly_anything(self) -> None:
        """Empty, no header, no body, no empty line between, only line ends."""
        self.round_trip(
            b"\r\n",
            b"\r\n\r\n",
            b"no header\r\n",
            b"Subject: no empty line and no body\r\n",
            b"Subject: no body\r\n\r\n",
            b"Subject: the body begins without an empty line\r\nbody\r\n",
            HEADER + b"no final line end",
            b"x",
        )

    def test_nothing_at_all(self) -> None:
        """A body of no octets: the dot follows the 354."""
        user, ca = self.user, self.service.ca
        with submission_session(self.port("submissions"), ca, user.address, user.password, tls=True) as peer:
            said = send_message(peer, user.address, user.address, b"")
            self.assertTrue(said.startswith(b"250 "), said)
        with pop3_session(self.port("pop3s"), ca, user.address, user.password, tls=True) as peer:
            self.assertTrue(peer.pop3(b"RETR 1").startswith(b"+OK"))
            self.assertEqual(after_trace(peer.dotted()), b"")

    def test_the_messages_of_cpython(self) -> None:
        """The sample messages of Python's own email tests: years of odd mail, collected by others."""
        found = importlib.util.find_spec("test")
        folders = (found.submodule_search_locations if found is not None else None) or []
        files = [path for folder in folders for path in sorted(Path(folder).glob("test_email/data/*.txt"))]
        if not files:
            raise SkipTest("this Python comes without its own tests (on Debian: libpython3-testsuite)")
        self.round_trip(*(crlf(path.read_bytes().replace(b"\r", b"")) for path in files))
