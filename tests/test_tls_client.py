"""ClientTLS and client certificates in real handshakes in memory: who is refused, and what is told about whom."""

from __future__ import annotations

import ipaddress
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from service_identity import CertificateError
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import MailsvcError
from mailsvc.mail.channel import (
    LIST_LIMIT,
    NO_CERTIFICATE,
    NOT_ASKED,
    TEXT_LIMIT,
    ClientCertificate,
    Failed,
    Resumed,
    Verified,
    safe_text,
)
from mailsvc.tls.chain import KINDS, finding
from mailsvc.tls.client import ClientTLS, Destination, ServerRefused, keep_session, server_identity
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.levels import Level, judge, observed
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.policy import Asking, ClientCertificatePolicy, ServerPolicy
from mailsvc.tls.recheck import Purpose, check_again, check_name, spki_digest
from mailsvc.tls.roots import NoRoots, OnlyThese, RootsFile, RootsFolder, SystemRoots, Trust
from mailsvc.tls.sessions import SessionStore
from mailsvc.tls.verify import HandshakeRefused, client_certificate, fill_store
from tests.bad_certificates import HOST, Bad, Made, bad_certificates, crl, good_leaf, make, now, root, san, trusting
from tests.tls_pair import Pair, PlainClient, PlainServer, handshake

SERVERS, CLIENTS = bad_certificates(Purpose.SERVER), bad_certificates(Purpose.CLIENT)
CANNOT_SERVE = ("a key that may not sign", "a subjectAltName of garbage")
"""With TLS 1.2 OpenSSL's server does not use these, so that there is nothing for a client to check."""
SECRET = b"AUTH PLAIN secret"
VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)


def server(
    leaf: Made, *above: Made, policy: ClientCertificatePolicy | None = None, newest: int = VERSIONS[1]
) -> PlainServer:
    chain = (leaf.certificate, *(each.certificate for each in above))
    return PlainServer(chain, leaf.key, policy, newest=newest)


def client(required: Level, trust: Trust, name: str = HOST) -> Destination:
    return ClientTLS(ServerPolicy(required, trust)).to(name, 25)


def seen(pair: Pair) -> ServerIdentity:
    identity = server_identity(pair.client)
    assert identity is not None
    return identity


def refused(case: SynchronousTestCase, pair: Pair) -> ServerIdentity:
    """What the refusal tells; nothing of the application has gone to the server."""
    reason = pair.client_end.reason
    assert isinstance(reason, ServerRefused), reason
    case.assertEqual(pair.server_end.received, b"")
    case.assertFalse(reason.identity.verdict.met)
    case.assertNotEqual(str(reason), "")
    case.assertIsNotNone(pair.server_end.reason, "the server's end is over, too")
    return reason.identity


GOOD = good_leaf(root(), Purpose.SERVER)
OTHER = good_leaf(root("foreign root"), Purpose.SERVER)
TRUST = trusting(root())


class GoodTests(SynchronousTestCase):
    """What passes, so that the refusals below mean something."""

    def test_a_good_server_is_verified_by_name(self) -> None:
        """With TLS 1.2 and 1.3, at every requirement up to NAME: the observed level is always the whole truth."""
        for newest in VERSIONS:
            for required in (Level.PLAIN, Level.ENCRYPTED, Level.CHAIN, Level.NAME):
                pair = handshake(server(GOOD, newest=newest), client(required, TRUST), first=SECRET)
                identity = seen(pair)
                self.assertEqual((identity.level, identity.findings, identity.reasons), (Level.NAME, (), ()))
                self.assertEqual((identity.resumed, identity.dane, identity.pinned), (False, None, False))
                self.assertEqual(identity.chain, (GOOD.certificate, root().certificate))
                self.assertEqual(identity.sent, (GOOD.certificate,))
                self.assertEqual(pair.exchange()[1], SECRET + b"NOOP")
                self.assertIn(identity.version, ("TLSv1.2", "TLSv1.3"))

    def test_intermediates_wildcards_addresses_and_case(self) -> None:
        """Each is a way in which a certificate may well be right."""
        middle = make(root(), "middle CA", ca=True, path_length=0)
        chained = good_leaf(middle, Purpose.SERVER)
        self.assertEqual(seen(handshake(server(chained, middle), client(Level.NAME, TRUST))).level, Level.NAME)
        wild = good_leaf(root(), Purpose.SERVER, names=san("*.example.org"))
        self.assertEqual(
            seen(handshake(server(wild), client(Level.NAME, TRUST, "MAIL.Example.ORG."))).level, Level.NAME
        )
        for address in ("192.0.2.1", "2001:db8::1", "[2001:db8::1]"):
            listed = san(raw=[x509.IPAddress(ipaddress.ip_address(address.strip("[]")))])
            by_address = good_leaf(root(), Purpose.SERVER, names=listed)
            self.assertEqual(seen(handshake(server(by_address), client(Level.NAME, TRUST, address))).level, Level.NAME)

    def test_what_is_no_name_of_a_server(self) -> None:
        """It is refused before there is a connection, and stays out of SNI."""
        for name in (
            "",
            "x y",
            "a\0b",
            "mail.example.org\0.evil",
            "*.example.org",
            "a" * 64,
            "a.." + HOST,
            "a." * 130 + "a",
        ):
            error = self.assertRaises(MailsvcError, ClientTLS(ServerPolicy(Level.NAME, TRUST)).to, name, 25)
            self.assertIn("is not a host name or an IP address", str(error))

    def test_nothing_is_known_without_tls_and_after_the_end(self) -> None:
        """`server_identity` never guesses."""
        pair = handshake(server(GOOD), client(Level.NAME, TRUST))
        pair.client.abortConnection()
        pair.settle()
        for transport in (pair.client, object(), None):
            self.assertIsNone(server_identity(transport))
            self.assertFalse(keep_session(transport))


