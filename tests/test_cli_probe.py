"""`mailsvc probe`: what it reports and concludes, also of servers on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
from twisted.internet import reactor as installed
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.cli.probe import Plan, _place, _spoken, probed
from mailsvc.cli.probe_self import MOST_NAMES, Tried, all_tried, status_of, worth
from mailsvc.config import Configuration
from mailsvc.config.settings import Listen
from mailsvc.mtasts.record import PolicyMode, StsPolicy
from mailsvc.probe.conclusion import Published, conclude
from mailsvc.probe.observation import Observation, Outcome, Spoken, Stop, Talk, Target
from mailsvc.probe.report import Report, as_json, lines
from mailsvc.probe.session import Limits
from mailsvc.relay.demands import DaneFacts, StsFacts
from mailsvc.resolver import Answer, MailHost
from mailsvc.tls.chain import finding
from mailsvc.tls.credential import make_credential
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Demand
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.recheck import spki_digest
from mailsvc.tls.roots import NoRoots, Trust
from mailsvc.tls.table import make_table
from tests.bad_certificates import HOST, make, root, san
from tests.hostile import good, trust
from tests.probe_server import Serving

reactor: Any = installed
TARGET = Target(HOST, 25, Talk.SMTP, False, HOST)
IDENTITY = ServerIdentity(
    HOST,
    Level.ENCRYPTED,
    Level.NAME,
    "TLSv1.3",
    "TLS_AES_256_GCM_SHA384",
    256,
    "x25519",
    (),
    (),
    (),
    (),
    False,
    None,
    False,
)
SEEN = Observation(TARGET, "192.0.2.1", (Spoken("S", "220 hi"),), ("STARTTLS",), ("SIZE 1",), IDENTITY)
PLAIN = Observation(TARGET, "192.0.2.1", stop=Stop(Outcome.NO_TLS, "the server does not offer STARTTLS"))
USABLE = DaneFacts("_25._tcp.mail.example.org", (TLSARecord(3, 1, 1, b"x" * 32),))
ENFORCE = StsFacts("example.org", "1", StsPolicy(PolicyMode.ENFORCE, (HOST,), 86400))


class Conclusions(SynchronousTestCase):
    """What it is worth, and what our relay would do."""

    def test_outcomes_have_their_own_status(self) -> None:
        """0 is good, 1 and 2 are the command's own; every other is told apart."""
        statuses = [each.value for each in Outcome]
        self.assertEqual(statuses, [0, 3, 4, 5, 6, 7])

    def test_verified(self) -> None:
        """A verified name is what a strict client wants, DANE as well."""
        for level in (Level.NAME, Level.DANE):
            found = conclude(replace(SEEN, identity=replace(IDENTITY, level=level)), Published())
            self.assertEqual((found.outcome, found.delivers), (Outcome.VERIFIED, True))

    def test_less_than_a_name(self) -> None:
        """Encryption alone is delivered over, and not verified."""
        for level in (Level.ENCRYPTED, Level.CHAIN):
            found = conclude(replace(SEEN, identity=replace(IDENTITY, level=level)), Published())
            self.assertEqual((found.outcome, found.delivers), (Outcome.UNVERIFIED, True))
            self.assertIn("a strict client refuses", found.sentence)

    def test_less_than_is_demanded(self) -> None:
        """A name is not enough where TLSA records are published, and then the outcome is no success."""
        found = conclude(SEEN, Published("example.org", USABLE))
        self.assertEqual((found.outcome, found.delivers), (Outcome.UNVERIFIED, False))
        self.assertIn("try again later", found.relay)
        self.assertIn("TLSA records are published", found.relay)

    def test_in_clear(self) -> None:
        """Without TLS mail goes only where nobody has promised TLS: a stripped STARTTLS meets what is known."""
        self.assertTrue(conclude(PLAIN, Published()).delivers)
        for published in (
            Published("example.org", USABLE),
            Published("example.org", sts=ENFORCE),
            Published("example.org", memory=Demand(Level.ENCRYPTED, "it was encrypted before")),
        ):
            found = conclude(PLAIN, published)
            self.assertEqual((found.outcome, found.delivers), (Outcome.NO_TLS, False))

    def test_obstacles(self) -> None:
        """A policy that does not name the host, a question without an answer: not here, not now."""
        elsewhere = StsFacts("example.org", "1", StsPolicy(PolicyMode.ENFORCE, ("x.example.net",), 1))
        self.assertFalse(conclude(SEEN, Published("example.org", sts=elsewhere)).delivers)
        self.assertFalse(conclude(SEEN, Published("example.org", DaneFacts(obstacle="SERVFAIL"))).delivers)

    def test_broken_is_never_used(self) -> None:
        """Where an attack shows nothing is delivered, not even in clear."""
        for kind in (Outcome.BROKEN, Outcome.UNREACHED):
            self.assertFalse(conclude(replace(PLAIN, stop=Stop(kind, "x")), Published()).delivers)

    def test_mail_programs_have_no_relay(self) -> None:
        """For POP3 and IMAP nothing is said of delivery."""
        found = conclude(replace(SEEN, target=replace(TARGET, talk=Talk.POP3)), Published("example.org", USABLE))
        self.assertEqual((found.outcome, found.delivers, found.relay), (Outcome.VERIFIED, None, ""))


