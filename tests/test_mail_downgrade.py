"""Header fields in ASCII: the rules of RFC 6857 section 3, field by field, and what holds for every field."""

from __future__ import annotations

import email
import email.policy
from email.header import decode_header, make_header

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.downgrade import LONGEST, downgraded_field
from mailsvc.mail.encoded import UNKNOWN, UTF_8, encoded_words

NAMES = [
    *("From", "To", "Cc", "Reply-To", "Return-Path", "Delivered-To", "Subject", "Date", "Message-ID", "References"),
    *("Received", "Content-Type", "Content-Disposition", "Keywords", "Original-Recipient", "List-Id", "X-Anything"),
]
PIECES = [
    *(
        "ö",
        "a",
        " ",
        "\r\n ",
        "<",
        ">",
        "@",
        ",",
        ":",
        ";",
        "(",
        ")",
        '"',
        "\\",
        "=",
        "*0",
        "bü.de",
        "for",
        "id",
        "from",
    ),
    *("\xff", "=?utf-8?q?x?=", "utf-8;", "name=", "\0", ".", "[", "]"),
]


def down(text: str) -> str:
    return downgraded_field(text.encode() + b"\r\n").decode("ascii").removesuffix("\r\n")


def value(text: str) -> str:
    """What a reader shows of a field."""
    return str(make_header(decode_header(text.replace("\r\n", "").partition(": ")[2])))


class Kinds(SynchronousTestCase):
    def test_addresses(self) -> None:
        """Names become encoded words, domains A-labels, and what ASCII cannot say the name of an empty group.

        Rule: UTF8: before it, an internationalised message is downgraded.
        """
        for given_, expected in {
            "From: Jörg <joerg@example.org>": "From: =?utf-8?q?J=C3=B6rg?= <joerg@example.org>",
            "To: info@bücher.example": "To: info@xn--bcher-kva.example",
            "To: a@b.example,Ö<x@bücher.example>": "To: a@b.example, =?utf-8?b?w5Y=?= <x@xn--bcher-kva.example>",
            "Cc: ö@b.example": "Cc: =?utf-8?q?=C3=B6=40b=2Eexample?= :;",
            "Return-Path: <ö@b.example>": "Return-Path: =?utf-8?q?=C3=B6=40b=2Eexample?= :;",
            "To: Ann <ö@b.example> (hi)": "To: Ann =?utf-8?q?=C3=B6=40b=2Eexample?= :; (hi)",
            "To: all: a@b.example, c@bü.example;": "To: all: a@b.example, c@xn--b-eha.example;",
            "To: all: a@b.example, ü@b.example;, d@e.example": (
                "To: all =?utf-8?q?a=40b=2Eexample=2C_=C3=BC=40b=2Eexample?= :;, d@e.example"
            ),
            "From: a@b.example (Ö (ü) x)": "From: a@b.example (=?utf-8?b?w5Y=?= (=?utf-8?b?w7w=?=) x)",
        }.items():
            self.assertEqual(down(given_), expected)

    def test_an_address_is_told_apart_from_the_name_before_it(self) -> None:
        """Readers drop the white space between two encoded words, so that it stands inside the second."""
        self.assertEqual(value(down("From: Jörg <jö@b.example>")), "Jörg jö@b.example :;")

    def test_an_address_never_becomes_another_one(self) -> None:
        """Only the domain is converted; nobody can answer to what was lost."""
        for field in (
            "From: ö <ö@b.example>", "From: boss@ex.example <ö@b.example>", "From: a: ö@b.example, x@y.example;",
            "From: boss@ex.example ö", "From: boss@ex .example ö@b.example", "From: boss@ex.example, (ö",
            "From: ö a@b c@d",
        ):  # fmt: skip
            message = email.message_from_bytes(down(field).encode() + b"\r\n\r\n", policy=email.policy.default)
            self.assertEqual(message["from"].addresses, ())

    def test_other_fields(self) -> None:
        """Message ids are encapsulated, clauses of Received left out, MIME values written as RFC 2231 has it."""
        for given_, expected in {
            "Message-ID: <ö@b>": "Downgraded-Message-ID: =?utf-8?b?PMO2QGI+?=",
            "References: <a@b> (ö)": "References: <a@b> (=?utf-8?b?w7Y=?=)",
            "Date: Mon, 1 Jan 2024 00:00:00 +0100 (ö)": "Date: Mon, 1 Jan 2024 00:00:00 +0100 (=?utf-8?b?w7Y=?=)",
            "Received: from bü.example by c\r\n\tid x\r\n\tfor <ö@b>;\r\n\tMon": (
                "Received: from xn--b-eha.example by c\r\n\tid x\r\n\t;\r\n\tMon"
            ),
            "Received: from ö_ö by c id ö for <a@bü.example>; Mon": (
                "Received: from (=?utf-8?b?w7Zfw7Y=?=) by c for <a@xn--b-eha.example>; Mon"
            ),
            'Content-Type: a/b; name="ü.txt"; x=y': "Content-Type: a/b; name*=utf-8''%C3%BC.txt; x=y",
            "Content-Type: a/b; n*0=abc; n*1=ü": "Content-Type: a/b; n*0*=utf-8''abc; n*1*=%C3%BC",
            "Content-Disposition: x; filename=ü; filename*=utf-8''%C3%BC": (
                "Content-Disposition: x; filename*=utf-8''%C3%BC"
            ),
            "Keywords: a, ö b": "Keywords: a, =?utf-8?b?w7Y=?= b",
            "Original-Recipient: utf-8; mü@b.example": "Original-Recipient: utf-8; m\\x{FC}@b.example",
            "Final-Recipient: x400; mü": "Downgraded-Final-Recipient: x400; =?utf-8?b?bcO8?=",
            "X-Own: a ö =?utf-8?q?b?=": "X-Own: a =?utf-8?b?w7Yg?= =?utf-8?q?b?=",
            "From: (ö": "From: =?utf-8?b?KMO2?= :;",
            "no field ö": "no field ??",
        }.items():
            self.assertEqual(down(given_), expected)

    def test_octets_that_are_no_utf_8_are_kept(self) -> None:
        """They are named for what they are (RFC 1428)."""
        self.assertEqual(downgraded_field(b"Subject: caf\xe9 a\r\n"), b"Subject: =?unknown-8bit?q?caf=E9?= a\r\n")

    def test_a_field_without_bounds_costs_little(self) -> None:
        """Beyond a limit nobody looks for addresses; the result is ASCII all the same."""
        field = b"To: " + "ö@b,".encode() * LONGEST + b"\r\n"
        self.assertTrue(downgraded_field(field).isascii())
        for name, written in (("To", "=?utf-8?b?w7ZAYiwgYw==?= :;"), ("Received", "=?utf-8?b?w7ZAYiwgYw==?=")):
            self.assertEqual(
                downgraded_field(f"{name}: ö@b,\r\n c\r\n".encode(), closely=False), f"{name}: {written}\r\n".encode()
            )
        long_id = downgraded_field("Message-ID: <ö@b>\r\n".encode(), closely=False)
        self.assertEqual(long_id, b"Downgraded-Message-ID: =?utf-8?b?PMO2QGI+?=\r\n")