class BadServerTests(SynchronousTestCase):
    """Every row of the table, against the client."""

    def test_the_table_is_one(self) -> None:
        """Some thirty kinds of badness, each with a title of its own."""
        self.assertGreaterEqual(len(SERVERS), 40)
        self.assertGreaterEqual(len(CLIENTS), 30)
        self.assertEqual(len({row.title for row in SERVERS}), len(SERVERS))
        self.assertLessEqual({row.kind for row in SERVERS}, KINDS)

    def test_each_is_refused_with_its_own_sentence(self) -> None:
        """No octet of the application goes out, and the sentence names what is wrong, in printable ASCII.

        Rule: TLS client: some forty bad certificates, each refused with its own sentence
        """
        for row in SERVERS:
            pair = handshake(PlainServer(row.chain, row.key), client(Level.NAME, row.trust, row.name), first=SECRET)
            self.assert_told(row, refused(self, pair))
            self.assertEqual(pair.client_end.handshakes, 0, row.title)

    def test_each_is_refused_with_tls_1_2(self) -> None:
        """The same with the older handshake, where messages come in another order."""
        for row in SERVERS:
            bad = PlainServer(row.chain, row.key, newest=SSL.TLS1_2_VERSION)
            pair = handshake(bad, client(Level.NAME, row.trust, row.name), first=SECRET)
            if row.title in CANNOT_SERVE:  # such a server finds no cipher for itself
                self.assertIsInstance(pair.client_end.reason, SSL.Error)
                continue
            self.assert_told(row, refused(self, pair))

    def test_an_opportunistic_client_goes_on_and_tells_the_same(self) -> None:
        """Where encryption is enough, the handshake finishes, the level is honest, and every finding is told."""
        for row in SERVERS:
            pair = handshake(PlainServer(row.chain, row.key), client(Level.ENCRYPTED, row.trust, row.name))
            identity = seen(pair)
            self.assertLess(identity.level, Level.NAME, row.title)
            self.assertEqual(identity.level is Level.CHAIN, row.names_only, row.title)
            self.assert_told(row, identity)
            self.assertEqual(pair.exchange(), (b"220 hi", b"NOOP"), row.title)

    def assert_told(self, row: Bad, identity: ServerIdentity) -> None:
        told = [each for each in identity.findings if (each.kind, each.depth) == (row.kind, row.depth)]
        self.assertTrue(any(row.words in each.text for each in told), (row.title, identity.findings))
        for each in identity.findings:
            self.assertTrue(each.text.isascii() and each.text.isprintable() and ";" in each.text, each.text)

    def test_all_that_is_wrong_is_told_at_once(self) -> None:
        """A certificate with four mistakes gives four sentences, not the first one."""
        stranger = root("foreign root")
        awful = make(
            stranger,
            "awful",
            names=san("www.example.net"),
            usage=Purpose.CLIENT.value,
            start=-timedelta(9),
            end=-timedelta(1),
        )
        identity = refused(self, handshake(server(awful, stranger), client(Level.NAME, TRUST), first=SECRET))
        kinds = {each.kind for each in identity.findings}
        self.assertEqual(kinds, {"expired", "purpose", "unknown-ca", "wrong-name"})
        self.assertEqual(len(identity.reasons), 4)

    def test_twisted_itself_lets_a_nameless_certificate_pass(self) -> None:
        """The pitfall that made this module: when this fails, Twisted was mended.

        Rule: TLS client: a certificate without a subjectAltName is for no host
        """
        nameless = make(root(), "joe", usage=Purpose.SERVER.value)
        authority = Certificate.loadPEM(root().certificate.public_bytes(Encoding.PEM))
        options = optionsForClientTLS(HOST, trustRootFromCertificates([authority]))
        self.assertEqual(handshake(server(nameless), options).exchange()[1], b"NOOP")
        self.flushLoggedErrors(CertificateError)
        refused(self, handshake(server(nameless), client(Level.NAME, TRUST), first=SECRET))

    def test_an_exception_in_a_check_refuses(self) -> None:
        """A clock that breaks, at the end of the chain's check or later, never lets a server pass."""
        for good_calls in (1, 2):  # the first is for the beginning of the connection
            calls = [0]

            def clock(calls: list[int] = calls, good_calls: int = good_calls) -> datetime:
                calls[0] += 1
                if calls[0] > good_calls:
                    raise ZeroDivisionError("a mistake of ours")
                return now()

            creator = ClientTLS(ServerPolicy(Level.NAME, TRUST), now=clock).to(HOST, 25)
            pair = handshake(server(GOOD), creator, first=SECRET)
            self.assertEqual(pair.server_end.received, b"")
            reason = pair.client_end.reason
            assert isinstance(reason, HandshakeRefused), reason
            self.assertIn("could not be checked (ZeroDivisionError: a mistake of ours)", str(reason))


