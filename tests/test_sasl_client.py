"""Logging in at another server: our own mechanisms against it, and what a server may not do."""

from __future__ import annotations

import base64
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.client import How, Refused, Where, connect, server_policy
from mailsvc.relay.logins import LoginKind, RelayLogin
from mailsvc.relay.outcome import Kind, Phase
from mailsvc.relay.outgoing import Said
from mailsvc.relay.url import parse_relay
from mailsvc.sasl.client import Login, LoginFailed, Secret, choices
from mailsvc.tls.client import ClientTLS
from tests.fake_mail import SIMPLE, Network, Script

PASSWORD = RelayLogin("provider", LoginKind.PASSWORD, "joe", "open sesame")
TOKEN = RelayLogin("provider", LoginKind.TOKEN, "joe", "t0ken")
CERTIFICATE = RelayLogin("provider", LoginKind.CERTIFICATE, "joe", "")
RELAY = parse_relay("tls://mail.example.org?verify=none")
EVERY = ("EXTERNAL", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "XOAUTH2", "PLAIN", "LOGIN")


def log_in(login: RelayLogin, *auth: str, script: Script | None = None) -> tuple[Refused | None, Network, list[Said]]:
    """Log in at a server that offers these mechanisms."""
    network = Network({("192.0.2.1", 25): replace(script or Script(), auth=auth)})
    heard: list[Said] = []
    how = How(RELAY, "us.example.net", ClientTLS(server_policy(RELAY)), login=login, listener=heard.append)

    async def whole() -> Refused | None:
        try:
            conversation = await connect(network, Where("mail.example.org", ("192.0.2.1",)), how)
        except Refused as refused:
            return refused
        await conversation.quit()
        return None

    return network.run(whole()), network, heard


class LoggingIn(SynchronousTestCase):
    def test_every_mechanism(self) -> None:
        """Each against a server that has only it; the names and secrets are not in the dialogue.

        Rule: Client: AUTH PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-256-PLUS, EXTERNAL, XOAUTH2
        """
        for name in EVERY:
            login = {"EXTERNAL": CERTIFICATE, "XOAUTH2": TOKEN}.get(name, PASSWORD)
            offered = ("SCRAM-SHA-256-PLUS", "PLAIN") if name.endswith("PLUS") else (name,)
            refused, network, heard = log_in(login, *offered)
            self.assertIsNone(refused, name)
            self.assertEqual(network.met[0].logged_in, "joe", name)
            self.assertNotIn(b"AUTH", network.clear)
            spoken = "\n".join(said.text for said in heard if said.who == "C:")
            self.assertIn(f"AUTH {name}", spoken)
            for secret in ("open sesame", "t0ken", "joe"):
                for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("=")):
                    self.assertNotIn(form, spoken, name)

    def test_the_best_is_taken(self) -> None:
        """Binding before none, a proof before a password; what the server lacks is passed over."""
        secret = Secret("joe", "open sesame")
        self.assertEqual(
            choices(EVERY, secret, binding=b"x"), ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")
        )
        self.assertEqual(choices(EVERY, secret, binding=None), ("SCRAM-SHA-256", "PLAIN", "LOGIN"))
        self.assertEqual(choices(EVERY, Secret("joe", token="t"), binding=b"x"), ("XOAUTH2",))
        self.assertEqual(choices(EVERY, Secret("joe", certificate=True), binding=b"x"), ("EXTERNAL",))
        self.assertEqual(choices(EVERY, Secret("joe", "x", authzid="ann"), binding=b"x"), ("PLAIN",))
        self.assertEqual(choices((), secret, binding=b"x"), ())
        _, _, heard = log_in(PASSWORD, *EVERY)
        self.assertIn("AUTH SCRAM-SHA-256-PLUS ********", [said.text for said in heard])

    def test_a_refused_login_waits(self) -> None:
        """A wrong password is our mistake, not the mail's: it waits (and other relays may be tried)."""
        wrong = replace(PASSWORD, secret="wrong")
        for name in ("PLAIN", "LOGIN", "SCRAM-SHA-256"):
            refused, network, _ = log_in(wrong, name)
            assert refused is not None
            outcome = refused.outcome
            self.assertEqual((outcome.kind, outcome.phase, outcome.enhanced), (Kind.DEFERRED, Phase.AUTH, "4.7.8"))
            self.assertTrue(outcome.elsewhere)
            self.assertEqual(network.met[0].commands[-1], "QUIT")
        refused, _, _ = log_in(replace(TOKEN, secret="old"), "XOAUTH2")
        self.assertIn("535", str(refused))

    def test_no_password_for_a_server_that_refused_the_proof(self) -> None:
        """535 to SCRAM: PLAIN is not tried, although it is offered, and the text says what the postmaster may allow.

        Rule: Client: no fallback from SCRAM to PLAIN, unless the postmaster or a 432 says so
        """
        offered = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN")
        refused, network, _ = log_in(replace(PASSWORD, secret="wrong"), *offered)
        commands = [each for each in network.met[0].commands if each.startswith("AUTH")]
        self.assertEqual([each.split()[1] for each in commands], ["SCRAM-SHA-256-PLUS"])
        self.assertIn("535 5.7.8", str(refused))
        self.assertIn("only PLAIN (--mechanism PLAIN of mailsvc route credentials add", str(refused))
        refused, _, _ = log_in(replace(PASSWORD, secret="wrong"), "SCRAM-SHA-256")
        self.assertNotIn("--mechanism", str(refused))

    def test_what_the_postmaster_allows(self) -> None:
        """Only the mechanisms that the credentials allow are spoken: PLAIN to a server that has no SCRAM secret for the
        account, or SCRAM alone; without binding nothing claims that it could bind.

        Rule: Client: no fallback from SCRAM to PLAIN, unless the postmaster or a 432 says so
        """
        for allowed, spoken in ((["PLAIN"], "PLAIN"), (["LOGIN", "SCRAM-SHA-256"], "SCRAM-SHA-256")):
            login = replace(PASSWORD, mechanisms=tuple(allowed))
            refused, network, heard = log_in(login, *EVERY)
            self.assertIsNone(refused)
            self.assertEqual(network.met[0].logged_in, "joe")
            self.assertIn(f"AUTH {spoken} ********", [said.text for said in heard])
        strict = replace(PASSWORD, mechanisms=("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"))
        refused, network, _ = log_in(strict, "PLAIN", "LOGIN")
        self.assertIn("the server offers PLAIN LOGIN, allowed is SCRAM-SHA-256-PLUS SCRAM-SHA-256", str(refused))
        self.assertFalse([each for each in network.met[0].commands if each.startswith("AUTH")])

    def test_no_mechanism_in_common(self) -> None:
        """It is said what the server offers."""
        for auth, words in (((), "offers none"), (("CRAM-MD5", "GSSAPI"), "offers CRAM-MD5 GSSAPI")):
            refused, _, _ = log_in(PASSWORD, *auth)
            self.assertIn(words, str(refused))

    def test_the_next_mechanism(self) -> None:
        """504, 534 and 432 (the account has no secret for it yet, RFC 4954 section 6) are about the mechanism; 535 is
        about us and is not asked twice."""
        for code, times in (
            (b"432 4.7.12 a password transition is needed\r\n", 2),
            (b"504 5.5.4 no\r\n", 2),
            (b"534 5.7.9 too weak\r\n", 2),
            (b"535 5.7.8 no\r\n", 1),
        ):
            refused, network, _ = log_in(PASSWORD, "PLAIN", "LOGIN", script=Script(answers={"AUTH": code}))
            self.assertIsNotNone(refused)
            self.assertEqual(sum(each.startswith("AUTH") for each in network.met[0].commands), times)

    def test_a_yes_without_proof(self) -> None:
        """A server that says 235 before it has proved itself (SCRAM) is not the one that is meant.

        Rule: Client: a server that does not prove itself in SCRAM is refused
        """
        script = Script(answers={"AUTH": b"235 2.7.0 welcome\r\n"})
        refused, network, _ = log_in(PASSWORD, "SCRAM-SHA-256", script=script)
        self.assertIn("without having proved", str(refused))
        self.assertNotIn("MAIL", " ".join(network.met[0].commands))
        self.assertIsNone(log_in(PASSWORD, "PLAIN", script=script)[0])

    def test_challenges_without_end(self) -> None:
        """They end: the exchange is cancelled."""
        script = Script(answers={"AUTH": b"334 \r\n", "*": b"501 cancelled\r\n", "=": b"334 \r\n"}, keywords=SIMPLE)
        refused, network, _ = log_in(PASSWORD, "PLAIN", script=script)
        self.assertIn("more than the mechanism has", str(refused))
        self.assertIn("*", network.met[0].commands)


