"""`mailsvc demo`: what it shows and hides, that it tells a lie from the truth, and that nothing is left of it.

The last two classes start the real thing in processes of their own; everything ends by itself within a time limit.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import mailsvc
from mailsvc.cli.demo import Fetched, Letter, compared
from mailsvc.cli.dialogue import CLIENT, SERVER, Spoken, Transcript
from mailsvc.cli.playground import playground
from mailsvc.errors import MailsvcError

ROOT = Path(mailsvc.__file__).resolve().parent.parent
LIMIT = 90.0
"""Seconds for the whole demo, on the slowest machine; it takes two or three."""

TRACE = (
    b"Return-Path: <a@example.org>\r\nDelivered-To: b@example.org\r\n"
    b"Received: from x\r\n\tby y;\r\n\tFri, 20 Nov 2026 21:42:47 +0000\r\n"
)


def shown(*lines: tuple[str, bytes], quoted: int = 20) -> list[str]:
    """What a transcript of these lines shows, each as "C: text"."""
    out: list[Spoken] = []
    transcript = Transcript(out.append, quoted)
    for who, line in lines:
        (transcript.sent if who == CLIENT else transcript.received)(line + b"\r\n")
    return [f"{spoken.who} {spoken.text}" for spoken in out]


class Masks(SynchronousTestCase):
    def test_the_initial_response_of_auth_is_not_shown(self) -> None:
        """The mechanism is, its data is not (RFC 4954 section 4)."""
        self.assertEqual(shown((CLIENT, b"AUTH PLAIN AGEAYg==")), ["C: AUTH PLAIN ********"])
        self.assertEqual(shown((CLIENT, b"auth login")), ["C: auth login"])

    def test_an_answer_to_a_challenge_is_not_shown(self) -> None:
        """Whatever it looks like, and only up to the next reply."""
        dialogue = shown(
            (CLIENT, b"AUTH LOGIN"),
            (SERVER, b"334 VXNlcm5hbWU6"),
            (CLIENT, b"NOOP"),
            (SERVER, b"334 UGFzc3dvcmQ6"),
            (CLIENT, b"c2VjcmV0"),
            (SERVER, b"235 2.7.0 ok"),
            (CLIENT, b"NOOP"),
        )
        self.assertEqual([line for line in dialogue if line.startswith("C")][1:], ["C: ********"] * 2 + ["C: NOOP"])

    @given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=9))
    @settings(deadline=None)
    def test_no_password_is_shown(self, password: str) -> None:
        """PASS hides its whole argument, spaces and all (RFC 1939 section 7)."""
        for line in (f"PASS {password}", f"pass a {password}"):
            self.assertEqual(shown((CLIENT, line.encode()))[0].partition(" ")[2][4:], " ********")


class Quotes(SynchronousTestCase):
    def test_a_message_is_cut_and_counted(self) -> None:
        """Behind 354 comes a message: its first lines, then how many there were, then its dot."""
        body = b"one\r\ntwo\r\nthree\r\nfour\r\n."
        self.assertEqual(
            shown((CLIENT, b"data"), (SERVER, b"354 go"), (CLIENT, body), (CLIENT, b"QUIT"), quoted=2)[2:],
            ["C: one", "C: two", "C: [... 2 lines more, 13 octets ...]", "C: .", "C: QUIT"],
        )

    def test_a_fetched_message_is_cut_and_counted(self) -> None:
        """What stands behind +OK is not taken for replies, a stuffed dot not for the end."""
        lines = [(SERVER, line) for line in (b"+OK", b"334 no challenge", b"..", b"-ERR", b".")]
        self.assertEqual(
            shown((CLIENT, b"RETR 1"), *lines, (CLIENT, b"PASS-not"), quoted=1)[2:],
            ["S: 334 no challenge", "S: [... 2 lines more, 10 octets ...]", "S: .", "C: PASS-not"],
        )

    def test_a_refused_command_has_no_lines(self) -> None:
        """-ERR is one line, and so is LIST with an argument."""
        for command, answer in ((b"RETR 9", b"-ERR no such message"), (b"LIST 1", b"+OK 1 2")):
            dialogue = shown((CLIENT, command), (SERVER, answer), (SERVER, b"334 x"), (CLIENT, b"c2VjcmV0"))
            self.assertEqual(dialogue[-1], "C: ********")

    def test_control_characters_are_spelled_out(self) -> None:
        """A message cannot colour the terminal, or write over what stands there."""
        self.assertEqual(shown((SERVER, b"250 \x1b[31mred\rback\xff")), ["S: 250 \\x1b[31mred\\rback\\xff"])


class Comparison(SynchronousTestCase):
    letter = Letter("A letter", b"Subject: x\r\n\r\nhello\r\n", 20)

    def held(self, octets: bytes, size: int | None = None) -> list[bool]:
        fetched = Fetched(len(octets) if size is None else size, octets)
        return [check.held for check in compared(self.letter, fetched)]

    def test_the_same_octets_behind_the_trace_hold(self) -> None:
        """Return-Path and Received are added, nothing else is changed."""
        self.assertEqual(self.held(TRACE + self.letter.octets), [True, True])

    def test_any_other_octet_does_not(self) -> None:
        """Missing trace, one field more, one octet less, one changed: each is seen."""
        for octets in (
            self.letter.octets,
            TRACE + b"X-Other: y\r\n" + self.letter.octets,
            TRACE + self.letter.octets[:-2],
            TRACE + self.letter.octets.replace(b"hello", b"Hello"),
            TRACE + b"\r\n" + self.letter.octets + b"\r\n",
        ):
            self.assertFalse(self.held(octets)[0], octets)

    def test_a_wrong_size_is_seen(self) -> None:
        """LIST must tell what RETR gives (RFC 1939 section 11)."""
        octets = TRACE + self.letter.octets
        self.assertEqual(self.held(octets, len(octets) + 1), [True, False])


class Playgrounds(SynchronousTestCase):
    def test_a_start_that_fails_is_a_sentence_and_leaves_nothing(self) -> None:
        """The folder is gone, the child has ended, and its log says why."""
        with self.assertRaises(MailsvcError) as caught, playground() as place:
            place.start(["-n", "--pidfile=", "mailsvc", "--certs", "nowhere/"])
        self.assertIn("status 1", str(caught.exception))
        assert place.service is not None
        self.assertIn("this folder for certificates does not exist", "\n".join(place.service.log))
        self.assertFalse(place.folder.exists())

    def test_signal_handlers_come_back(self) -> None:
        """Afterwards SIGTERM means what it meant before."""
        before = signal.getsignal(signal.SIGTERM)
        with playground():
            self.assertIs(signal.getsignal(signal.SIGTERM), signal.default_int_handler)
        self.assertIs(signal.getsignal(signal.SIGTERM), before)


class TheDemo(SynchronousTestCase):
    """The command in a process of its own, with a temporary folder of its own."""

    def start(self, environment: Sequence[tuple[str, str]] = ()) -> subprocess.Popen[str]:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.temporary = Path(folder.name)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MAILSVC_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "mailsvc", "demo"],
            cwd="/",
            env=clean | {"PYTHONPATH": str(ROOT), "TMPDIR": folder.name} | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        guard = threading.Timer(LIMIT, process.kill)
        guard.start()
        self.addCleanup(guard.cancel)
        self.addCleanup(process.stdout.close)  # type: ignore[union-attr]
        self.addCleanup(process.stderr.close)  # type: ignore[union-attr]
        return process

    def assert_nothing_is_left(self, said: str) -> None:
        """No file, and nobody who listens on a port that was told."""
        self.assertEqual(list(self.temporary.iterdir()), [])
        ports = re.findall(r"listens on 127\.0\.0\.1:(\d+)", said)
        self.assertNotEqual(ports, [])
        for port in ports:
            with socket.socket() as client:
                self.assertNotEqual(client.connect_ex(("127.0.0.1", int(port))), 0, f"port {port} is still open")

    def test_everything_matches_and_is_shown(self) -> None:
        """Status 0; both dialogues, the TLS facts, each comparison; no secret, no colour in a pipe; nothing left."""
        # What is configured for a real service must not reach the one of the demo.
        elsewhere = [("MAILSVC_CONFIG", "/nonexistent.toml"), ("MAILSVC_DATABASE", "/nonexistent/database")]
        process = self.start(environment=elsewhere)
        said, complaints = process.communicate()
        self.assertEqual((process.returncode, complaints), (0, ""), said)
        for fact in (
            "C: STARTTLS",
            "C: STLS",
            "C: AUTH PLAIN ********",
            "C: PASS ********",
            "S: 530 5.7.0 Must issue a STARTTLS command first",
            "-- chain and name verified by the client",
            "S: +OK bye",
        ):
            self.assertIn(f"  {fact}", said)
        self.assertEqual(len(re.findall(r"^  C: (RETR|DELE) \d$", said, re.M)), 6)
        self.assertEqual(len(re.findall(r"^  S: 250 2\.0\.0 Ok: stored as [A-Z2-7]{16}$", said, re.M)), 3)
        self.assertEqual(len(re.findall(r"^  ok  .*octets are identical", said, re.M)), 3)
        self.assertNotIn("  NO  ", said)
        self.assertNotIn("\x1b", said)
        self.assertRegex(said, r"\nAll \d+ hold\. ")
        self.assert_nothing_is_left(said)

    def test_an_interrupted_demo_leaves_nothing(self) -> None:
        """Ctrl-C and SIGTERM in the middle: status 1, the service has ended, the folder is gone."""
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start(environment=[("PYTHONUNBUFFERED", "1")])
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if "listens on" in line:
                    break
            process.send_signal(number)
            rest, complaints = process.communicate()
            self.assertEqual(process.returncode, 1, rest)
            self.assertEqual(complaints.strip(), "mailsvc: stopped; nothing more was done")
            self.assert_nothing_is_left(said + rest)