class LevelTests(SynchronousTestCase):
    """What was seen and what was wanted."""

    @given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
    @settings(deadline=None)
    def test_observed(self, encrypted: bool, chain: bool, name: bool, dane: bool) -> None:
        """More proof never gives a lower level, and a name without a chain gives nothing."""
        level = observed(encrypted=encrypted, chain=chain, name=name, dane=dane)
        self.assertEqual(level is Level.PLAIN, not encrypted)
        self.assertEqual(level is Level.DANE, encrypted and dane)
        self.assertEqual(level >= Level.NAME, encrypted and (dane or (chain and name)))
        self.assertLessEqual(observed(encrypted=encrypted), level)

    @given(st.sampled_from(Level), st.sampled_from(Level))
    @settings(deadline=None)
    def test_judge(self, required: Level, level: Level) -> None:
        """Enough is what is at least required; the sentence names both."""
        verdict = judge(required, level)
        self.assertEqual(verdict.met, level >= required)
        self.assertIn(required.text, str(verdict))
        self.assertIn(level.text, str(verdict))

    def test_a_chain_is_enough_where_the_name_is_not_asked_for(self) -> None:
        """CHAIN lets a wrong name pass and tells it; an unknown CA it refuses."""
        pair = handshake(server(GOOD), client(Level.CHAIN, TRUST, "www.example.org"))
        self.assertEqual((seen(pair).level, [each.kind for each in seen(pair).findings]), (Level.CHAIN, ["wrong-name"]))
        refused(self, handshake(server(OTHER), client(Level.CHAIN, TRUST), first=SECRET))

    def test_dane_is_not_met_without_records(self) -> None:
        """Who requires DANE and finds no TLSA record does not settle for a name."""
        identity = refused(self, handshake(server(GOOD), client(Level.DANE, TRUST), first=SECRET))
        self.assertEqual(identity.level, Level.NAME)
        self.assertIn("the policy requires: encrypted, server verified with DANE", identity.reasons[0])