class Scram(SynchronousTestCase):
    """RFC 7677 section 3 has an example; everything that differs from it by a little is refused."""

    NONCE = "rOprNGfwEbeRWgbNEkqO"
    FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

    def login(self) -> Login:
        return Login("SCRAM-SHA-256", Secret("user", "pencil"), nonce=self.NONCE)

    def test_the_example_of_the_rfc(self) -> None:
        """Octet for octet."""
        login = self.login()
        self.assertEqual(login.first, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        proof = login.answer(self.FIRST)
        self.assertEqual(
            proof,
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        self.assertFalse(login.finished)
        self.assertEqual(login.answer(self.FINAL), b"")
        self.assertTrue(login.finished)

    def test_what_a_server_may_not_do(self) -> None:
        """Another nonce, rounds that are too few or endless, a wrong signature, an error, garbage."""
        for first in (
            self.FIRST.replace(b"r=r", b"r=x"),
            b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            self.FIRST.replace(b"4096", b"1"),
            self.FIRST.replace(b"4096", b"4294967295"),
            self.FIRST.replace(b"4096", b"0"),
            self.FIRST.replace(b"W22Z", b"W2=Z"),
            b"m=x," + self.FIRST,
            b"e=other-error",
            b"",
            b"\xff" * 9000,
        ):
            with self.assertRaises(LoginFailed):
                self.login().answer(first)
        for final in (self.FINAL.replace(b"6rri", b"7rri"), b"e=invalid-proof", b"", b"v="):
            login = self.login()
            login.answer(self.FIRST)
            with self.assertRaises(LoginFailed):
                login.answer(final)
            self.assertFalse(login.finished)

    def test_the_flag(self) -> None:
        """RFC 5802 section 6: "y" tells a server that offers binding after all that its list was changed."""
        secret = Secret("us=er,x", "pencil")
        self.assertEqual(Login("SCRAM-SHA-256", secret, binding=b"b", nonce="n").first, b"y,,n=us=3Der=2Cx,r=n")
        plus = Login("SCRAM-SHA-256-PLUS", secret, binding=b"b", nonce="n")
        self.assertEqual(plus.first, b"p=tls-exporter,,n=us=3Der=2Cx,r=n")

    def test_what_cannot_be_written(self) -> None:
        """A NUL, a control character in a token, a name that SASLprep forbids."""
        for make in (
            lambda: Secret("a\0b", "x"),
            lambda: Login("XOAUTH2", Secret("a", token="x\x01y")),
            lambda: Login("SCRAM-SHA-256", Secret("a\u0007", "x")),
            lambda: Login("CRAM-MD5", Secret("a", "x")),
        ):
            self.assertRaises(LoginFailed, make)
