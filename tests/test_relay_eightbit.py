"""Eight bits made seven: what a reader decodes stays the same, and what must not be touched is not."""

from __future__ import annotations

import email
from email.message import Message

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.eightbit import Converter, Survey, Surveyor
from tests.memory import cut_at


def survey(message: bytes, cuts: list[int] | None = None) -> Survey:
    surveyor = Surveyor()
    for piece in cut_at(message, cuts or []):
        surveyor.feed(piece)
    return surveyor.close()


def converted(message: bytes, cuts: list[int] | None = None) -> bytes:
    converter, out = Converter(survey(message, cuts)), b""
    for piece in cut_at(message, cuts or []):
        converter.feed(piece)
        out += converter.take()
    return out + converter.close()


def leaves(message: bytes) -> list[tuple[str, bytes]]:
    """Type and decoded content of every part that has no parts."""
    found = []
    for part in email.message_from_bytes(message).walk():
        if not part.is_multipart():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found.append((part.get_content_type(), content))
    return found


def multipart(*parts: bytes, kind: str = "mixed", boundary: str = "=_b") -> bytes:
    head = f'MIME-Version: 1.0\r\nContent-Type: multipart/{kind}; boundary="{boundary}"\r\n'
    body = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts)
    return f"{head}Content-Transfer-Encoding: 8bit\r\n\r\n".encode() + body + f"--{boundary}--\r\n".encode()


HEAD = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
TEXT = HEAD + "Grüße aus dem Norden, \t\r\n".encode()
BINARY = b"Content-Type: image/png\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + bytes(range(128, 256)) * 20
PLAIN = b"Content-Type: text/plain\r\n\r\nnothing to do, =3D is not touched\r\n"

LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"", b".", b"--", b"--=_b-", b" ", b"=", b"\xc3\xa4 \t", b"a" * 200, b"\xe4" * 5000, b"From "]
        ),
        st.binary(max_size=90).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b"")),
    ),
    max_size=20,
)


class SevenBits(SynchronousTestCase):
    def test_parts_are_encoded_each_in_its_way(self) -> None:
        """Text becomes quoted-printable, other octets base64, what is ASCII stays as it is."""
        message = multipart(TEXT, BINARY, PLAIN, multipart(TEXT, boundary="inner"))
        made = converted(message)
        self.assertTrue(made.isascii())
        self.assertEqual(leaves(made), leaves(message))
        self.assertIn(PLAIN, made)
        self.assertNotIn(b"8bit", made)
        self.assertIn(b"Content-Transfer-Encoding: base64", made)
        self.assertIn(b"Gr=C3=BC=C3=9Fe aus dem Norden, =09\r\n", made)
        self.assertLess(max(map(len, made.split(b"\r\n"))), 77)

    def test_a_message_within(self) -> None:
        """An attached message is not encoded itself (RFC 2046 section 5.2.1): its parts are."""
        attached = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: x\r\n" + TEXT
        for message in (multipart(attached, TEXT), multipart(b"\r\nSubject: x\r\n" + TEXT, kind="digest")):
            made = converted(message)
            self.assertTrue(made.isascii())
            self.assertEqual(leaves(made), leaves(message))

    def test_a_message_without_mime(self) -> None:
        """It gets a header that says what is known: nothing (RFC 1428)."""
        made = converted(b"Subject: x\r\n\r\nol\xe9 ol\xe9 ol\xe9, said the old man\r\n")
        parsed: Message = email.message_from_bytes(made)
        self.assertEqual(parsed["Content-Type"], "text/plain; charset=unknown-8bit")
        self.assertEqual(parsed["MIME-Version"], "1.0")
        self.assertEqual(parsed.get_payload(decode=True), b"ol\xe9 ol\xe9 ol\xe9, said the old man\r\n")
        bodyless = b"\xe9\xe9 and a great many letters more\r\n"
        self.assertEqual(survey(bodyless).header_8bit, True)

    def test_what_is_refused(self) -> None:
        """A header beyond ASCII, what is signed, what is encoded already, and what nobody can place."""
        high = b"\xc3\xa4\r\n"
        self.assertTrue(survey(b"Subject: " + high + b"\r\nx\r\n").header_8bit)
        self.assertTrue(survey(multipart(b"Content-Description: " + high + b"\r\nx")).header_8bit)
        self.assertIn("signed", survey(multipart(TEXT, PLAIN, kind="signed")).obstacle)
        self.assertIn("signed", survey(multipart(multipart(TEXT, boundary="i"), kind="signed")).obstacle)
        self.assertIn("quoted-print", survey(TEXT.replace(b": 8bit", b": quoted-printable")).obstacle)
        self.assertIn("between", survey(multipart(PLAIN) + high).obstacle)
        deep = PLAIN
        for number in range(60):
            deep = multipart(deep, boundary=f"b{number}")
        self.assertIn("too deep", survey(deep).obstacle)
        self.assertIn("parts", survey(multipart(*[b"\r\n"] * 10_001)).obstacle)
        for text in (TEXT, multipart(TEXT), multipart(PLAIN, kind="signed")):
            self.assertEqual(survey(text).obstacle, "")

    @settings(deadline=None, max_examples=150)
    @given(LINES, LINES, st.lists(st.integers(0, 2000), max_size=20), st.booleans())
    def test_nothing_is_lost_in_any_cut(
        self, first: list[bytes], second: list[bytes], cuts: list[int], whole: bool
    ) -> None:
        """Seven bits come out, a reader decodes the same octets, and pieces make no difference."""
        head = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        bodies = [head + b"\r\n".join(lines) for lines in (first, second)]
        message = head + b"\r\n".join(first) + b"\r\n" if whole else multipart(*bodies)
        found = survey(message)
        self.assertEqual(found, survey(message, cuts))
        self.assertEqual(found.eight_bit, not message.isascii())
        made = converted(message)
        self.assertTrue(made.isascii())
        self.assertEqual(leaves(made), leaves(message))
        self.assertEqual(converted(message, cuts), made)
