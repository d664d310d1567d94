"""The SASL mechanisms as values: the RFCs' own examples, every malformed message, and never anybody let in."""

from __future__ import annotations

import base64
from typing import Any

import scramp  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.sasl.base64 import decode, decode_initial, encode
from mailsvc.sasl.exchange import (
    BindingRefused,
    CertificateLogin,
    Challenge,
    Channel,
    MalformedResponse,
    PasswordLogin,
    Proven,
    Steps,
    UnknownMechanism,
    VerifierWanted,
)
from mailsvc.sasl.mechanisms import begin, offered
from mailsvc.sasl.scram import NoVerifier, Proof, Salting, Verifier, make_verifier, parse_verifier, salt_of
from tests.scram_client import ScramClient

SECURED = Channel("smtp", "192.0.2.1", True)
BOUND = Channel("smtp", "192.0.2.1", True, binding=b"b" * 32)
SALTING = Salting(base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"


def started(mechanism: str, channel: Channel = SECURED, nonce: str = NONCE) -> Steps:
    """An exchange that waits for the client's first message."""
    steps = begin(mechanism, channel, nonce)
    next(steps)
    return steps


class Base64Tests(SynchronousTestCase):
    """RFC 4954 section 4."""

    def test_strict(self) -> None:
        """Blanks, missing and superfluous padding, other alphabets and stray bits are syntax errors.

        Rule: AUTH: strict base64
        """
        for text in (b"YQ", b"YQ=", b"YQ===", b"Y Q==", b"YQ==\n", b"YR==", b"-_8=", b"=", b"*", b"YQ==YQ==", b"\xff"):
            with self.assertRaises(MalformedResponse, msg=repr(text)):
                decode(text)

    def test_refused(self) -> None:
        """RFC 4648 section 3: other characters, white space around it, padding that is missing or doubled."""
        for text in (
            b"a",
            b"ab",
            b"abc",
            b"ab=",
            b"abc==",
            b"YWJ=",
            b" YQ==",
            b"YQ==\r",
            b"Y-_=",
            b"\xff\xff\xff\xff",
            b"====",
            b"YWJj\0",
        ):
            self.assertRaises(MalformedResponse, decode, text)

    @settings(deadline=None)
    @given(st.binary(max_size=12))
    def test_one_spelling(self, text: bytes) -> None:
        """Any octets are refused, or are exactly the encoding of what they decode to."""
        try:
            data = decode(text)
        except MalformedResponse:
            return
        self.assertEqual(base64.b64encode(data), text)

    def test_empty(self) -> None:
        """An equals sign is zero octets as an initial response only; an empty line is zero octets."""
        self.assertEqual((decode_initial(b"="), decode(b"")), (b"", b""))
        self.assertRaises(MalformedResponse, decode_initial, b"==")

    @given(st.binary(max_size=200))
    @settings(deadline=None)
    def test_round_trip(self, data: bytes) -> None:
        """What was encoded is decoded to the same octets."""
        self.assertEqual(decode(encode(data).encode()), data)
        if data:
            self.assertEqual(decode_initial(encode(data).encode()), data)


class OfferTests(SynchronousTestCase):
    """Which mechanisms hold on which channel."""

    def test_nothing_in_clear(self) -> None:
        """Outside TLS nothing is offered."""
        self.assertEqual(
            offered(Channel("smtp", "192.0.2.1", False, certificate=object()), scram=True, external=True), ()
        )

    def test_order(self) -> None:
        """The strongest come first; PLUS needs a binding, EXTERNAL a certificate, SCRAM verifiers."""
        everything = Channel("smtp", "192.0.2.1", True, binding=b"b", certificate=object())
        self.assertEqual(
            offered(everything, scram=True, external=True),
            ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "EXTERNAL", "PLAIN", "LOGIN"),
        )
        self.assertEqual(offered(SECURED, scram=True, external=True), ("SCRAM-SHA-256", "PLAIN", "LOGIN"))
        self.assertEqual(offered(everything, scram=False, external=False), ("PLAIN", "LOGIN"))

    def test_unknown(self) -> None:
        """Another name begins nothing."""
        with self.assertRaises(UnknownMechanism):
            begin("CRAM-MD5", SECURED, NONCE)


