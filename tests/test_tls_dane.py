"""TLSA records against certificates: the rules alone, and in handshakes."""

from __future__ import annotations

import gc
import hashlib
import weakref
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import defer, endpoints, protocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLServerConnectionCreator
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from mailsvc.tls.client import ClientTLS, Destination, ServerRefused, server_identity
from mailsvc.tls.dane import DaneMatch, TLSARecord, match_tlsa
from mailsvc.tls.levels import Level
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.recheck import Purpose, spki_digest
from mailsvc.tls.roots import NoRoots, Trust
from tests.bad_certificates import HOST, Made, bad_certificates, good_leaf, make, now, root, san, trusting
from tests.tls_pair import Pair, PlainServer, handshake

SECRET = b"AUTH PLAIN secret"
TA = root("TLSA root")
LEAF = good_leaf(TA, Purpose.SERVER)
CHAIN = (LEAF.certificate, TA.certificate)
STRANGER = make(None, "stranger", names=san("www.example.net"), start=-timedelta(9), end=-timedelta(1))
DIGESTS = (bytes, lambda data: hashlib.sha256(data).digest(), lambda data: hashlib.sha512(data).digest())


def record(usage: int, selector: int, matching: int, certificate: x509.Certificate) -> TLSARecord:
    """The record that somebody who does it right publishes for this certificate."""
    if selector == 0:
        data = certificate.public_bytes(Encoding.DER)
    else:
        data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TLSARecord(usage, selector, matching, DIGESTS[matching](data))


def match(
    *records: TLSARecord, chain: tuple[x509.Certificate, ...] = CHAIN, names: tuple[str, ...] = (HOST,)
) -> DaneMatch:
    return match_tlsa(chain, records, names, now())


class RuleTests(SynchronousTestCase):
    """`match_tlsa`, a pure function."""

    def test_every_selector_and_matching_type(self) -> None:
        """Certificate or key; whole, SHA-256 or SHA-512.

        Rule: DANE: every selector and matching type
        """
        for selector in (0, 1):
            for matching in (0, 1, 2):
                for usage, certificate in ((3, LEAF.certificate), (2, TA.certificate)):
                    right = record(usage, selector, matching, certificate)
                    self.assertEqual(match(right), DaneMatch(right, 1), str(right))
                    wrong = record(usage, selector, matching, STRANGER.certificate)
                    self.assertFalse(match(wrong).matched, str(wrong))

    def test_dane_ee_looks_at_the_key_only(self) -> None:
        """Neither the names nor the dates nor the issuer of the certificate count.

        Rule: DANE-EE: the key alone decides
        """
        right = record(3, 1, 1, STRANGER.certificate)
        self.assertTrue(match(right, chain=(STRANGER.certificate,)).matched)

    def test_dane_ee_is_for_the_servers_own_certificate(self) -> None:
        """Its issuer's does not count for it."""
        self.assertFalse(match(record(3, 1, 1, TA.certificate)).matched)

    def test_dane_ta_looks_at_all(self) -> None:
        """The chain up to the trust anchor must be right, and the name, too.

        Rule: DANE-TA: chain, dates and name must be right
        """
        anchor = record(2, 0, 1, TA.certificate)
        self.assertTrue(match(anchor, names=("other.example", HOST)).matched)
        for kind, chain, names in (
            ("wrong-name", CHAIN, ("other.example",)),
            (
                "expired",
                (good_leaf(TA, Purpose.SERVER, start=-timedelta(9), end=-timedelta(1)).certificate, CHAIN[1]),
                (HOST,),
            ),
            ("purpose", (good_leaf(TA, Purpose.CLIENT).certificate, CHAIN[1]), (HOST,)),
        ):
            found = match(anchor, chain=chain, names=names)
            self.assertEqual((found.matched, [each.kind for each in found.findings]), (False, [kind]))
        self.assertFalse(match(anchor, names=()).matched)

    def test_dane_ta_needs_a_chain_that_leads_there(self) -> None:
        """A certificate that only lies beside the chain vouches for nothing."""
        anchor = record(2, 1, 1, TA.certificate)
        other = good_leaf(root(), Purpose.SERVER).certificate
        self.assertFalse(match(anchor, chain=(other, TA.certificate)).matched)

    def test_dane_ta_may_be_an_intermediate_and_in_any_order(self) -> None:
        """The anchor is where the record says; what is above it does not matter."""
        middle = make(root(), "middle CA", ca=True)
        leaf = good_leaf(middle, Purpose.SERVER).certificate
        self.assertTrue(
            match(record(2, 1, 1, middle.certificate), chain=(leaf, TA.certificate, middle.certificate)).matched
        )

    def test_dane_ta_may_bring_the_anchor_along(self) -> None:
        """A record that holds the whole certificate serves a server that does not send it.

        Rule: DANE-TA: the record may hold the anchor
        """
        self.assertTrue(match(record(2, 0, 0, TA.certificate), chain=CHAIN[:1]).matched)
        self.assertFalse(match(record(2, 0, 1, TA.certificate), chain=CHAIN[:1]).matched)

    def test_what_is_unusable(self) -> None:
        """PKIX-TA and PKIX-EE, unknown numbers and digests of a wrong length do not count.

        Rule: DANE: unusable records do not count
        """
        digest = record(3, 1, 1, LEAF.certificate).data
        for wrong in (
            TLSARecord(0, 1, 1, digest),
            TLSARecord(1, 1, 1, digest),
            TLSARecord(4, 1, 1, digest),
            TLSARecord(3, 2, 1, digest),
            TLSARecord(3, 1, 3, digest),
            TLSARecord(3, 1, 1, digest[:-1]),
            TLSARecord(3, 1, 2, digest),
            TLSARecord(3, 1, 0, b""),
        ):
            self.assertEqual((wrong.usable, match(wrong)), (False, DaneMatch()), str(wrong))

    def test_the_strongest_digest_decides(self) -> None:
        """Beside a SHA-512 record, one of SHA-256 of the same kind does not count.

        Rule: DANE: the strongest digest decides
        """
        weaker, stronger = record(3, 1, 1, LEAF.certificate), record(3, 1, 2, STRANGER.certificate)
        self.assertFalse(match(weaker, stronger).matched)
        self.assertTrue(match(record(3, 0, 1, LEAF.certificate), stronger).matched, "another selector")
        self.assertTrue(match(record(3, 1, 0, LEAF.certificate), stronger).matched, "the whole key is no digest")

    @given(
        st.lists(st.builds(TLSARecord, *[st.integers(0, 4)] * 3, st.binary(max_size=70)), max_size=8), st.integers(0, 2)
    )
    @settings(deadline=None)
    def test_rubbish_matches_nothing_and_never_raises(self, records: list[TLSARecord], length: int) -> None:
        """Records come from the network."""
        self.assertFalse(match(*records, chain=CHAIN[:length]).matched)