class TrustTests(SynchronousTestCase):
    """Whom to trust: files, folders, given certificates, the system, pins."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def level(self, trust: Trust, leaf: Made = GOOD, *above: Made) -> Level:
        return seen(handshake(server(leaf, *above), client(Level.ENCRYPTED, trust))).level

    def test_a_file_and_a_folder(self) -> None:
        """All certificates in there, as PEM, whatever the files are called; nobody else."""
        both = b"".join(each.certificate.public_bytes(Encoding.PEM) for each in (root("foreign root"), root()))
        path = self.folder / "roots.pem"
        path.write_bytes(both)
        (self.folder / "README").write_text("no certificate")
        for roots in (RootsFile(path), RootsFolder(self.folder)):
            self.assertEqual((self.level(Trust(roots)), self.level(Trust(roots), OTHER)), (Level.NAME, Level.NAME))
            self.assertEqual(self.level(Trust(roots), good_leaf(root("third root"), Purpose.SERVER)), Level.ENCRYPTED)

    def test_roots_that_cannot_be_read(self) -> None:
        """A sentence that names the path, when the client is made and not at the first connection."""
        (self.folder / "empty.pem").write_text("")
        missing = self.folder / "missing"
        for roots in (
            RootsFile(missing),
            RootsFolder(missing),
            RootsFile(self.folder / "empty.pem"),
            RootsFolder(self.folder),
        ):
            error = self.assertRaises(MailsvcError, ClientTLS, ServerPolicy(trust=Trust(roots)))
            self.assertIn(str(roots.path), str(error))
        (self.folder / "empty.pem").unlink()
        error = self.assertRaises(MailsvcError, ClientTLS, ServerPolicy(trust=Trust(RootsFolder(self.folder))))
        self.assertIn("has no *.pem", str(error))

    def test_the_system_does_not_trust_our_ca(self) -> None:
        """The system's roots load, and a private CA is unknown to them."""
        identity = seen(handshake(server(GOOD, root()), client(Level.ENCRYPTED, Trust(SystemRoots()))))
        self.assertEqual(([each.kind for each in identity.findings], identity.level), (["unknown-ca"], Level.ENCRYPTED))

    def test_the_system_is_what_openssl_says(self) -> None:
        """SSL_CERT_FILE names other roots, as for every program; an intermediate among them is no root."""
        middle = make(root(), "middle CA", ca=True)
        path = self.folder / "system.pem"
        before = os.environ.get("SSL_CERT_FILE")
        self.addCleanup(lambda: os.environ.update(SSL_CERT_FILE=before) if before else os.environ.pop("SSL_CERT_FILE"))
        os.environ["SSL_CERT_FILE"] = str(path)
        path.write_bytes(root().certificate.public_bytes(Encoding.PEM))
        self.assertEqual(self.level(Trust(SystemRoots())), Level.NAME)
        path.write_bytes(middle.certificate.public_bytes(Encoding.PEM))
        self.assertEqual(self.level(Trust(SystemRoots()), good_leaf(middle, Purpose.SERVER)), Level.ENCRYPTED)

    def test_only_a_given_ca(self) -> None:
        """An intermediate CA, or a server's own certificate, may be all that is trusted."""
        middle = make(root(), "middle CA", ca=True)
        leaf, sibling = good_leaf(middle, Purpose.SERVER), good_leaf(root(), Purpose.SERVER)
        self.assertEqual(self.level(trusting(middle), leaf), Level.NAME)
        self.assertEqual(self.level(trusting(middle), sibling), Level.ENCRYPTED)
        alone = make(None, HOST, names=san(HOST))
        self.assertEqual(self.level(trusting(alone), alone), Level.NAME)
        self.assertEqual(self.level(trusting(alone), make(None, HOST, names=san(HOST))), Level.ENCRYPTED)

    def test_a_pin_alone_verifies_and_with_roots_it_is_one_demand_more(self) -> None:
        """Without roots the key decides, whatever dates and names say; with roots all must be right."""
        old = make(None, "old", names=san("old.example.net"), start=-timedelta(9), end=-timedelta(1))
        pinned = frozenset({spki_digest(old.certificate)})
        alone = Trust(NoRoots(), pins=pinned)
        identity = seen(handshake(server(old), client(Level.NAME, alone)))
        self.assertEqual((identity.level, identity.pinned), (Level.NAME, True))
        self.assertIn("expired", {each.kind for each in identity.findings})
        refused(self, handshake(server(GOOD), client(Level.NAME, alone), first=SECRET))
        good_pin = frozenset({spki_digest(GOOD.certificate)})
        self.assertEqual(self.level(trusting(root(), pins=good_pin)), Level.NAME)
        self.assertEqual(self.level(trusting(root(), pins=pinned), old), Level.ENCRYPTED)
        self.assertEqual(self.level(trusting(root(), pins=pinned)), Level.ENCRYPTED)
        refused(self, handshake(server(GOOD), client(Level.NAME, Trust(NoRoots())), first=SECRET))

    def test_a_weak_key_is_not_saved_by_its_pin(self) -> None:
        """Whoever can compute the key has the pin, too."""
        [weak] = [row for row in SERVERS if row.title == "a weak key"]
        trust = Trust(NoRoots(), pins=frozenset({spki_digest(weak.chain[0])}))
        refused(self, handshake(PlainServer(weak.chain, weak.key), client(Level.NAME, trust), first=SECRET))

    def test_a_pin_that_is_none(self) -> None:
        """A typing mistake in a pin is an error when the policy is made, not a server that is refused for ever."""
        for pin in ("", "ab", "A" * 64, "0" * 63 + "g"):
            self.assertRaises(ValueError, Trust, NoRoots(), (), frozenset({pin}))

    def test_a_revocation_list_says_nothing_about_other_cas(self) -> None:
        """Its CA's certificates are checked; those of a CA without a list pass without one."""
        trust = trusting(root(), root("foreign root"), crls=[crl(root())])
        self.assertEqual((self.level(trust), self.level(trust, OTHER)), (Level.NAME, Level.NAME))


