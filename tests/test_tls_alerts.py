"""What a peer hears when its certificate is refused: the alerts of RFC 8446 section 6.2, on both sides."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.keys import new_key
from mailsvc.mail.channel import Failed
from mailsvc.tls.alerts import OTHER, verifying
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.levels import Level
from mailsvc.tls.policy import Asking, ClientCertificatePolicy, ServerPolicy
from mailsvc.tls.recheck import Purpose
from mailsvc.tls.roots import OnlyThese, Trust
from mailsvc.tls.server import ServerTLS
from mailsvc.tls.verify import HandshakeRefused, client_certificate
from tests.bad_certificates import HOST, Made, bad_certificates, crl, der, good_leaf, make, now, root, sequence
from tests.client_certificates import asking, expired, person
from tests.test_tls_server import MAIL, POP, Client, table
from tests.tls_pair import End, Pair, PlainClient, PlainServer, handshake

GOOD = good_leaf(root(), Purpose.SERVER)
VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)

ALERTS = {
    "revoked": "certificate revoked",
    "unknown-ca": "unknown ca",
    "self-signed": "unknown ca",
    "incomplete-chain": "unknown ca",
    "purpose": "unsupported certificate",
    "expired": "certificate expired",
    "not-yet-valid": "certificate expired",
    "crl": "certificate unknown",
    "pin": "certificate unknown",
}
"""By the kind of the finding; all others are "bad certificate"."""


def alert(end: End, title: str = "") -> str:
    """The alert that ended the connection of this side, in OpenSSL's words."""
    assert isinstance(end.reason, SSL.Error), (title, end.reason)
    words: str = end.reason.args[0][-1][-1]
    return words.partition(" alert ")[2]


def strange_access() -> Made:
    """Its own issuer; where to find that is told as an X.400 address, which cryptography does not read at all."""
    place = sequence(bytes.fromhex("06082b06010505073002") + der(0xA3, b"\x30\x00"))
    told = x509.UnrecognizedExtension(ExtensionOID.AUTHORITY_INFORMATION_ACCESS, sequence(place))
    return make(Made(root("another").certificate, new_key()), "stranger", extra=[(told, False)])


def strange_issuer() -> Made:
    """Its issuer's name is in an old character set, which OpenSSL reads and cryptography does not."""
    made = make(Made(root("ISSUER").certificate, new_key()), "stranger")
    utf8, teletex = der(0x0C, b"ISSUER"), der(0x14, b"ISS\xdcER")
    data = made.certificate.public_bytes(Encoding.DER).replace(utf8, teletex)
    return Made(x509.load_der_x509_certificate(data), made.key)