def server(leaf: Made, *above: Made, newest: int = SSL.TLS1_3_VERSION) -> PlainServer:
    return PlainServer((leaf.certificate, *(each.certificate for each in above)), leaf.key, newest=newest)


def client(*records: TLSARecord, required: Level = Level.DANE, trust: Trust | None = None) -> Destination:
    return ClientTLS(ServerPolicy(required, trust or Trust(NoRoots()))).to(HOST, 25, tlsa=records)


def seen(pair: Pair) -> ServerIdentity:
    identity = server_identity(pair.client)
    assert identity is not None
    return identity


class HandshakeTests(SynchronousTestCase):
    """DANE in real handshakes."""

    def test_dane_verifies_without_any_root(self) -> None:
        """Level DANE by a server's own key, and by a CA's; what PKIX would say is told beside it."""
        for newest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            for right, leaf, above in (
                (record(3, 1, 1, STRANGER.certificate), STRANGER, ()),
                (record(2, 1, 1, TA.certificate), LEAF, (TA,)),
            ):
                identity = seen(handshake(server(leaf, *above, newest=newest), client(right), first=SECRET))
                assert identity.dane is not None
                self.assertEqual((identity.level, identity.dane.record), (Level.DANE, right))
                self.assertNotEqual(identity.findings, ())

    def test_a_pin_is_demanded_beside_it(self) -> None:
        """A record that matches does not replace a key that was pinned (`Trust.pins`)."""
        right = record(3, 1, 1, STRANGER.certificate)
        for pinned, level in ((STRANGER, Level.DANE), (LEAF, Level.ENCRYPTED)):
            trust = Trust(trusting(TA).roots, pins=frozenset({spki_digest(pinned.certificate)}))
            to = client(right, required=Level.ENCRYPTED, trust=trust)
            self.assertIs(seen(handshake(server(STRANGER), to)).level, level)

    def test_no_record_matches(self) -> None:
        """Refused, even though the name is verified by PKIX; and nothing of the application goes out."""
        wrong = record(3, 1, 1, STRANGER.certificate)
        for newest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            pair = handshake(server(LEAF, newest=newest), client(wrong, trust=trusting(TA)), first=SECRET)
            reason = pair.client_end.reason
            assert isinstance(reason, ServerRefused), reason
            self.assertEqual((reason.identity.level, pair.server_end.received), (Level.NAME, b""))
            self.assertIn("none of the 1 usable TLSA records of mail.example.org matches", str(reason))

    def test_records_that_nobody_can_use(self) -> None:
        """That is another sentence; who does not require DANE goes on, with PKIX's level."""
        unusable = TLSARecord(1, 1, 1, b"x" * 32)
        pair = handshake(server(LEAF), client(unusable, trust=trusting(TA)))
        self.assertIn("none that can be used", str(pair.client_end.reason))
        self.assertEqual(
            seen(handshake(server(LEAF), client(unusable, required=Level.NAME, trust=trusting(TA)))).level, Level.NAME
        )

    def test_a_weak_key_is_not_saved_by_its_record(self) -> None:
        """Whoever can compute the key has the record, too."""
        [weak] = [row for row in bad_certificates(Purpose.SERVER) if row.title == "a weak key"]
        pair = handshake(PlainServer(weak.chain, weak.key), client(record(3, 1, 1, weak.chain[0])), first=SECRET)
        self.assertIsInstance(pair.client_end.reason, ServerRefused)
        self.assertEqual(pair.server_end.received, b"")

    def test_handshake_completed_comes_even_after_a_refusal(self) -> None:
        """Twisted calls it all the same: who acts there must ask for the verdict. What is written there is dropped."""
        pair = handshake(server(LEAF), client(record(3, 1, 1, STRANGER.certificate)), first=SECRET)
        self.assertEqual((pair.client_end.handshakes, pair.server_end.received), (1, b""))

    def test_a_closed_connection_is_forgotten(self) -> None:
        """A relay that runs for years does not keep its connections."""
        pair = handshake(server(LEAF), client(record(3, 1, 1, LEAF.certificate)))
        connection = weakref.ref(pair.client.getHandle())
        pair.client.abortConnection()
        pair.settle()
        del pair
        gc.collect()
        self.assertIsNone(connection())