class Reports(SynchronousTestCase):
    """The same facts in two forms."""

    def report(self, seen: Observation, published: Published | None = None) -> Report:
        published = published or Published("example.org", USABLE, ENFORCE)
        return Report(seen, published, conclude(seen, published), datetime.now(UTC), True)

    def test_everything_is_told(self) -> None:
        """Dialogue, channel, certificates, findings, what is published, the verdict."""
        bad = replace(
            IDENTITY,
            sent=(good().certificate, root().certificate),
            chain=(good().certificate,),
            chain_findings=(finding("expired", 0, "it has expired"),),
        )
        seen = replace(SEEN, identity=bad, remarks=("something odd",), wants=("CN=ca",))
        text = "\n".join(lines(self.report(seen), show_pem=True))
        for words in (
            "S 220 hi",
            "TLSv1.3",
            "x25519",
            spki_digest(good().certificate),
            "-----BEGIN CERTIFICATE-----",
            "it has expired",
            "something odd",
            "a client certificate of CN=ca",
            "_25._tcp.mail.example.org: 3 1 1",
            "example.org says enforce for mail.example.org, which names",
            "a second handshake took the session up",
            "our relay:",
        ):
            self.assertIn(words, text)
        told: Any = json.loads(json.dumps(as_json(self.report(seen))))
        self.assertEqual(told["tls"]["findings"], [{"kind": "expired", "depth": 0, "text": "it has expired"}])
        self.assertEqual((told["status"], told["mta_sts"]["mode"], told["relay"]["demands"]), (3, "enforce", "dane"))
        self.assertTrue(told["tls"]["certificates"][0]["pem"].startswith("-----BEGIN"))

    def test_without_tls(self) -> None:
        """What was not seen is not invented."""
        text = "\n".join(lines(self.report(PLAIN)))
        self.assertNotIn("Channel", text)
        self.assertIn("does not offer STARTTLS", text)
        self.assertIsNone(as_json(self.report(PLAIN))["tls"])


class Arguments(SynchronousTestCase):
    """HOST[:PORT] and what is spoken there."""

    def test_places(self) -> None:
        """Names, addresses, and what is neither."""
        for text, place in {
            "Mail.Example.org": ("mail.example.org", None),
            "mail.example.org:587": ("mail.example.org", 587),
            "192.0.2.1:25": ("192.0.2.1", 25),
            "2001:db8::1": ("2001:db8::1", None),
            "[2001:db8::1]:465": ("2001:db8::1", 465),
            "bücher.example": ("xn--bcher-kva.example", None),
        }.items():
            self.assertEqual(_place(text), place)
        for text in ("a b", "x:0", "x:65536", "x:y", "*.example.org", "", "-x"):
            self.assertRaises(click.UsageError, _place, text)

    def test_ports(self) -> None:
        """The well-known ports say what is spoken; --starttls says otherwise; elsewhere TLS is begun at once."""
        self.assertEqual(_spoken(None, None), (Talk.SMTP, False))
        self.assertEqual(_spoken(465, None), (Talk.SMTP, True))
        self.assertEqual(_spoken(995, None), (Talk.POP3, True))
        self.assertEqual(_spoken(143, None), (Talk.IMAP, False))
        self.assertEqual(_spoken(8443, None), (Talk.NOTHING, True))
        self.assertEqual(_spoken(8443, "lmtp"), (Talk.LMTP, False))

    def test_a_listener_that_demands_client_certificates(self) -> None:
        """Its own certificate was verified before ours was missed, and that was the question; no other end passes."""
        missed = Stop(Outcome.HANDSHAKE, "give one (tlsv13 alert certificate required)")
        self.assertIs(worth(replace(SEEN, stop=missed))[0], Outcome.VERIFIED)
        self.assertIs(worth(replace(SEEN, stop=Stop(Outcome.UNREACHED, "closed")))[0], Outcome.UNREACHED)
        self.assertIs(worth(replace(SEEN, identity=None, stop=missed))[0], Outcome.HANDSHAKE)

    def test_status_of_self(self) -> None:
        """The worst counts, and nothing tried is no success."""
        good_one = Tried("smtp", "x", "y", Outcome.VERIFIED, "")
        note = Tried("smtp", "x", "", None, "")
        self.assertEqual(status_of([good_one, note]), 0)
        self.assertEqual(status_of([good_one, Tried("smtp", "x", "y", Outcome.NO_TLS, "")]), 4)
        self.assertEqual(status_of([note]), 7)