class ClientCredentialTests(SynchronousTestCase):
    """The certificate that we show, and to whom."""

    def setUp(self) -> None:
        made = good_leaf(root(), Purpose.CLIENT)
        self.credential: Credential = make_credential("us", (made.certificate,), made.key)
        self.policy = ClientCertificatePolicy(Asking.ASK, TRUST)

    def shown(self, leaf: Made, newest: int, required: Level = Level.NAME) -> ClientCertificate | None:
        creator = ClientTLS(ServerPolicy(required, TRUST, self.credential)).to(HOST, 25)
        pair = handshake(server(leaf, policy=self.policy, newest=newest), creator)
        handle = pair.server.getHandle()
        return None if handle is None or handle.get_peer_finished() is None else client_certificate(handle, now())

    def test_a_server_that_asks_gets_it(self) -> None:
        """And can verify it."""
        for newest in VERSIONS:
            self.assertIsInstance(self.shown(GOOD, newest), Verified)

    def test_a_server_that_is_refused_never_sees_it(self) -> None:
        """Who we are is told to nobody whom we do not know."""
        for newest in VERSIONS:
            self.assertIsNone(self.shown(OTHER, newest))
            self.assertIsInstance(self.shown(OTHER, newest, Level.ENCRYPTED), Verified)


class ResumptionTests(SynchronousTestCase):
    """Kept sessions: what travels with them, and what does not."""

    def setUp(self) -> None:
        self.time = now()
        self.store = SessionStore(lambda: self.time)

    def tls(self, policy: ServerPolicy | None = None) -> ClientTLS:
        return ClientTLS(policy or ServerPolicy(Level.NAME, TRUST), sessions=self.store, now=lambda: self.time)

    def talk(self, there: PlainServer, tls: ClientTLS, name: str = HOST, port: int = 25, **more: object) -> Pair:
        pair = handshake(there, tls.to(name, port, **more))  # type: ignore[arg-type]
        if server_identity(pair.client) is not None:
            pair.exchange()
        return pair

    def keep(self, pair: Pair) -> bool:
        """Keep the session and close the connection: OpenSSL spoils the session of one that ends without a close."""
        kept = keep_session(pair.client)
        pair.client.loseConnection()
        pair.settle()
        return kept

    def test_the_verified_state_travels(self) -> None:
        """The second handshake is resumed, and knows the chain and the level of the first; so does the third.

        Rule: TLS client: the verified state of a session travels with it
        """
        us = good_leaf(root(), Purpose.CLIENT)
        shown = ServerPolicy(Level.NAME, TRUST, make_credential("us", (us.certificate,), us.key))
        for newest, policy in ((VERSIONS[0], None), (VERSIONS[1], None), (VERSIONS[1], shown)):
            there, tls = server(GOOD, newest=newest), self.tls(policy)
            first = self.talk(there, tls)
            before = seen(first)
            self.assertTrue(self.keep(first))
            for _ in range(2):
                again = self.talk(there, tls)
                identity = seen(again)
                self.assertEqual((identity.resumed, identity.level), (True, Level.NAME))
                self.assertEqual((identity.chain, identity.sent), (before.chain, before.sent))
                self.keep(again)

    def test_with_revocation_lists(self) -> None:
        """A policy with lists finds its sessions, too; one with other lists does not."""
        there, listed = server(GOOD), ServerPolicy(Level.NAME, trusting(root(), crls=[crl(root())]))
        tls = self.tls(listed)
        self.keep(self.talk(there, tls))
        self.assertTrue(seen(self.talk(there, tls)).resumed)

    def test_a_session_is_offered_once(self) -> None:
        """A listener on the way could link the two connections.

        Rule: TLS client: a session is offered once
        """
        there, tls = server(GOOD), self.tls()
        self.keep(self.talk(there, tls))
        self.assertEqual([seen(self.talk(there, tls)).resumed for _ in range(2)], [True, False])

    def test_no_store_no_resumption(self) -> None:
        """Who gave no store keeps nothing."""
        tls = ClientTLS(ServerPolicy(Level.NAME, TRUST))
        self.assertFalse(self.keep(self.talk(server(GOOD), tls)))

    def test_another_place_name_or_policy_finds_nothing(self) -> None:
        """A session is for one host, port, name and policy, and for the roots that it was checked against."""
        there, tls = server(good_leaf(root(), Purpose.SERVER, names=san(HOST, "pop.example.org"))), self.tls()
        others = [
            (tls, {"port": 26}),
            (tls, {"name": "pop.example.org"}),
            (tls, {"host": "192.0.2.1"}),
            (self.tls(ServerPolicy(Level.CHAIN, TRUST)), {}),
            (self.tls(ServerPolicy(Level.NAME, trusting(root(), root("foreign root")))), {}),
            (self.tls(), {}),  # the same policy, its roots read again
        ]
        for other, where in others:
            self.keep(self.talk(there, tls))
            self.assertFalse(seen(self.talk(there, other, **where)).resumed, where)  # type: ignore[arg-type]

    def test_a_failed_state_stays_failed(self) -> None:
        """What the first handshake found wrong is still wrong, though OpenSSL does not look again."""
        tls = self.tls(ServerPolicy(Level.ENCRYPTED, TRUST))
        there = server(OTHER)
        self.keep(self.talk(there, tls))
        identity = seen(self.talk(there, tls))
        self.assertEqual((identity.resumed, identity.level), (True, Level.ENCRYPTED))
        self.assertEqual([each.kind for each in identity.findings], ["incomplete-chain"])

    def test_a_refused_session_is_not_kept(self) -> None:
        """There is nothing to keep."""
        pair = self.talk(server(OTHER), self.tls())
        self.assertFalse(self.keep(pair))
        self.assertEqual(len(self.store), 0)

    def test_a_session_that_nobody_kept_the_state_of_proves_nothing(self) -> None:
        """Were a session offered without its evidence, the server would be refused: OpenSSL calls nobody."""
        there, tls = server(GOOD), self.tls()
        self.keep(self.talk(there, tls))
        [(key, kept)] = self.store._kept.items()
        self.store.keep(key, replace(kept, evidence=type(kept.evidence)()))
        identity = refused(self, self.talk(there, tls))
        self.assertEqual([each.kind for each in identity.findings], ["unverifiable"])

    def test_evidence_of_another_certificate_proves_nothing(self) -> None:
        """The certificate in the session must be the one that was checked."""
        there, tls = server(GOOD), self.tls()
        self.keep(self.talk(there, tls))
        [(key, kept)] = self.store._kept.items()
        another = good_leaf(root(), Purpose.SERVER).certificate
        chain = (another, root().certificate)
        self.store.keep(key, replace(kept, evidence=replace(kept.evidence, chain=chain)))
        self.assertIn("not the one that was checked", str(refused(self, self.talk(there, tls)).reasons))

    def test_time_is_looked_at_again(self) -> None:
        """A session does not outlive its hour, nor the certificates; and it does not begin anew when resumed."""
        there, tls = server(GOOD), self.tls()
        self.keep(self.talk(there, tls))
        self.time += timedelta(minutes=40)
        again = self.talk(there, tls)
        self.assertTrue(seen(again).resumed)
        self.keep(again)
        self.time += timedelta(minutes=40)
        self.assertFalse(seen(self.talk(there, tls)).resumed)
        short = server(good_leaf(root(), Purpose.SERVER, end=timedelta(minutes=30)))
        self.time = now()
        self.keep(self.talk(short, tls))
        self.time += timedelta(minutes=31)
        self.assertIn("expired", {each.kind for each in refused(self, self.talk(short, tls)).findings})

    def test_the_store_is_bounded(self) -> None:
        """The oldest goes first."""
        self.store = SessionStore(lambda: self.time, limit=2)
        there, tls = server(GOOD), self.tls()
        for port in (1, 2, 3):
            self.keep(self.talk(there, tls, port=port))
        self.assertEqual(len(self.store), 2)
        self.assertEqual([seen(self.talk(there, tls, port=port)).resumed for port in (1, 2, 3)], [False, True, True])

    def test_a_replaced_certificate_makes_a_full_handshake(self) -> None:
        """A server that does not know the session any more is checked as if nothing had been."""
        tls = self.tls()
        self.keep(self.talk(server(GOOD), tls))
        self.assertIn("incomplete-chain", {each.kind for each in refused(self, self.talk(server(OTHER), tls)).findings})