class Alerts(SynchronousTestCase):
    """Of the table of bad certificates, and of single ones."""

    def test_clients(self) -> None:
        """Where a certificate is required, each bad one gets the alert of what is wrong with it, and all that is wrong
        is recorded.

        Rule: TLS server: the alert says why a client's certificate is refused
        """
        for row in bad_certificates(Purpose.CLIENT):
            for newest in VERSIONS:
                policy = ClientCertificatePolicy(Asking.REQUIRE, row.trust)
                server = PlainServer([GOOD.certificate], GOOD.key, policy, newest=newest)
                pair = handshake(server, PlainClient(row.chain, row.key))
                assert isinstance(pair.server_end.reason, HandshakeRefused), row.title
                self.assertTrue(any(row.words in each for each in pair.server_end.reason.reasons), row.title)
                self.told(pair.client_end, row.kind, row.title)

    def test_servers(self) -> None:
        """The servers that our client refuses hear it likewise.

        Rule: TLS client: the alert says why a server's certificate is refused
        """
        for row in bad_certificates(Purpose.SERVER):
            for newest in VERSIONS:
                server = PlainServer(row.chain, row.key, newest=newest)
                client = ClientTLS(ServerPolicy(Level.NAME, row.trust)).to(row.name, 25)
                pair = handshake(server, client)
                if isinstance(pair.client_end.reason, HandshakeRefused):
                    self.told(pair.server_end, row.kind, row.title)
                else:  # such a server finds by itself in TLS 1.2 that it cannot go on
                    self.assertIn(row.title, ("a key that may not sign", "a subjectAltName of garbage"))
                    self.assertEqual(newest, SSL.TLS1_2_VERSION)

    def told(self, end: End, kind: str, title: str) -> None:
        # A certificate that OpenSSL itself cannot read is refused by it, in its own words.
        if "garbage" not in title:
            self.assertEqual(alert(end, title), ALERTS.get(kind, "bad certificate"), title)

    def test_the_worst_of_several(self) -> None:
        """Of several things that are wrong the alert tells what renewing would not mend."""
        gone = expired()
        trust = Trust(OnlyThese((root().certificate,)), (crl(root(), gone.certificate),))
        for made, policy, words in (
            (gone, ClientCertificatePolicy(Asking.REQUIRE, trust), "certificate revoked"),
            (expired(alone=True), asking(Asking.REQUIRE).clients, "unknown ca"),
        ):
            server = PlainServer([GOOD.certificate], GOOD.key, policy)
            pair = handshake(server, PlainClient([made.certificate], made.key))
            self.assertEqual(alert(pair.client_end), words)
            self.assertIn("expired on", str(pair.server_end.reason))

    def test_none(self) -> None:
        """RFC 8446 section 6.2 has an alert for a certificate that is missing; TLS 1.2 has none."""
        for newest, words in zip(VERSIONS, ("handshake failure", "certificate required"), strict=True):
            server = PlainServer([GOOD.certificate], GOOD.key, asking(Asking.REQUIRE).clients, newest=newest)
            self.assertTrue(alert(handshake(server, PlainClient()).client_end).endswith(words))

    def test_whose_refusal_it_is(self) -> None:
        """A client that is refused under a name is refused alone: the next one, under whatever name, is not."""
        server = ServerTLS(table(MAIL, POP), {"smtp": asking(Asking.REQUIRE)})
        for name in (None, b"mail.example.org", b"pop.example.org"):
            refused = self.shake(server, name, alone=True)
            self.assertIsInstance(refused.server_end.reason, HandshakeRefused, name)
            self.assertEqual(alert(refused.client_end), "unknown ca", name)
            for following in (None, b"mail.example.org", b"pop.example.org"):
                pair = self.shake(server, following, alone=False)
                self.assertEqual((pair.server_end.handshakes, pair.server_end.reason), (1, None), (name, following))
                self.assertEqual(pair.exchange(), (b"220 hi", b"NOOP"))

    def shake(self, server: ServerTLS, name: bytes | None, *, alone: bool) -> Pair:
        made = person(alone=alone)
        client = Client(name)
        client.context.use_certificate(made.certificate)
        client.context.use_privatekey(made.key)
        return handshake(server.view("smtp"), client)

    def test_what_cryptography_cannot_read(self) -> None:
        """A stranger's certificate with a part that nobody can read is recorded like any other, where certificates are
        asked for or required; and whoever comes next hears nothing of it.

        Rule: TLS server: one client's certificate is nobody else's trouble
        """
        trust = Trust(OnlyThese((root().certificate,)), (crl(root()),))
        good = person()
        for made in (strange_access(), strange_issuer()):
            for how in (Asking.ASK, Asking.REQUIRE):
                server = PlainServer([GOOD.certificate], GOOD.key, ClientCertificatePolicy(how, trust))
                pair = handshake(server, PlainClient([made.certificate], made.key))
                if how is Asking.REQUIRE:
                    self.assertIsInstance(pair.server_end.reason, HandshakeRefused)
                else:
                    self.assertEqual((pair.server_end.handshakes, pair.server_end.reason), (1, None))
                    seen = client_certificate(cast(SSL.Connection, pair.server.getHandle()), now())
                    self.assertIsInstance(seen, Failed)
                following = handshake(server, PlainClient([good.certificate], good.key))
                self.assertEqual((following.server_end.handshakes, following.server_end.reason), (1, None))

    def test_a_check_that_raises(self) -> None:
        """Whatever goes wrong in a check refuses this certificate, and is not kept for the next connection."""
        policy = ClientCertificatePolicy(Asking.REQUIRE, Trust(OnlyThese((root().certificate,))))
        good, checks = person(), [0]

        def check(*_: object) -> int:
            checks[0] += 1
            if checks[0] == 1:
                raise ZeroDivisionError("a mistake of ours")
            return 0

        server = PlainServer([GOOD.certificate], GOOD.key, policy)
        verifying(server.context, SSL.VERIFY_PEER, check)
        client = PlainClient([good.certificate], good.key)
        first, second = handshake(server, client), handshake(server, client)
        self.assertEqual(alert(first.client_end), "certificate unknown")
        self.assertIn("ZeroDivisionError: a mistake of ours", str(first.server_end.reason))
        self.assertEqual((second.server_end.handshakes, second.server_end.reason), (1, None))

    def test_another_pyopenssl(self) -> None:
        """Where pyOpenSSL has not inside what the alerts need, its callback still refuses."""
        asked: list[Any] = []

        class Context:
            def set_verify(self, mode: int, callback: Any) -> None:
                asked.append((mode, callback))

        verifying(cast(SSL.Context, Context()), SSL.VERIFY_PEER, lambda connection, made, number, depth, ok: number)
        [(mode, callback)] = asked
        self.assertEqual(mode, SSL.VERIFY_PEER)
        self.assertEqual((callback(None, None, 0, 0, 1), callback(None, None, OTHER, 0, 1)), (True, False))

    def test_a_mistake_of_ours(self) -> None:
        """A check that cannot be made refuses, and does not come up in another connection."""
        calls = [0]

        def clock() -> datetime:
            calls[0] += 1
            if calls[0] == 2:
                raise ZeroDivisionError("a mistake of ours")
            return now()

        client = ClientTLS(ServerPolicy(Level.ENCRYPTED, Trust(OnlyThese((root().certificate,)))), now=clock)
        server = PlainServer([GOOD.certificate], GOOD.key)
        first = handshake(server, client.to(HOST, 25))
        self.assertIn("a mistake of ours", str(first.client_end.reason))
        self.assertEqual(alert(first.server_end), "certificate unknown")
        self.assertIsNone(handshake(server, client.to(HOST, 25)).client_end.reason)