class PasswordMechanismTests(SynchronousTestCase):
    """PLAIN, LOGIN and EXTERNAL."""

    def test_plain(self) -> None:
        """RFC 4616 section 4: with and without an authzid."""
        self.assertEqual(started("PLAIN").send(b"\0tim\0tanstaaftanstaaf"), PasswordLogin(b"tim", b"tanstaaftanstaaf"))
        self.assertEqual(
            started("PLAIN").send(b"Ursel\0Kurt\0xipj3plmq"), PasswordLogin(b"Kurt", b"xipj3plmq", b"Ursel")
        )

    def test_plain_malformed(self) -> None:
        """A missing or another NUL, an empty name or password, an endless name."""
        for message in (
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"\0a",
            b"\0a\0",
            b"\0\0b",
            b"\0a\0b\0",
            b"a\0b\0c\0d",
            b"\0" + b"a" * 1025 + b"\0b",
            b"z" * 1025 + b"\0a\0b",
        ):
            with self.assertRaises(MalformedResponse, msg=repr(message[:20])):
                started("PLAIN").send(message)

    def test_login(self) -> None:
        """The name, then the password; neither may be empty."""
        steps = started("LOGIN")
        self.assertEqual(steps.send(b"tim"), Challenge(b"Password:"))
        self.assertEqual(steps.send(b"secret"), PasswordLogin(b"tim", b"secret"))
        for name, password in ((b"", b"x"), (b"x", b""), (b"", b""), (b"x", b"a\0b")):
            steps = started("LOGIN")
            steps.send(name)
            with self.assertRaises(MalformedResponse):
                steps.send(password)

    def test_external(self) -> None:
        """RFC 4422 appendix A: an identity or nothing."""
        self.assertEqual(started("EXTERNAL").send(b""), CertificateLogin(b""))
        self.assertEqual(started("EXTERNAL").send(b"fred"), CertificateLogin(b"fred"))
        with self.assertRaises(MalformedResponse):
            started("EXTERNAL").send(b"a\0b")

    def test_no_secret_is_shown(self) -> None:
        """A password, a proof, a verifier and a binding are in no repr."""
        values: list[Any] = [PasswordLogin(b"tim", b"hunter22"), make_verifier("hunter22", SALTING), BOUND]
        values += [Challenge(b"hunter22"), Proof(b"tim", b"", True, b"hunter22", b"hunter22")]
        stored = base64.b64encode(values[1].stored_key).decode()
        for value in values:
            for secret in ("hunter22", stored, "b" * 32, repr(values[1].stored_key)):
                self.assertNotIn(secret, repr(value))


