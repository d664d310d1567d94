"""`mailsvc demo`: what it shows and hides, and that it tells a lie from the truth.

The real thing, in processes of its own, is in ``tests/system/test_demo.py``.
"""

from __future__ import annotations

import signal

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.cli.demo import Fetched, Letter, compared
from mailsvc.cli.dialogue import CLIENT, SERVER, Spoken, Transcript
from mailsvc.cli.playground import playground

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
    def test_signal_handlers_come_back(self) -> None:
        """Afterwards SIGTERM means what it meant before."""
        before = signal.getsignal(signal.SIGTERM)
        with playground():
            self.assertIs(signal.getsignal(signal.SIGTERM), signal.default_int_handler)
        self.assertIs(signal.getsignal(signal.SIGTERM), before)