class ClientCertificateTests(SynchronousTestCase):
    """The server's half: what is known of a client's certificate."""

    def known(
        self, policy: ClientCertificatePolicy | None, tls: PlainClient, newest: int = VERSIONS[1]
    ) -> tuple[ClientCertificate | None, Pair]:
        pair = handshake(server(GOOD, policy=policy, newest=newest), tls, first=SECRET)
        handle = pair.server.getHandle()
        if handle is None or handle.get_peer_finished() is None:
            return None, pair
        return client_certificate(handle, now()), pair

    def test_off_and_none(self) -> None:
        """Not asked is not the same as asked and had none."""
        joe = good_leaf(root(), Purpose.CLIENT)
        shows = PlainClient([joe.certificate], joe.key)
        for policy in (None, ClientCertificatePolicy()):
            self.assertEqual(self.known(policy, shows)[0], NOT_ASKED)
        self.assertEqual(self.known(ClientCertificatePolicy(Asking.ASK, TRUST), PlainClient())[0], NO_CERTIFICATE)

    def test_verified(self) -> None:
        """Subject, issuer, names, mail addresses, the key and the root that vouches for it."""
        joe = good_leaf(root(), Purpose.CLIENT)
        for asking in (Asking.ASK, Asking.REQUIRE):
            for newest in VERSIONS:
                tls = PlainClient([joe.certificate], joe.key)
                found, pair = self.known(ClientCertificatePolicy(asking, TRUST), tls, newest)
                expected = Verified(
                    "CN=leaf.example.org",
                    "CN=root",
                    (HOST, "joe@example.org"),
                    spki_digest(joe.certificate),
                    ("joe@example.org",),
                    spki_digest(root().certificate),
                )
                self.assertEqual((found, pair.server_end.received), (expected, SECRET))

    def test_each_bad_one_is_recorded(self) -> None:
        """The session goes on, every reason is told, and the key of whoever it is.

        Rule: TLS server: every error of a client certificate is recorded
        """
        for row in CLIENTS:
            policy = ClientCertificatePolicy(Asking.ASK, row.trust)
            found, pair = self.known(policy, PlainClient(row.chain, row.key))
            assert isinstance(found, Failed), (row.title, found)
            self.assertIn(row.kind, found.kinds, row.title)
            self.assertTrue(any(row.words[:100] in reason for reason in found.reasons), (row.title, found.reasons))
            self.assertEqual(found.spki == spki_digest(row.chain[0]), "garbage" not in row.title, row.title)
            self.assertEqual(pair.server_end.received, SECRET)

    def test_each_bad_one_is_refused_where_one_is_required(self) -> None:
        """The server's application hears nothing, and its log gets the sentence."""
        for row in CLIENTS:
            for newest in VERSIONS:
                policy = ClientCertificatePolicy(Asking.REQUIRE, row.trust)
                found, pair = self.known(policy, PlainClient(row.chain, row.key), newest)
                reason = pair.server_end.reason
                assert isinstance(reason, HandshakeRefused), (row.title, reason)
                self.assertEqual((found, pair.server_end.received), (None, b""), row.title)
                self.assertTrue(any(row.words in each for each in reason.reasons), (row.title, reason.reasons))

    def test_none_where_one_is_required(self) -> None:
        """No certificate, no session."""
        found, pair = self.known(ClientCertificatePolicy(Asking.REQUIRE, TRUST), PlainClient())
        self.assertEqual((found, pair.server_end.received), (None, b""))
        self.assertIsInstance(pair.server_end.reason, SSL.Error)

    def test_a_session_is_not_resumed_where_certificates_count(self) -> None:
        """Tickets are off: each session is checked, in TLS 1.2 and 1.3."""
        joe = good_leaf(root(), Purpose.CLIENT)
        for newest in VERSIONS:
            tls = PlainClient([joe.certificate], joe.key)
            there = server(GOOD, policy=ClientCertificatePolicy(Asking.ASK, TRUST), newest=newest)
            pairs = []
            for _ in range(2):
                pair = handshake(there, tls)
                pair.exchange()
                pairs.append(pair)  # kept: OpenSSL spoils the session of a connection that ends without a close
                self.assertIsInstance(client_certificate(pair.server.getHandle(), now()), Verified)
                tls.session = pair.client.getHandle().get_session()

    def test_a_resumed_session_is_not_verified(self) -> None:
        """Where tickets are on, the certificate comes out of the ticket and nobody has checked it now.

        Rule: TLS server: a resumed session is not verified
        """
        joe = good_leaf(root(), Purpose.CLIENT)
        tls = PlainClient([joe.certificate], joe.key)
        ticketed = PlainServer([GOOD.certificate], GOOD.key)
        fill_store(ticketed.context, TRUST)
        ticketed.context.set_verify(SSL.VERIFY_PEER, lambda *call: True)
        first = handshake(ticketed, tls)
        first.exchange()
        tls.session = first.client.getHandle().get_session()
        found = client_certificate(handshake(ticketed, tls).server.getHandle(), now())
        self.assertEqual(found, Resumed("CN=leaf.example.org", spki_digest(joe.certificate)))