class ScramTests(SynchronousTestCase):
    """RFC 5802, RFC 7677."""

    def test_rfc_7677(self) -> None:
        """Section 3's conversation, octet by octet."""
        steps = started("SCRAM-SHA-256")
        self.assertEqual(steps.send(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"), VerifierWanted(b"user"))
        self.assertEqual(
            steps.send(SALTING),
            Challenge(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
        )
        proof = steps.send(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        )
        verifier = make_verifier("pencil", SALTING)
        self.assertTrue(proof.fits(verifier))
        self.assertEqual(steps.send(verifier), Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="))
        self.assertEqual(steps.send(b""), Proven())

    def test_the_clients_of_others(self) -> None:
        """scramp's client and ours log in, and believe the server."""
        for password in ("pencil", "Passwört", "½ ª"):
            verifier = make_verifier(password, SALTING)
            steps = started("SCRAM-SHA-256")
            client = scramp.ScramClient(["SCRAM-SHA-256"], "us=er,x", password)
            self.assertEqual(steps.send(client.get_client_first().encode()), VerifierWanted(b"us=er,x"))
            client.set_server_first(steps.send(SALTING).data.decode())
            proof = steps.send(client.get_client_final().encode())
            self.assertTrue(proof.fits(verifier))
            client.set_server_final(steps.send(verifier).data.decode())

    def proof(self, client: ScramClient, mechanism: str, channel: Channel) -> Proof:
        """What a whole exchange comes to."""
        steps = started(mechanism, channel)
        steps.send(client.first)
        proof = steps.send(client.final(steps.send(SALTING).data))
        assert isinstance(proof, Proof)
        return proof

    def test_wrong_password(self) -> None:
        """A proof fits the verifier of its own password only."""
        proof = self.proof(ScramClient("tim", "pencil"), "SCRAM-SHA-256", SECURED)
        self.assertFalse(proof.fits(make_verifier("pencils", SALTING)))
        self.assertFalse(proof.fits(make_verifier("pencil", Salting(b"another salt 16b", 4096))))

    def test_channel_binding(self) -> None:
        """PLUS lets in who sees the channel that we see, and nobody who sees another."""
        verifier = make_verifier("pencil", SALTING)
        for binding, right in ((b"b" * 32, True), (b"c" * 32, False), (b"", False)):
            client = ScramClient("tim", "pencil", flag=b"p=tls-exporter", binding=binding)
            self.assertEqual(self.proof(client, "SCRAM-SHA-256-PLUS", BOUND).fits(verifier), right)

    def test_binding_data_without_plus(self) -> None:
        """Without PLUS there is no binding data, and what a client makes up is refused."""
        proof = self.proof(ScramClient("tim", "pencil", binding=b"b" * 32), "SCRAM-SHA-256", BOUND)
        self.assertFalse(proof.fits(make_verifier("pencil", SALTING)))

    def test_downgrade(self) -> None:
        """A client that could bind and was told that we cannot is refused where we can (RFC 5802 section 6)."""
        first = ScramClient("tim", "pencil", flag=b"y").first
        with self.assertRaises(BindingRefused):
            started("SCRAM-SHA-256", BOUND).send(first)
        self.assertEqual(started("SCRAM-SHA-256", SECURED).send(first), VerifierWanted(b"tim"))

    def test_flag_and_mechanism(self) -> None:
        """The flag must fit the mechanism, and the binding must be the one there is."""
        for mechanism, flag, refused in (
            ("SCRAM-SHA-256-PLUS", b"n", MalformedResponse),
            ("SCRAM-SHA-256-PLUS", b"y", MalformedResponse),
            ("SCRAM-SHA-256", b"p=tls-exporter", MalformedResponse),
            ("SCRAM-SHA-256-PLUS", b"p=tls-unique", BindingRefused),
        ):
            with self.assertRaises(refused, msg=f"{mechanism} {flag!r}"):
                started(mechanism, BOUND).send(ScramClient("tim", "pencil", flag=flag).first)

    def test_names(self) -> None:
        """Commas and equals signs are escaped, in the name and in the authzid; any other escape is an error."""
        steps = started("SCRAM-SHA-256")
        self.assertEqual(steps.send(b"n,a=b=2Cc,n=x=3Dy=2Cz,r=abc"), VerifierWanted(b"x=y,z"))
        proof = self.proof(ScramClient("tim", "pencil", authzid="a=b,c"), "SCRAM-SHA-256", SECURED)
        self.assertEqual((proof.username, proof.authzid), (b"tim", b"a=b,c"))

    def test_malformed_first(self) -> None:
        """Whatever is not the grammar of RFC 5802 section 7 ends the exchange."""
        for message in (
            b"", b"n", b"n,,", b"n,,n=a", b"n,,n=,r=x", b"n,,n=a,r=", b"x,,n=a,r=b", b"n,n=a,r=b", b"n,a=,n=a,r=b",
            b"n,,r=b,n=a", b"n,,n=a,r=b,", b"n,,n=a,r=b c", b"n,,n=a\0,r=b", b"n,,n=a=2c,r=b", b"n,,n=a=,r=b",
            b"n,,m=x,n=a,r=b", b"p=,,n=a,r=b", b"n,,n=a,r=b\r\n", b"n,,n=a,r=b" + b",x=y" * 2000,
        ):  # fmt: skip
            with self.assertRaises(MalformedResponse, msg=repr(message[:30])):
                started("SCRAM-SHA-256").send(message)

    def test_malformed_final(self) -> None:
        """Another nonce, a short proof, a missing field, bad base64 end the exchange."""
        for message in (
            b"", b"c=biws", b"c=biws,r=%s", b"c=biws,r=%sx,p=" + b"A" * 43 + b"=", b"c=biws,r=%s,p=AAAA",
            b"c=biws,r=%s,p=" + b"A" * 44, b"c=biw,r=%s,p=" + b"A" * 43 + b"=", b"r=%s,c=biws,p=" + b"A" * 43 + b"=",
            b"c=biws,r=%s,p=" + b"A" * 43 + b"=,x=y", b"c=biws,r=short,p=" + b"A" * 43 + b"=",
        ):  # fmt: skip
            steps = started("SCRAM-SHA-256", nonce="abc")
            steps.send(b"n,,n=a,r=xyz")
            steps.send(SALTING)
            with self.assertRaises(MalformedResponse, msg=repr(message)):
                steps.send(message.replace(b"%s", b"xyzabc"))

    def test_nothing_behind_the_end(self) -> None:
        """Our proof is answered by an empty response, nothing else."""
        steps = started("SCRAM-SHA-256")
        client = ScramClient("tim", "pencil")
        steps.send(client.first)
        steps.send(client.final(steps.send(SALTING).data))
        self.assertTrue(client.believes(steps.send(make_verifier("pencil", SALTING)).data))
        with self.assertRaises(MalformedResponse):
            steps.send(b"x")


class VerifierTests(SynchronousTestCase):
    """What is stored."""

    def test_round_trip(self) -> None:
        """A verifier is read back as it was written; anything else is none."""
        verifier = make_verifier("pencil", SALTING)
        self.assertEqual(parse_verifier(verifier.to_text()), verifier)
        for text in ("", "$argon2id$", verifier.to_text()[:-2], verifier.to_text() + "\n", "SCRAM-SHA-256$4096:a$b:c"):
            self.assertIsNone(parse_verifier(text), text)

    def test_passwords_that_have_none(self) -> None:
        """What SASLprep refuses, or leaves nothing of, has no verifier: nobody must get in with an empty password."""
        for password in ("", "\u00ad", "\u200b\u2060", "tab\there", "\u0221", "\u0627\u0031"):
            with self.assertRaises(NoVerifier, msg=ascii(password)):
                make_verifier(password, SALTING)

    def test_saslprep(self) -> None:
        """Spellings that SASLprep takes for one password have one verifier (RFC 4013 section 3)."""
        self.assertEqual(make_verifier("I\u00adX", SALTING), make_verifier("IX", SALTING))
        self.assertEqual(make_verifier("\u00aa", SALTING), make_verifier("a", SALTING))

    def test_salts(self) -> None:
        """A salt depends on the key and the name and on nothing else."""
        self.assertEqual(salt_of(b"k" * 32, "a@example.org"), salt_of(b"k" * 32, "a@example.org"))
        self.assertEqual(len({salt_of(key, name) for key in (b"k", b"l") for name in ("a", "b", "\udc80")}), 6)


class GarbageTests(SynchronousTestCase):
    """Whatever a client sends, the engine answers or says that it is malformed; it never proves anything by itself."""

    @given(
        st.sampled_from(["PLAIN", "LOGIN", "EXTERNAL", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]),
        st.lists(
            st.one_of(
                st.binary(max_size=60),
                st.text(alphabet="nyp=,acrvim0Aé\0", max_size=40).map(lambda text: text.encode()),
                st.sampled_from([b"n,,n=a,r=b", b"p=tls-exporter,,n=a,r=b", b"", b"c=biws,r=bN,p=" + b"A" * 43 + b"="]),
            ),
            max_size=5,
        ),
    )
    @settings(deadline=None, max_examples=500)
    def test_garbage(self, mechanism: str, messages: list[bytes]) -> None:
        """No exception but ours, and no proof that fits a verifier that the client does not know."""
        verifier = Verifier(SALTING, b"s" * 32, b"k" * 32)
        steps = begin(mechanism, BOUND, "N")
        wanted = next(steps)
        try:
            for message in messages:
                wanted = steps.send(message)
                if isinstance(wanted, VerifierWanted):
                    wanted = steps.send(SALTING)
                if isinstance(wanted, Proof):
                    self.assertFalse(wanted.fits(verifier))
                    return
                if not isinstance(wanted, Challenge):
                    self.assertIsInstance(wanted, (PasswordLogin, CertificateLogin))
                    return
        except (MalformedResponse, BindingRefused):
            pass