class NoNames:
    """A resolver that knows one host."""

    doubt = ""

    def __init__(self, tlsa: Sequence[TLSARecord] = ()) -> None:
        self._tlsa = tuple(tlsa)

    async def addresses(self, name: str) -> Answer[str]:
        return Answer(("192.0.2.1",), True, "", name)

    async def mail_hosts(self, domain: str) -> Answer[MailHost]:
        return Answer((MailHost(10, HOST),) if domain == "example.org" else (), True)

    async def texts(self, name: str) -> Answer[str]:
        return Answer((), True)

    async def tlsa(self, name: str) -> Answer[TLSARecord]:
        return Answer(self._tlsa, True)


class Sockets(Serving):
    """Through real sockets on loopback."""

    def plan(self, port: int, **more: Any) -> Plan:
        target = Target("127.0.0.1", port, Talk.SMTP, False, HOST)
        return Plan(target, more.pop("trust", trust()), limits=Limits(), **more)

    async def test_all_of_it(self) -> None:
        """Connection, STARTTLS, what is published; and a second handshake that is a resumed one."""
        report = await probed(self.plan(self.serve(), resume=True), reactor, NoNames())
        self.assertIs(report.conclusion.outcome, Outcome.VERIFIED)
        self.assertEqual((report.seen.peer, report.published.domain), ("127.0.0.1", "example.org"))
        self.assertIn("no TLSA records", report.published.dane.remark)
        self.assertIn("has no MTA-STS", report.published.sts.remark)
        self.assertTrue(report.resumed)

    async def test_a_unix_socket(self) -> None:
        """LMTP on a socket of this machine, with STARTTLS and without: no DNS is asked, the report names the path."""
        for keywords, outcome, words in (
            (b"250-x\r\n250 STARTTLS\r\n", Outcome.VERIFIED, "it would deliver (encrypted, server name verified)"),
            (b"250 x\r\n", Outcome.NO_TLS, "it would deliver in clear"),
        ):
            path = self.serve_locally(lhlo=keywords)
            target = Target("", 0, Talk.LMTP, False, HOST, path=path)
            report = await probed(Plan(target, trust(), limits=Limits()), reactor, NoNames())
            self.assertIs(report.conclusion.outcome, outcome)
            self.assertIn(words, report.conclusion.relay)
            self.assertIn("a socket of this machine is in no DNS", report.published.dane.remark)
            self.assertIn(f"unix:{path}, LMTP, STARTTLS", "\n".join(lines(report)))
            facts: Any = as_json(report)["target"]
            self.assertEqual((facts["host"], facts["port"], facts["path"]), (None, None, path))
        target = replace(target, path=f"{path}.none")
        report = await probed(Plan(target, trust(), limits=Limits()), reactor, NoNames())
        self.assertIs(report.conclusion.outcome, Outcome.UNREACHED)
        self.assertIn("no such file", report.conclusion.sentence)

    async def test_dane(self) -> None:
        """A TLSA record that matches verifies a server that no CA vouches for; one that does not refuses it."""
        record = TLSARecord(3, 1, 1, bytes.fromhex(spki_digest(good().certificate)))
        port = self.serve()
        nobody = Trust(NoRoots())
        report = await probed(self.plan(port, trust=nobody), reactor, NoNames([record]))
        self.assertEqual((report.conclusion.outcome, report.conclusion.level), (Outcome.VERIFIED, Level.DANE))
        self.assertIn("matches", "\n".join(lines(report)))
        wrong = NoNames([TLSARecord(3, 1, 1, b"x" * 32)])
        report = await probed(self.plan(port), reactor, wrong)
        self.assertEqual((report.conclusion.outcome, report.conclusion.delivers), (Outcome.UNVERIFIED, False))
        self.assertIn("none of them matches", "\n".join(lines(report)))

    async def test_memory(self) -> None:
        """What is remembered of the domain is asked for, and decides about a server that has lost its TLS."""
        asked: list[str] = []

        def remembered(domain: str) -> Demand:
            asked.append(domain)
            return Demand(Level.NAME, "it was verified before")

        report = await probed(self.plan(self.serve(ehlo=b"250 x\r\n")), reactor, NoNames(), remembered)
        self.assertEqual(asked, ["example.org"])
        self.assertEqual((report.conclusion.outcome, report.conclusion.delivers), (Outcome.NO_TLS, False))

    async def test_self_says_what_it_leaves_out(self) -> None:
        """Of a certificate with very many names some are not tried, and that is told."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        off = dict.fromkeys(("submission", "submissions", "pop3", "pop3s"), ())
        listen = Listen(smtp=(f"tcp:{port}:interface=127.0.0.1",), **off)
        configuration = replace(Configuration(), listen=listen)
        names = [f"n{number}.example.org" for number in range(MOST_NAMES + 3)]
        many = make(root(), "x", names=san(*names))
        table = make_table([make_credential("many", (many.certificate,), many.key)], names[0])
        note, refused = await all_tried(configuration, table, Limits(), reactor)
        self.assertIsNone(note.outcome)
        self.assertIn("3 further names were not tried", note.text)
        self.assertIs(refused.outcome, Outcome.UNREACHED)
