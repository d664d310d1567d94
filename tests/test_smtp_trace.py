"""The trace header that every message gets, and who may be a recipient."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.policy import SMTP
from email.utils import parsedate_to_datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import Address, parse_address
from mailsvc.mail.channel import TLSFacts
from mailsvc.mail.envelope import Envelope, Origin
from mailsvc.smtp.modes import SUBMISSION
from mailsvc.smtp.recipients import ACCEPTED, RecipientFacts, judgement
from mailsvc.smtp.session import Session
from mailsvc.smtp.trace import delivery_header, peer_literal, protocol_keyword, tls_clause, trace_header
from tests.memory import MX_OPTIONAL

ALICE, BOB, EVE = map(parse_address, ("alice@example.org", '"b b"@example.org', "eve@example.net"))
TLS = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "X25519MLKEM768", "mail.example.org")


def header(**changes: object) -> bytes:
    """A trace header; the arguments replace parts of the envelope."""
    values: dict[str, object] = {
        "reverse_path": EVE,
        "recipients": (ALICE,),
        "peer": "192.0.2.7",
        "helo": "client.example.net",
        "protocol": "ESMTPS",
        "tls": TLS,
        "login": None,
        **changes,
    }
    origin = Origin(*(values[name] for name in ("peer", "helo", "protocol", "tls", "login")))  # type: ignore[arg-type]
    envelope = Envelope(values["reverse_path"], values["recipients"], origin)  # type: ignore[arg-type]
    return trace_header(envelope, hostname="mail.example.org", trace_id="ID1", now=1_700_000_000.0)


class TraceTests(SynchronousTestCase):
    """RFC 5321 section 4.4."""

    def test_whole(self) -> None:
        """The header of a message that came by TLS, to the letter.

        Rule: Received, with the keyword of the protocol
        """
        self.assertEqual(
            header().decode().split("\r\n"),
            [
                "Received: from client.example.net ([192.0.2.7])",
                "\tby mail.example.org with ESMTPS",
                "\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256 bits), group X25519MLKEM768;",
                "\tclient certificate: not asked)",
                "\tid ID1",
                "\tfor <alice@example.org>;",
                "\tTue, 14 Nov 2023 22:13:20 +0000",
                "",
            ],
        )

    def test_in_clear(self) -> None:
        """Without TLS nothing is said of TLS."""
        self.assertNotIn(b"TLS", header(tls=None, protocol="ESMTP"))

    def test_several_recipients(self) -> None:
        """With several recipients none is named: each would learn of the others."""
        octets = header(recipients=(ALICE, BOB))
        self.assertNotIn(b"for <", octets)
        self.assertNotIn(b"alice", octets)

    def test_null_sender(self) -> None:
        """The null sender is <>, in the header of a maildrop; on its way a message has no Return-Path.

        Rule: Return-Path
        """
        self.assertEqual(delivery_header("", str(ALICE)), b"Return-Path: <>\r\nDelivered-To: alice@example.org\r\n")
        self.assertNotIn(b"Return-Path", header(reverse_path=None))

    def test_login_is_not_told(self) -> None:
        """Who has logged in is nobody else's business; that somebody has is in the protocol's name."""
        self.assertEqual(header(login=ALICE), header())

    def test_group_unknown(self) -> None:
        """A key agreement that OpenSSL does not tell is left out."""
        clause = tls_clause(TLSFacts("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256", 128, None, None))
        self.assertEqual(
            clause,
            "(using TLSv1.2 with cipher ECDHE-RSA-AES128-GCM-SHA256 (128 bits);\r\n\tclient certificate: not asked)",
        )

    @settings(deadline=None)
    @given(
        st.sampled_from((ALICE, BOB, EVE, None)),
        st.lists(st.sampled_from((ALICE, BOB)), min_size=1, max_size=3, unique=True),
        st.from_regex(r"[A-Za-z0-9._:\[\]-]{1,255}\Z", fullmatch=True),
        st.sampled_from(("192.0.2.7", "2001:db8::1", "local")),
        st.sampled_from((TLS, None)),
    )
    def test_a_parser_agrees(
        self, sender: object, recipients: list[Address], helo: str, peer: str, tls: object
    ) -> None:
        """A parser of mail finds one field and no defect; every line is far below 998 octets and ends in CRLF.

        Rule: No NUL, CR or LF reaches a header
        """
        octets = header(reverse_path=sender, recipients=tuple(recipients), helo=helo, peer=peer, tls=tls)
        for line in octets.splitlines(keepends=True):
            self.assertLess(len(line), 900)
            self.assertTrue(re.fullmatch(rb"[ -~\t]+\r\n", line), line)
        message = message_from_bytes(octets + b"\r\nbody\r\n", policy=SMTP)
        self.assertEqual((message.keys(), message.defects), (["Received"], []))
        self.assertEqual(message.get_payload(), "body\r\n")
        date = str(message["Received"]).rpartition(";")[2]
        self.assertEqual(parsedate_to_datetime(date).timestamp(), 1_700_000_000)

    def test_peer(self) -> None:
        """An address is a literal (RFC 5321 section 4.1.3), anything else stays what it is."""
        self.assertEqual(peer_literal("192.0.2.7"), "[192.0.2.7]")
        self.assertEqual(peer_literal("2001:DB8::1"), "[IPv6:2001:db8::1]")
        self.assertEqual(peer_literal("local"), "local")

    def test_protocol(self) -> None:
        """RFC 3848: S for TLS, A for AUTH; HELO is SMTP.

        Rule: Received, with the keyword of the protocol
        """
        for secured, login, esmtp, word in (
            (False, None, True, "ESMTP"),
            (True, None, True, "ESMTPS"),
            (True, ALICE, True, "ESMTPSA"),
            (False, None, False, "SMTP"),
            (True, None, False, "SMTP"),
        ):
            mode = SUBMISSION if login else MX_OPTIONAL
            session = Session(mode, secured=secured, helo="x", esmtp=esmtp, login=login)
            self.assertEqual(protocol_keyword(session), word)


class RecipientTests(SynchronousTestCase):
    """The judgement of a recipient."""

    def test_table(self) -> None:
        """Ours and known: 250; ours and unknown: 5.1.1; disabled: 5.2.1; not ours: 5.7.1."""
        for local, account, disabled, authenticated, expected in (
            (True, 1, False, False, "250 2.1.5"),
            (True, 1, False, True, "250 2.1.5"),
            (True, None, False, False, "550 5.1.1"),
            (True, None, False, True, "550 5.1.1"),
            (True, 1, True, False, "550 5.2.1"),
            (False, None, False, False, "550 5.7.1 Relaying denied"),
            (False, None, False, True, "550 5.7.1 relaying is not configured"),
        ):
            answer = judgement(RecipientFacts(local, account, disabled), authenticated=authenticated)
            self.assertTrue(str(answer).startswith(expected), answer)
            self.assertEqual(answer is ACCEPTED, expected.startswith("250"))
