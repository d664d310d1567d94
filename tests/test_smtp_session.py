"""The rules of an SMTP session: every verb in every phase, in clear and inside TLS, on every listener."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import parse_address
from mailsvc.smtp.extensions import EXTENSIONS, Figures, keywords, parameters
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS, lmtp
from mailsvc.smtp.session import (
    BEFORE_TLS,
    VERBS,
    WITHOUT_ARGUMENT,
    Phase,
    Session,
    after_chunk,
    after_greeting,
    after_login,
    after_mail,
    after_rcpt,
    after_starttls,
    after_transaction,
    refusal,
)
from tests.memory import MODES, MX, MX_OPTIONAL

ALICE = parse_address("alice@example.org")

# What is answered inside TLS after EHLO, without an argument, by phase; "" where the verb may run.
# On the submission listeners AUTH and MAIL depend on the login too: those have tests of their own.
TABLE = """
verb      START  READY  MAIL   RCPT   CHUNKS
EHLO      -      -      -      -      -
HELO      -      -      -      -      -
LHLO      500    500    500    500    500
STARTTLS  503    503    503    503    503
AUTH      502    502    502    502    502
MAIL      503    -      503    503    503
RCPT      503    503    -      -      503
DATA      503    503    554    -      503
BDAT      503    503    554    -      -
RSET      -      -      -      -      -
NOOP      -      -      -      -      -
QUIT      -      -      -      -      -
VRFY      -      -      -      -      -
HELP      -      -      -      -      -
EXPN      500    500    500    500    500
TURN      500    500    500    500    500
X         500    500    500    500    500
"""


def rows(table: str) -> Iterator[tuple[str, Phase, str]]:
    """(verb, phase, cell) for each cell of a table."""
    head, *lines = table.strip().splitlines()
    for line in lines:
        verb, *cells = line.split()
        for name, cell in zip(head.split()[1:], cells, strict=True):
            yield verb, Phase[name], cell


def code(verb: str, session: Session, argument: str = "") -> str:
    """The code of the refusal, "-" when the verb may run."""
    refused = refusal(verb, argument, session)
    return "-" if refused is None else str(refused.code)


def sessions() -> Iterator[Session]:
    """Every session that there can be."""
    for mode, phase, secured, esmtp, login in product(
        MODES.values(), Phase, (False, True), (False, True), (None, ALICE)
    ):
        yield Session(mode, phase, secured, "client.example.net", esmtp, login)


class TableTests(SynchronousTestCase):
    """RFC 5321 section 4.1.4."""

    def test_every_verb_in_every_phase(self) -> None:
        """The table above is what holds on an MX inside TLS; it names every verb that exists."""
        for verb, phase, expected in rows(TABLE):
            for mode in (MX, MX_OPTIONAL):
                session = Session(mode, phase, secured=True, helo="x", esmtp=True)
                self.assertEqual(code(verb, session), expected, f"{verb} in {phase.name}")
        self.assertLess(set(VERBS), {verb for verb, _, _ in rows(TABLE)})

    def test_without_tls_where_it_is_optional(self) -> None:
        """Without TLS the same holds where TLS is optional, but for STARTTLS, which may run in every phase."""
        for verb, phase, expected in rows(TABLE):
            session = Session(MX_OPTIONAL, phase, helo="x", esmtp=True)
            self.assertEqual(code(verb, session), "-" if verb == "STARTTLS" else expected, f"{verb} in {phase.name}")

    def test_before_tls(self) -> None:
        """Where TLS is required all but EHLO, NOOP, STARTTLS and QUIT is 530 5.7.0 before it, unknown verbs too."""
        self.assertEqual(BEFORE_TLS, {"EHLO", "LHLO", "NOOP", "STARTTLS", "QUIT"})
        for session in sessions():
            if not session.mode.requires_tls or session.secured:
                continue
            for verb in {*VERBS, "", "X", "EXPN"}:
                if verb == "LHLO":
                    self.assertEqual(code(verb, session), "500")
                    continue
                if verb in BEFORE_TLS:
                    self.assertEqual(code(verb, session), "-")
                    continue
                for argument in ("", "something"):
                    refused = refusal(verb, argument, session)
                    self.assertEqual(str(refused), "530 5.7.0 Must issue a STARTTLS command first", verb)

    def test_every_mode_but_one_requires_tls(self) -> None:
        """Only the MX listener can be told to do without."""
        self.assertEqual([mode.requires_tls for mode in (MX, MX_OPTIONAL, SUBMISSION, SUBMISSIONS)], [1, 0, 1, 1])

    def test_arguments(self) -> None:
        """STARTTLS, DATA, RSET and QUIT take no argument, whatever the phase."""
        self.assertEqual(WITHOUT_ARGUMENT, {"STARTTLS", "DATA", "RSET", "QUIT"})
        for verb, phase in product(WITHOUT_ARGUMENT, Phase):
            self.assertEqual(code(verb, Session(MX, phase, secured=True), "x"), "501")
        self.assertEqual(code("STARTTLS", Session(MX), "x"), "501")

    def test_submission_wants_a_login(self) -> None:
        """MAIL is 530 5.7.0 before AUTH on the submission listeners, and free after it."""
        for mode in (SUBMISSION, SUBMISSIONS):
            session = Session(mode, Phase.READY, secured=True, helo="x", esmtp=True)
            self.assertEqual(str(refusal("MAIL", "", session)), "530 5.7.0 Authentication required")
            self.assertEqual(code("MAIL", after_login(session, ALICE, 1)), "-")

    def test_auth(self) -> None:
        """AUTH: once, on the submission listeners, inside TLS, after EHLO, outside a transaction (RFC 4954)."""
        for session in sessions():
            if session.mode.requires_tls and not session.secured:
                expected = "530"
            elif not session.mode.offers_auth or not session.secured:
                expected = "502"
            elif session.login is not None or session.phase is not Phase.READY or not session.esmtp:
                expected = "503"
            else:
                expected = "-"
            self.assertEqual(code("AUTH", session, "PLAIN"), expected, session)

    def test_helo_is_enough_for_mail(self) -> None:
        """A client of the old kind may send mail."""
        self.assertEqual(code("MAIL", after_greeting(Session(MX, secured=True), "x", esmtp=False)), "-")

    def test_all_refusals(self) -> None:
        """Every refusal has an enhanced status code of its class and keeps the connection (RFC 2034).

        Rule: ENHANCEDSTATUSCODES
        """
        for session, verb in product(sessions(), (*VERBS, "X")):
            for argument in ("", "x"):
                refused = refusal(verb, argument, session)
                if refused is not None:
                    self.assertEqual(refused.enhanced[:2], f"{refused.code // 100}.")
                    self.assertFalse(refused.closes)


class TransitionTests(SynchronousTestCase):
    """What successful commands change."""

    def test_starttls_wipes_the_slate(self) -> None:
        """After the handshake nothing is left but the mode: a new session (RFC 3207 section 4.2)."""
        for session in sessions():
            self.assertEqual(after_starttls(session), Session(session.mode, secured=True))

    def test_a_transaction(self) -> None:
        """EHLO, MAIL, RCPT, end of data."""
        session = after_greeting(Session(MX, secured=True), "client", esmtp=True)
        self.assertEqual((session.phase, session.helo, session.esmtp), (Phase.READY, "client", True))
        self.assertFalse(session.in_transaction)
        session = after_mail(session)
        self.assertEqual((session.phase, session.in_transaction), (Phase.MAIL, True))
        session = after_rcpt(after_rcpt(session))
        self.assertEqual((session.phase, session.in_transaction), (Phase.RCPT, True))
        self.assertEqual(after_transaction(session).phase, Phase.READY)

    def test_rset_does_not_greet(self) -> None:
        """RSET before EHLO does not make MAIL valid."""
        self.assertEqual(after_transaction(Session(MX, secured=True)).phase, Phase.START)

    def test_greeting_ends_a_transaction_and_keeps_the_login(self) -> None:
        """EHLO in a transaction is as RSET (RFC 5321 section 4.1.4); who has logged in stays so."""
        session = replace(Session(SUBMISSION, Phase.RCPT, secured=True), login=ALICE)
        greeted = after_greeting(session, "again", esmtp=True)
        self.assertEqual((greeted.phase, greeted.login, greeted.helo), (Phase.READY, ALICE, "again"))

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(sorted(VERBS)), max_size=30), st.sampled_from(list(MODES.values())))
    def test_any_dialogue(self, verbs: list[str], mode: object) -> None:
        """However the verbs follow each other: no mail without a greeting, a sender and a recipient since then, and
        none in clear where TLS is required."""
        session = Session(mode)  # type: ignore[arg-type]
        seen: list[str] = []
        for verb in verbs:
            if refusal(verb, "", session) is not None:
                continue
            seen.append(verb)
            match verb:
                case "EHLO" | "HELO":
                    session = after_greeting(session, "x", esmtp=verb == "EHLO")
                case "STARTTLS":
                    session, seen = after_starttls(session), []
                case "AUTH":
                    session = after_login(session, ALICE, 1)
                case "MAIL":
                    session = after_mail(session)
                case "RCPT":
                    session = after_rcpt(session)
                case "RSET":
                    session = after_transaction(session)
                case "BDAT" if session.phase is Phase.RCPT:
                    session = after_chunk(session)
                case "DATA" | "BDAT":
                    transaction = seen[len(seen) - seen[::-1].index("MAIL") - 1 :]
                    self.assertLessEqual(
                        set(transaction), {"MAIL", "RCPT", "DATA", "BDAT", "NOOP", "VRFY", "HELP", "QUIT"}
                    )
                    self.assertIn("RCPT", transaction)
                    self.assertTrue({"EHLO", "HELO"} & set(seen))
                    self.assertTrue(session.secured or not session.mode.requires_tls)
                    self.assertTrue(session.login is not None or not session.mode.requires_login)
                    session = after_transaction(session)


class LMTPTests(SynchronousTestCase):
    """RFC 2033."""

    def test_its_own_greeting(self) -> None:
        """LMTP has LHLO and neither EHLO nor HELO, SMTP the other way round (section 4.1).

        Rule: LMTP: its own greeting
        """
        session = Session(lmtp(requires_tls=False))
        self.assertEqual([code(verb, session) for verb in ("LHLO", "EHLO", "HELO")], ["-", "500", "500"])
        self.assertEqual(str(refusal("MAIL", "", session)), "503 5.5.1 Send LHLO first")

    def test_no_recipient(self) -> None:
        """DATA and BDAT are 503, not 554, when no recipient was accepted (section 4.2)."""
        session = Session(lmtp(requires_tls=False), Phase.MAIL, helo="x", esmtp=True)
        self.assertEqual([code(verb, session) for verb in ("DATA", "BDAT")], ["503", "503"])

    def test_no_login(self) -> None:
        """There is no AUTH."""
        session = Session(lmtp(requires_tls=True), Phase.READY, secured=True, helo="x", esmtp=True)
        self.assertEqual(code("AUTH", session), "502")


class ExtensionTests(SynchronousTestCase):
    """The EHLO keywords, each only where it holds, and the parameters that come with them."""

    FIGURES = Figures(1000, 5, 7, ("PLAIN", "LOGIN"), 60, "2030-01-31T09:00:00Z")

    def test_all(self) -> None:
        """What is told in every session, in its order."""
        for session in sessions():
            expected = ["SIZE 1000", "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "CHUNKING", "DSN"]
            expected += ["LIMITS MAILMAX=5 RCPTMAX=7"]
            if not session.secured:
                expected += ["STARTTLS"]
            if session.secured:
                expected += ["REQUIRETLS"]
                if session.mode.offers_auth and session.login is None:
                    expected += ["AUTH PLAIN LOGIN"]
            if session.mode.requires_login:
                expected += ["FUTURERELEASE 60 2030-01-31T09:00:00Z"]
            self.assertEqual(list(keywords(session, self.FIGURES)), expected)

    def test_switched_off(self) -> None:
        """Limits that are none are not told, nor is a release that is not possible.

        Rule: LIMITS
        """
        session = Session(SUBMISSION, Phase.READY, secured=True, helo="x", esmtp=True)
        told = " ".join(keywords(session, Figures(1000)))
        for keyword in ("LIMITS", "FUTURERELEASE", "AUTH"):
            self.assertNotIn(keyword, told)

    def test_parameters_follow_keywords(self) -> None:
        """A parameter may be used where its keyword is told; AUTH= also after the login (RFC 4954 section 5).

        Rule: Keywords are advertised exactly where they hold
        """
        brought = {extension.keyword: extension.mail + extension.rcpt for extension in EXTENSIONS}
        for session in sessions():
            usable = parameters("MAIL", session, self.FIGURES) | parameters("RCPT", session, self.FIGURES)
            told = {line.partition(" ")[0] for line in keywords(session, self.FIGURES)}
            if session.login is not None and session.secured and session.mode.offers_auth:
                told.add("AUTH")
            expected = {name for keyword in told for name in brought[keyword]} if session.esmtp else set()
            self.assertEqual(usable, expected, session)