@implementer(IHandshakeListener)
class Eager(protocol.Protocol):
    """Turns to TLS at once, and says the secret as soon as the handshake is done, without asking for a verdict."""

    def __init__(self, creator: Destination | IOpenSSLServerConnectionCreator, secret: bytes = b"") -> None:
        self.creator, self.secret = creator, secret
        self.received = b""
        self.verdicts: list[bool] = []
        self.ended: defer.Deferred[BaseException] = defer.Deferred()

    def connectionMade(self) -> None:
        self.transport.startTLS(self.creator)  # type: ignore[union-attr]

    def handshakeCompleted(self) -> None:
        identity = server_identity(self.transport)
        if identity is not None:
            self.verdicts.append(identity.verdict.met)
        if self.secret and self.transport is not None:
            self.transport.write(self.secret)
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self.ended.callback(reason.value or ConnectionDone())


class LoopbackTests(TestCase):
    """`transport.startTLS` over TCP, where aborting a connection is real."""

    async def talk(self, creator: Destination, leaf: Made) -> tuple[Eager, Eager, BaseException]:
        from twisted.internet import reactor

        there, here = Eager(server(leaf)), Eager(creator, SECRET)
        factory = protocol.Factory()
        factory.buildProtocol = lambda addr: there  # type: ignore[method-assign]
        port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        await endpoints.connectProtocol(endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), here)
        reason = await here.ended
        await there.ended
        return there, here, reason

    async def test_a_good_server_hears_the_secret(self) -> None:
        """So that the next test means something."""
        there, here, _ = await self.talk(client(record(3, 1, 1, LEAF.certificate)), LEAF)
        self.assertEqual((there.received, here.verdicts), (SECRET, [True]))

    async def test_a_server_that_is_refused_does_not(self) -> None:
        """Refused inside the check of the chain, and, with DANE, when the handshake is done."""
        by_chain = ClientTLS(ServerPolicy(Level.NAME, trusting(root()))).to(HOST, 25)
        for creator in (by_chain, client(record(3, 1, 1, STRANGER.certificate))):
            there, here, reason = await self.talk(creator, LEAF)
            self.assertEqual((there.received, True in here.verdicts), (b"", False))
            self.assertIsInstance(reason, ServerRefused)