class Always(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.sampled_from(NAMES), st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=60))
    def test_text(self, name: str, text: str) -> None:
        """The result is one ASCII field, no line of it is empty, and to downgrade it again changes nothing."""
        field = f"{name}: {text}\r\n".encode()
        written = downgraded_field(field)
        self.check(field, written)

    @settings(deadline=None)
    @given(st.sampled_from(NAMES), st.lists(st.sampled_from(PIECES), max_size=25))
    def test_structure(self, name: str, pieces: list[str]) -> None:
        """So it is for anything that looks like structure, with octets that are no UTF-8 too."""
        field = f"{name}: ".encode() + b"".join(b"\xff" if piece == "\xff" else piece.encode() for piece in pieces)
        self.check(field + b"\r\n", downgraded_field(field + b"\r\n"))

    def check(self, field: bytes, written: bytes) -> None:
        self.assertTrue(written.isascii())
        self.assertTrue(written.endswith(b"\r\n"))
        if field.isascii():
            self.assertEqual(written, field)
        else:
            for line in written.split(b"\r\n")[1:-1]:
                self.assertIn(line[:1], (b" ", b"\t"))
                self.assertTrue(line.strip(b" \t"), written)
        self.assertEqual(downgraded_field(written), written)
        message = email.message_from_bytes(written + b"\r\nbody", policy=email.policy.default)
        self.assertEqual(len(message.keys()), 1)

    @settings(deadline=None)
    @given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=300))
    def test_a_subject_is_read_as_it_was_written(self, text: str) -> None:
        """Nothing is lost, whatever its length; no line is longer than RFC 2047 section 2 allows."""
        written = down(f"Subject: a {text} b")
        self.assertEqual(value(written), f"a {text} b")
        if not text.isascii():
            self.assertLessEqual(max(len(line) for line in written.split("\r\n")[1:] or [""]), 78)

    @settings(deadline=None)
    @given(st.text(st.characters(codec="utf-8"), max_size=200), st.integers(0, 90))
    def test_encoded_words(self, text: str, first: int) -> None:
        """Each is short, whole characters, and what they say together is the text (RFC 2047 sections 2 and 5)."""
        words = encoded_words(text, UTF_8, first)
        self.assertLessEqual(max(map(len, words)), 75)
        octets = [decode_header(word)[0][0] for word in words]
        self.assertEqual("".join(part.decode() if isinstance(part, bytes) else part for part in octets), text)

    def test_no_charset_is_guessed(self) -> None:
        """One octet is one character of what is unknown."""
        self.assertEqual(encoded_words("\xe9", UNKNOWN), ["=?unknown-8bit?b?6Q==?="])
