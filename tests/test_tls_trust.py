"""What listeners demand of their clients: views of the one server, the files behind them, and their reload."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued
from mailsvc.certkit.revocation import list_pem, new_list
from mailsvc.errors import StartRefused
from mailsvc.mail.channel import Failed, NoCertificate, NotAsked, Verified
from mailsvc.tls.credential import make_credential
from mailsvc.tls.identity import proven_key, vouched_addresses
from mailsvc.tls.policy import Asking, ListenerPolicy
from mailsvc.tls.roots import OnlyThese, Trust
from mailsvc.tls.server import ServerTLS, tls_facts
from mailsvc.tls.table import make_table
from mailsvc.tls.trust import Demand, LiveTrust, TrustSource, list_remarks
from tests.bad_certificates import Made, now, root
from tests.client_certificates import asking, key_of, person
from tests.memory import HOSTNAME, log_lines, server_tls
from tests.pki import credential
from tests.tls_pair import PlainClient, handshake


def seen(server: ServerTLS, listener: str, made: Made | None) -> object:
    """What a listener knows of a client that shows this certificate."""
    client = PlainClient() if made is None else PlainClient([made.certificate], made.key)
    facts = tls_facts(handshake(server.view(listener), client).server)
    assert facts is not None
    return facts.client


class ViewTests(SynchronousTestCase):
    """`ServerTLS.view`."""

    def test_each_listener_its_own(self) -> None:
        """One asks, one does not, each with roots of its own; a listener of which nothing was said asks nobody.

        Rule: Client certificates: ask, require or off for each listener
        """
        other = root("other")
        server = ServerTLS(server_tls().table, {"smtp": asking(), "pop3": asking(Asking.ASK, other)})
        self.assertIsInstance(seen(server, "smtp", person()), Verified)
        self.assertIsInstance(seen(server, "smtp", None), NoCertificate)
        self.assertIsInstance(seen(server, "pop3", person()), Failed)
        self.assertIsInstance(seen(server, "pop3", person(issuer=other)), Verified)
        self.assertIsInstance(seen(server, "lmtp", person()), NotAsked)
        self.assertIsInstance(seen(server, "", person()), NotAsked)

    def test_all_swap_together(self) -> None:
        """A new table is in use on every view at once, and the policies stay."""
        server = ServerTLS(server_tls().table, {"smtp": asking()})
        views = [server.view("smtp"), server.view("pop3"), server]
        made = credential(("new.example.org",))
        server.replace(make_table([make_credential("new", (made.certificate,), made.key)], HOSTNAME))
        for view in views:
            shown = handshake(view, PlainClient()).client.getPeerCertificate()
            self.assertEqual(shown.to_cryptography(), made.certificate)
        self.assertIsInstance(seen(server, "smtp", person()), Verified)

    def test_other_demands(self) -> None:
        """New demands hold from the next connection on, for a view that was given out before, too."""
        server = ServerTLS(server_tls().table)
        view = server.view("smtp")
        server.demand({"smtp": asking()})
        facts = tls_facts(handshake(view, PlainClient()).server)
        assert facts is not None
        self.assertIsInstance(facts.client, NoCertificate)

    def test_sessions_are_resumed_only_where_they_may(self) -> None:
        """By default they are; with tickets = false, and where certificates are asked for, they are not; and a session
        of a listener that asks for nothing opens none of one that asks.

        Rule: No resumption where client certificates authorise
        """
        off = ListenerPolicy(tickets=False)
        server = ServerTLS(server_tls().table, {"off": off, "asks": asking(), "plain": ListenerPolicy()})
        for first, second, resumed in (
            ("plain", "plain", True),
            ("off", "off", False),
            ("asks", "asks", False),
            ("plain", "asks", False),
            ("plain", "off", False),
        ):
            for newest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
                checks: list[int] = []
                client = PlainClient()
                client.context.set_max_proto_version(newest)
                # Asked in full handshakes only.
                client.context.set_verify(SSL.VERIFY_PEER, lambda *call, checks=checks: not checks.append(1))
                pair = handshake(server.view(first), client)
                pair.exchange()
                client.session = pair.client.getHandle().get_session()
                self.assertTrue(checks)
                checks.clear()
                handshake(server.view(second), client).exchange()
                self.assertEqual(not checks, resumed, (first, second, newest))


class IdentityRules(SynchronousTestCase):
    """`mailsvc.tls.identity`."""

    def test_proven_key(self) -> None:
        """The key of a verified certificate, or of one that only nobody has signed whom we trust."""
        spki = "ab" * 32
        self.assertEqual(proven_key(Verified("", "", (), spki)), spki)
        for kinds, proven in (
            (("self-signed",), spki),
            (("unknown-ca", "incomplete-chain"), spki),
            (("self-signed", "expired"), ""),
            (("revoked",), ""),
            ((), ""),
            (("unknown-ca",) * 20, ""),
        ):
            self.assertEqual(proven_key(Failed(("x",), spki=spki, kinds=kinds)), proven, kinds)
        self.assertEqual(proven_key(Failed(("x",), spki=spki, kinds=("self-signed",), lists=True)), "")
        for nothing in (NotAsked(), NoCertificate()):
            self.assertEqual(proven_key(nothing), "")

    def test_vouched(self) -> None:
        """Addresses count when the chain ends in a CA that may vouch, and only then."""
        verified = Verified("", "", (), "ab" * 32, ("a@example.org",), "cd" * 32)
        self.assertEqual(vouched_addresses(verified, frozenset({"cd" * 32})), ("a@example.org",))
        self.assertEqual(vouched_addresses(verified, frozenset({"ab" * 32})), ())
        self.assertEqual(vouched_addresses(Verified("", "", (), "", ("a@b",)), frozenset({""})), ())
        self.assertEqual(vouched_addresses(Failed(("x",)), frozenset({"cd" * 32})), ())


def at_once(work: Callable[[], Any]) -> Deferred[Any]:
    """A thread that is always ready."""
    made: Deferred[Any] = Deferred()
    try:
        made.callback(work())
    except Exception:
        made.errback()
    return made


class ReloadTests(SynchronousTestCase):
    """Roots and lists are files that change."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.roots, self.lists = self.folder / "ca.pem", self.folder / "crl.pem"
        self.alice, self.bob = person("alice"), person("bob")
        self.roots.write_bytes(root().certificate.public_bytes(Encoding.PEM))
        self.revoke()
        self.source = TrustSource({"smtp": Demand(Asking.ASK, self.roots, self.lists)}, self.roots)
        trusted = self.source.read()
        self.server = ServerTLS(server_tls().table, trusted.policies)
        self.clock = Clock()
        self.live = LiveTrust(self.source, trusted, self.server, self.clock, at_once, look=10)
        self.live.start()

    def tearDown(self) -> None:
        self.live.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def revoke(self, *made: Made) -> None:
        ca = root()
        serials = [each.certificate.serial_number for each in made]
        fresh = self.lists.with_suffix(".new")
        fresh.write_bytes(list_pem(new_list(Issued(ca.certificate, ca.key), None, serials, "key-compromise", now())))
        fresh.rename(self.lists)

    def test_a_new_list(self) -> None:
        """What its CA revokes is refused from the next look on, or from SIGHUP on.

        Rule: Revocation lists and roots are read again
        """
        self.assertIsInstance(seen(self.server, "smtp", self.alice), Verified)
        self.revoke(self.alice)
        self.assertIsInstance(seen(self.server, "smtp", self.alice), Verified)
        self.clock.advance(10)
        failed = seen(self.server, "smtp", self.alice)
        assert isinstance(failed, Failed)
        self.assertEqual((failed.kinds, failed.brief), (("revoked",), ("revoked",)))
        self.revoke(self.alice, self.bob)
        self.live.reload()
        self.assertIsInstance(seen(self.server, "smtp", self.bob), Failed)

    def test_a_bad_file_changes_nothing(self) -> None:
        """A file that is no list, or gone: the last good one stays, the log says why, once; a good one mends it.

        Rule: Revocation lists and roots are read again
        """
        self.revoke(self.alice)
        self.clock.advance(10)
        self.lists.write_text("not a list")
        said = log_lines(lambda: self.clock.pump([10, 10, 10]))
        self.assertEqual(len(said), 1, said)
        self.assertIn("client_certificates.smtp: ", said[0])
        self.lists.unlink()
        self.assertIn("does not exist", " ".join(log_lines(lambda: self.clock.advance(10))))
        self.assertIsInstance(seen(self.server, "smtp", self.alice), Failed)
        self.revoke()
        self.clock.advance(10)
        self.assertIsInstance(seen(self.server, "smtp", self.alice), Verified)

    def test_who_may_vouch(self) -> None:
        """The CAs that may vouch are those in the file now."""
        self.assertEqual(self.live.vouching, {key_of(root())})
        self.roots.write_bytes(root("other").certificate.public_bytes(Encoding.PEM))
        self.clock.advance(10)
        self.assertEqual(self.live.vouching, {key_of(root("other"))})
        self.assertIsInstance(seen(self.server, "smtp", self.alice), Failed)

    def test_nothing_changed(self) -> None:
        """A look that finds nothing new makes no new contexts."""
        before = self.server._lives
        self.clock.advance(10)
        self.assertIs(self.server._lives, before)

    def test_one_look_at_a_time(self) -> None:
        """A wish that comes while a look is under way makes another follow; the stop waits for the look."""
        waiting: list[Deferred[Any]] = []

        def slow(work: Callable[[], Any]) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1].addCallback(lambda _: work())

        live = LiveTrust(self.source, self.source.read(), self.server, Clock(), slow)
        live.start()
        live.reload()
        self.assertEqual(len(waiting), 1)
        waiting[0].callback(None)
        waiting[1].callback(None)
        self.assertEqual(len(waiting), 3)
        stopped = live.stop()
        self.assertNoResult(stopped)
        waiting[2].callback(None)
        self.successResultOf(stopped)

    def test_a_path_that_cannot_be_followed(self) -> None:
        """Too long here, and not permitted elsewhere: a sentence, as for a file that is missing."""
        link = self.folder / "link"
        link.symlink_to("x" * 300)
        source = TrustSource({"smtp": Demand(Asking.ASK, link), "pop3": Demand(Asking.ASK, self.roots, link)}, link)
        source.state()
        problems = self.assertRaises(StartRefused, source.read).problems
        self.assertEqual(len(problems), 3)

    def test_every_problem_at_once(self) -> None:
        """A start is refused with all that is wrong."""
        missing = self.folder / "missing.pem"
        source = TrustSource(
            {"smtp": Demand(Asking.ASK, missing), "pop3": Demand(Asking.ASK, self.roots, self.roots)}, missing
        )
        problems = self.assertRaises(StartRefused, source.read).problems
        self.assertEqual(len(problems), 3)
        for problem, name in zip(problems, ("smtp", "pop3", "accounts.certificate_cas"), strict=True):
            self.assertIn(name, problem)

    def test_folders(self) -> None:
        """Roots and lists may be folders of files."""
        source = TrustSource({"smtp": Demand(Asking.ASK, self.folder, self.folder / "lists")})
        (self.folder / "lists").mkdir()
        self.lists.rename(self.folder / "lists" / "a.crl")
        policy = source.read().policies["smtp"].clients
        self.assertEqual(len(policy.trust.crls), 1)
        self.assertNotEqual(source.state(), TrustSource({}).state())

    def test_a_folder_without_lists(self) -> None:
        """A folder of lists that is empty is a disk that is not mounted, and not the end of all revocations.

        Rule: Revocation lists and roots are read again
        """
        folder = self.folder / "lists"
        folder.mkdir()
        source = TrustSource({"smtp": Demand(Asking.ASK, self.roots, folder)})
        [problem] = self.assertRaises(StartRefused, source.read).problems
        self.assertIn("has no *.pem or *.crl in it", problem)

    def test_lists_that_end(self) -> None:
        """What `mailsvc doctor` says of a list: out of date, soon out of date, of a CA that nobody trusts."""
        trust = self.source.read().policies["smtp"].clients.trust
        self.assertEqual(list_remarks(trust, now()), [])
        for days, how, words in ((20, "warning", "is good until"), (35, "error", "out of date")):
            [(found, text)] = list_remarks(trust, now() + timedelta(days=days))
            self.assertEqual(found, how)
            self.assertIn(words, text)
        [(found, text)] = list_remarks(Trust(OnlyThese((root("other").certificate,)), trust.crls), now())
        self.assertEqual((found, "changes nothing" in text), ("warning", True))

    def test_off_reads_nothing(self) -> None:
        """A listener that asks for nothing needs no files."""
        policy = TrustSource({"smtp": Demand(Asking.OFF, self.folder / "gone")}).read().policies["smtp"]
        self.assertEqual(policy, ListenerPolicy())