class ValueTests(SynchronousTestCase):
    """The values that travel into headers, logs and rows."""

    @given(st.text())
    @settings(deadline=None)
    def test_safe_text(self, text: str) -> None:
        """Printable ASCII, bounded, whatever a certificate says."""
        made = safe_text(text)
        self.assertTrue(made.isascii() and made.isprintable() and len(made) <= TEXT_LIMIT)
        if text.isascii() and text.isprintable() and len(text) <= TEXT_LIMIT:
            self.assertEqual(made, text)

    def test_values_are_safe_when_they_are_made(self) -> None:
        """A subject with a line break, names without end, an address that is not quite one."""
        verified = Verified(
            "a\r\nReceived: forged", "J\u00f6rg", ("x",) * 99, "0" * 64, ("a@b\0c", "ok@b", "a b@c", "x" * 300)
        )
        self.assertEqual((verified.subject, verified.issuer), ("a??Received: forged", "J\\C3\\B6rg"))
        self.assertEqual((len(verified.names), verified.emails), (LIST_LIMIT, ("ok@b",)))
        failed = Failed(("x" * 1000,), "\u202e", kinds=("expired",))
        self.assertEqual((len(failed.reasons[0]), failed.subject), (TEXT_LIMIT, "?"))

    def test_a_finding_has_a_kind_of_ours(self) -> None:
        """Machines can rely on the list."""
        self.assertRaises(ValueError, finding, "unforeseen", 0, "text")


class RecheckTests(SynchronousTestCase):
    """The second look, without OpenSSL: it must find by itself what it can find."""

    def test_it_finds_what_openssl_finds(self) -> None:
        """Every row but those that need roots, lists, pins or name constraints."""
        needs = {
            "unknown-ca",
            "incomplete-chain",
            "self-signed",
            "revoked",
            "crl",
            "pin",
            "name-constraints",
            "extension",
        }
        for row in SERVERS:
            if row.kind in needs:
                continue
            chain = (*row.chain, *(row.trust.roots.certificates if isinstance(row.trust.roots, OnlyThese) else ()))
            found = [*check_again(chain, Purpose.SERVER, now()), *check_name(chain[0], row.name)]
            self.assertIn((row.kind, row.depth), [(each.kind, each.depth) for each in found], row.title)

    def test_a_good_chain_has_nothing(self) -> None:
        """Neither as a server's nor under its name."""
        chain = (GOOD.certificate, root().certificate)
        self.assertEqual((check_again(chain, Purpose.SERVER, now()), check_name(chain[0], HOST)), ((), ()))

    @given(st.text(max_size=300))
    @settings(deadline=None)
    def test_no_name_makes_the_check_fail_open(self, name: str) -> None:
        """Whatever is asked for: a finding, unless it is that host."""
        if name.rstrip(".").lower() != HOST:
            self.assertNotEqual(check_name(GOOD.certificate, name), ())
