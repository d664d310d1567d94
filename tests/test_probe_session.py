"""A probe and servers of every kind, most of them bad: always a sentence, never a traceback or a hang."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.probe.conclusion import Published, conclude
from mailsvc.probe.observation import Observation, Outcome, Talk, Target, changes
from mailsvc.probe.session import Limits, observe
from mailsvc.relay.channel import Channel, TooSlow
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.levels import Level
from mailsvc.tls.policy import Asking, ClientCertificatePolicy, ServerPolicy
from mailsvc.tls.recheck import Purpose
from tests.bad_certificates import DAY, HOST, bad_certificates, make, root, san
from tests.hostile import CLOSE, HEAR, RESET, TLS, HostileServer, Script, Step, good, good_tls, trust
from tests.memory import Cut, byte_by_byte, whole
from tests.test_tls_ocsp import response

LIMITS = Limits()
PATIENCE = 1000.0
GREETING = b"220 mail.example.org ESMTP\r\n"
EHLO = b"250-mail.example.org\r\n250-SIZE 1000\r\n250 STARTTLS\r\n"
INSIDE = b"250-mail.example.org\r\n250 SIZE 1000\r\n"
READY = b"220 go ahead\r\n"
BYE = b"221 bye\r\n"

BEFORE: tuple[bytes | Step, ...] = (GREETING, HEAR, EHLO, HEAR, READY)
AFTER: tuple[bytes | Step, ...] = (HEAR, INSIDE, HEAR, BYE, CLOSE)


def target(talk: Talk = Talk.SMTP, *, at_once: bool = False, sender: str = "") -> Target:
    return Target(HOST, 25, talk, at_once, HOST, "client.example.net", sender)


def seen(
    script: Script,
    of: Target | None = None,
    *,
    cut: Cut = whole,
    policy: ServerPolicy | None = None,
    seconds: float = PATIENCE,
) -> tuple[Observation, HostileServer]:
    """What a probe sees of a server with this script, after a long time."""
    of = of or target()
    server = HostileServer(script, cut)
    client = ClientTLS(policy or ServerPolicy(Level.ENCRYPTED, trust()), staples=True)
    done: list[Observation] = []
    observing = Deferred.fromCoroutine(observe(of, server, client.to(of.server_name, 25), server.reactor, LIMITS))
    observing.addCallback(done.append)
    server.run()
    server.wait(seconds)
    assert done, observing.result if observing.called else "the probe hangs"
    assert not server.reactor.getDelayedCalls(), "a timer was left"
    return done[0], server


def outcome(observation: Observation) -> Outcome:
    return conclude(observation, Published()).outcome


class SessionCase(SynchronousTestCase):
    def stopped(self, script: Script, kind: Outcome, words: str, of: Target | None = None) -> Observation:
        """The probe ends with this outcome, and says these words."""
        observation, server = seen(script, of)
        assert observation.stop is not None, observation
        self.assertIn(words, observation.stop.text)
        self.assertIs(observation.stop.outcome, kind)
        self.assertIsNotNone(server.wire.end, "the connection is left open")
        return observation


class GoodServers(SessionCase):
    """Each protocol as it should be."""

    def test_smtp(self) -> None:
        """Greeting, EHLO, STARTTLS, EHLO once more, QUIT; everything is in the dialogue."""
        observation, server = seen((*BEFORE, good_tls(), *AFTER))
        self.assertIsNone(observation.stop)
        self.assertEqual(server.heard, [b"EHLO client.example.net", b"STARTTLS", b"EHLO client.example.net", b"QUIT"])
        assert observation.identity is not None
        self.assertIs(observation.identity.level, Level.NAME)
        self.assertIs(outcome(observation), Outcome.VERIFIED)
        self.assertEqual((observation.in_clear, observation.inside), (("SIZE 1000", "STARTTLS"), ("SIZE 1000",)))
        self.assertEqual(observation.remarks, ())
        said_by = "".join(line.who for line in observation.dialogue)
        self.assertEqual(said_by, "SCSSSCS-CSSCS-")

    def test_octet_by_octet(self) -> None:
        """The network may cut as it likes."""
        plain, _ = seen((*BEFORE, good_tls(), *AFTER))
        cut, _ = seen((*BEFORE, good_tls(), *AFTER), cut=byte_by_byte)
        self.assertEqual(cut.dialogue, plain.dialogue)

    def test_lmtp(self) -> None:
        """LMTP says LHLO (RFC 2033 section 4.1)."""
        _, server = seen((*BEFORE, good_tls(), *AFTER), target(Talk.LMTP))
        self.assertEqual(server.heard[0], b"LHLO client.example.net")

    def test_tls_at_once(self) -> None:
        """Without STARTTLS the greeting comes inside TLS (RFC 8314)."""
        observation, server = seen((good_tls(), GREETING, *AFTER), target(at_once=True))
        self.assertIs(outcome(observation), Outcome.VERIFIED)
        self.assertEqual(server.heard, [b"EHLO client.example.net", b"QUIT"])
        self.assertIsNone(observation.in_clear)

    def test_only_a_handshake(self) -> None:
        """Where nobody knows what is spoken nothing is said."""
        observation, server = seen((good_tls(),), target(Talk.NOTHING, at_once=True))
        self.assertIs(outcome(observation), Outcome.VERIFIED)
        self.assertEqual(server.heard, [])

    def test_pop3(self) -> None:
        """CAPA, STLS, CAPA, QUIT (RFC 2595 section 4)."""
        capa = b"+OK\r\nTOP\r\nSTLS\r\n.\r\n"
        script = (
            b"+OK hi\r\n",
            HEAR,
            capa,
            HEAR,
            b"+OK\r\n",
            good_tls(),
            HEAR,
            b"+OK\r\nTOP\r\n.\r\n",
            HEAR,
            b"+OK\r\n",
        )
        observation, server = seen((*script, CLOSE), target(Talk.POP3))
        self.assertIs(outcome(observation), Outcome.VERIFIED)
        self.assertEqual(server.heard, [b"CAPA", b"STLS", b"CAPA", b"QUIT"])
        self.assertEqual(observation.inside, ("TOP",))

    def test_pop3_without_capa(self) -> None:
        """An old server that knows no CAPA is asked for TLS all the same."""
        script = (
            b"+OK hi\r\n",
            HEAR,
            b"-ERR what\r\n",
            HEAR,
            b"+OK\r\n",
            good_tls(),
            HEAR,
            b"-ERR what\r\n",
            HEAR,
            b"+OK\r\n",
        )
        observation, _ = seen((*script, CLOSE), target(Talk.POP3))
        self.assertIs(outcome(observation), Outcome.VERIFIED)

    def test_imap(self) -> None:
        """CAPABILITY, STARTTLS, CAPABILITY, LOGOUT (RFC 9051 section 6.2.1)."""
        script = (
            *(b"* OK hi\r\n", HEAR, b"* CAPABILITY IMAP4rev2 STARTTLS LOGINDISABLED\r\na1 OK\r\n"),
            *(HEAR, b"a2 OK begin\r\n", good_tls(), HEAR, b"* CAPABILITY IMAP4rev2 AUTH=PLAIN\r\na3 OK\r\n"),
            *(HEAR, b"* BYE\r\na4 OK\r\n", CLOSE),
        )
        observation, server = seen(script, target(Talk.IMAP))
        self.assertIs(outcome(observation), Outcome.VERIFIED)
        self.assertEqual(server.heard, [b"a1 CAPABILITY", b"a2 STARTTLS", b"a3 CAPABILITY", b"a4 LOGOUT"])
        self.assertEqual(observation.inside, ("IMAP4rev2", "AUTH=PLAIN"))

    def test_a_sender_is_tried_inside_tls(self) -> None:
        """MAIL FROM and RSET; a refusal is a remark."""
        yes = (*BEFORE, good_tls(), HEAR, INSIDE, HEAR, b"250 ok\r\n", HEAR, b"250 ok\r\n", HEAR, BYE, CLOSE)
        observation, server = seen(yes, target(sender="a@example.net"))
        self.assertEqual(server.heard[3:5], [b"MAIL FROM:<a@example.net>", b"RSET"])
        self.assertEqual(observation.remarks, ())
        no = (*BEFORE, good_tls(), HEAR, INSIDE, HEAR, b"550 5.7.1 no\r\n", HEAR, BYE, CLOSE)
        observation, _ = seen(no, target(sender="a@example.net"))
        self.assertIn("550 5.7.1 no", observation.remarks[0])

    def test_ocsp_response_is_kept(self) -> None:
        """What the server staples is there for the report, whatever it is worth."""
        der = response(leaf=good().certificate, issuer=root().certificate)
        observation, _ = seen((*BEFORE, good_tls(staple=der), *AFTER))
        self.assertEqual(observation.staple, der)

    def test_cas_of_client_certificates(self) -> None:
        """A server that asks for a client certificate says of whom it takes them."""
        asking = ClientCertificatePolicy(Asking.ASK, trust())
        observation, _ = seen((*BEFORE, good_tls(asking=asking), *AFTER))
        self.assertEqual(observation.wants, ("CN=root",))


class BadCertificates(SessionCase):
    """A bad certificate is described, and the session goes on."""

    def certificate(self, *chain: object, key: object, words: str) -> None:
        step = TLS(tuple(chain), key)  # type: ignore[arg-type]
        observation, _ = seen((*BEFORE, step, *AFTER))
        self.assertIsNone(observation.stop)
        assert observation.identity is not None
        self.assertIn(words, " ".join(each.text for each in observation.identity.findings))
        self.assertIs(outcome(observation), Outcome.UNVERIFIED)

    def test_the_usual_ones(self) -> None:
        """Wrong name, expired, self-signed: each in words, each UNVERIFIED."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        wrong = make(root(), "other", names=san("other.example.org"), usage=usage)
        self.certificate(wrong.certificate, key=wrong.key, words="not for mail.example.org")
        old = make(root(), HOST, names=san(HOST), usage=usage, start=-30 * DAY, end=-DAY)
        self.certificate(old.certificate, key=old.key, words="expired")
        own = make(None, HOST, names=san(HOST), usage=usage)
        self.certificate(own.certificate, key=own.key, words="self-signed")
        early = make(root(), HOST, names=san(HOST), usage=usage, start=timedelta(hours=2))
        self.certificate(early.certificate, key=early.key, words="not valid")

    def test_every_bad_certificate(self) -> None:
        """All rows of the table give their finding in a probe, too, and none ends it without a sentence."""
        for row in bad_certificates(Purpose.SERVER):
            script = (*BEFORE, TLS(row.chain, row.key), *AFTER)
            of = Target(HOST, 25, Talk.SMTP, False, row.name)
            observation, _ = seen(script, of, policy=ServerPolicy(Level.ENCRYPTED, row.trust))
            self.assertIs(outcome(observation), Outcome.UNVERIFIED, row.title)
            assert observation.identity is not None
            told = {(each.kind, each.depth) for each in observation.identity.findings}
            self.assertIn((row.kind, row.depth), told, row.title)


class NoTLS(SessionCase):
    """The server answers, and there is no TLS."""

    def test_not_offered(self) -> None:
        """Nothing is said to a server that does not offer it, which may be the work of somebody on the way."""
        observation = self.stopped((GREETING, HEAR, INSIDE), Outcome.NO_TLS, "does not offer STARTTLS")
        self.assertEqual(observation.in_clear, ("SIZE 1000",))

    def test_other_case(self) -> None:
        """Keywords have no case (RFC 5321 section 4.1.1.1)."""
        observation, _ = seen((GREETING, HEAR, b"250-x\r\n250 StartTLS\r\n", HEAR, READY, good_tls(), *AFTER))
        self.assertIs(outcome(observation), Outcome.VERIFIED)

    def test_put_off_and_refused(self) -> None:
        """454 is said to be temporary (RFC 3207 section 4), 5xx is not."""
        self.stopped((GREETING, HEAR, EHLO, HEAR, b"454 4.7.0 later\r\n"), Outcome.NO_TLS, "puts TLS off: 454 4.7.0")
        self.stopped((GREETING, HEAR, EHLO, HEAR, b"502 no\r\n"), Outcome.NO_TLS, "refuses TLS, which it offers: 502")

    def test_no_ehlo(self) -> None:
        """A server without EHLO has no TLS either."""
        self.stopped((GREETING, HEAR, b"502 what\r\n"), Outcome.NO_TLS, "does not know EHLO")

    def test_a_plus_before_the_imap_greeting(self) -> None:
        """A continuation that nobody asked for does not hide what the greeting says."""
        self.stopped((b"+\r\n* BYE no\r\n",), Outcome.UNREACHED, "does not serve us", target(Talk.IMAP))
        self.stopped((b"+ * OK\r\n* PREAUTH x\r\n",), Outcome.BROKEN, "PREAUTH", target(Talk.IMAP))

    def test_pop3_and_imap(self) -> None:
        """The same with their words."""
        self.stopped((b"+OK\r\n", HEAR, b"+OK\r\nTOP\r\n.\r\n"), Outcome.NO_TLS, "offer STLS", target(Talk.POP3))
        script: Script = (b"* OK\r\n", HEAR, b"* CAPABILITY IMAP4rev1\r\na1 OK\r\n")
        self.stopped(script, Outcome.NO_TLS, "does not offer STARTTLS", target(Talk.IMAP))
        script = (b"+OK\r\n", HEAR, b"+OK\r\nSTLS\r\n.\r\n", HEAR, b"-ERR no\r\n")
        self.stopped(script, Outcome.NO_TLS, "refuses TLS", target(Talk.POP3))


class Handshakes(SessionCase):
    """TLS is begun and does not come about."""

    def test_garbage(self) -> None:
        """Octets that are no TLS."""
        self.stopped((*BEFORE, b"500 what is that?\r\n"), Outcome.HANDSHAKE, "not TLS")
        self.stopped((b"220 in clear\r\n",), Outcome.HANDSHAKE, "not TLS", target(at_once=True))

    def test_hint_at_starttls(self) -> None:
        """Who tries TLS at once where STARTTLS is spoken is told so."""
        self.stopped((GREETING,), Outcome.HANDSHAKE, "say --starttls", target(at_once=True))

    def test_broken_off(self) -> None:
        """The connection ends in the middle of it."""
        self.stopped((*BEFORE, CLOSE), Outcome.HANDSHAKE, "in the middle of the TLS handshake")
        self.stopped((*BEFORE, RESET), Outcome.HANDSHAKE, "in the middle of the TLS handshake")

    def test_alert(self) -> None:
        """An alert is a sentence, with OpenSSL's words behind it."""
        alert = b"\x15\x03\x03\x00\x02\x02\x28"
        self.stopped((*BEFORE, alert), Outcome.HANDSHAKE, "the server refuses the handshake")
        self.stopped((*BEFORE, alert[:-1] + b"\x70"), Outcome.HANDSHAKE, "knows no certificate for this name")
        self.stopped((*BEFORE, alert[:-1] + b"\x46"), Outcome.HANDSHAKE, "no version of TLS in common")

    def test_client_certificate_demanded(self) -> None:
        """In TLS 1.3 the refusal comes after our side of the handshake is done."""
        asking = ClientCertificatePolicy(Asking.REQUIRE, trust())
        observation = self.stopped(
            (*BEFORE, good_tls(asking=asking), *AFTER), Outcome.HANDSHAKE, "demands a client certificate"
        )
        self.assertIsNotNone(observation.identity)


class Attacks(SessionCase):
    """What somebody on the way, or a lying server, might try ("NO STARTTLS", USENIX Security 2021)."""

    def test_response_injection(self) -> None:
        """What stands behind 220 is never taken for an answer of what is asked inside TLS.

        Rule: Client: nothing that came behind the consent to TLS counts
        """
        for injected in (b"250 mail.example.org\r\n", b"\r\n", b"250", b"\x16\x03\x01"):
            script = (GREETING, HEAR, EHLO, HEAR, READY + injected, good_tls(), *AFTER)
            observation = self.stopped(script, Outcome.BROKEN, "injection")
            self.assertIsNone(observation.identity)

    def test_response_injection_pop3_and_imap(self) -> None:
        """The same in the other protocols.

        Rule: Client: nothing that came behind the consent to TLS counts
        """
        pop3 = (b"+OK\r\n", HEAR, b"+OK\r\nSTLS\r\n.\r\n", HEAR, b"+OK\r\n+OK injected\r\n", good_tls())
        self.stopped(pop3, Outcome.BROKEN, "injection", target(Talk.POP3))
        imap = (
            b"* OK\r\n",
            HEAR,
            b"* CAPABILITY STARTTLS\r\na1 OK\r\n",
            HEAR,
            b"a2 OK\r\n* CAPABILITY X\r\n",
            good_tls(),
        )
        self.stopped(imap, Outcome.BROKEN, "injection", target(Talk.IMAP))

    def test_answers_before_questions(self) -> None:
        """Who answers what was not asked yet is not listened to, in clear and inside TLS."""
        self.stopped((GREETING + EHLO, HEAR, READY), Outcome.BROKEN, "before it was asked EHLO")
        inside = (*BEFORE, good_tls(), HEAR, INSIDE + BYE, HEAR)
        observation = self.stopped(inside, Outcome.BROKEN, "before it was asked QUIT")
        self.assertIsNotNone(observation.identity)

    def test_preauth(self) -> None:
        """PREAUTH in clear is not followed, and nothing is said.

        Rule: Client: PREAUTH in clear is not followed
        """
        script = (b"* PREAUTH welcome\r\n", HEAR, b"* CAPABILITY IMAP4rev2\r\na1 OK\r\n")
        self.stopped(script, Outcome.BROKEN, "PREAUTH", target(Talk.IMAP))
        _, server = seen(script, target(Talk.IMAP))
        self.assertEqual(server.heard, [])

    def test_ehlo_that_changes(self) -> None:
        """What was offered in clear is asked for anew, and each difference is told.

        Rule: Client: what was offered in clear is asked for again inside TLS
        """
        other = b"250-mail.example.org\r\n250-SIZE 1\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
        observation, _ = seen((*BEFORE, good_tls(), HEAR, other, HEAR, BYE, CLOSE))
        told = " ".join(observation.remarks)
        self.assertIn("offers TLS once more", told)
        self.assertIn("'SIZE 1000' became 'SIZE 1'", told)
        self.assertIn("offers more: PIPELINING", told)

    def test_ehlo_refused_inside(self) -> None:
        """A server that knows EHLO only in clear is remarked upon."""
        observation, _ = seen((*BEFORE, good_tls(), HEAR, b"500 no\r\n", HEAR, BYE, CLOSE))
        self.assertIn("inside TLS it refuses EHLO", observation.remarks[0])

    def test_other_protocols(self) -> None:
        """A web server, garbage, and a reply whose code changes are no mail servers."""
        self.stopped((b"HTTP/1.1 400 Bad Request\r\n\r\n",), Outcome.BROKEN, "no SMTP reply")
        self.stopped((b"\x00\xff\x16\x03\x01\r\n",), Outcome.BROKEN, "no SMTP reply")
        self.stopped((b"220-a\r\n221 b\r\n",), Outcome.BROKEN, "changed its code")
        self.stopped((b"+OK\r\n",), Outcome.BROKEN, "no IMAP", target(Talk.IMAP))
        self.stopped((b"* OK\r\n",), Outcome.BROKEN, "no POP3", target(Talk.POP3))

    def test_endless_banners(self) -> None:
        """A line without end, a reply without end: limits, not memory."""
        self.stopped((b"220 " + b"x" * 10_000,), Outcome.BROKEN, "a line of more than")
        self.stopped((b"220-x\r\n" * 1000,), Outcome.BROKEN, "does not end")
        self.stopped((b"220-x\r\n" * 50_000,), Outcome.BROKEN, "at once")


class Stalls(SessionCase):
    """Whatever a server leaves undone, time ends it, with the name of what was awaited."""

    def test_each_phase(self) -> None:
        """Silence at the greeting, EHLO, STARTTLS, the handshake, EHLO inside, QUIT."""
        phases: Sequence[tuple[Script, Outcome, str]] = (
            ((), Outcome.UNREACHED, "the greeting within 20 seconds"),
            ((b"220-and",), Outcome.UNREACHED, "the greeting"),
            ((GREETING,), Outcome.UNREACHED, "its answer to EHLO"),
            ((GREETING, HEAR, EHLO), Outcome.UNREACHED, "its answer to STARTTLS"),
            (BEFORE, Outcome.HANDSHAKE, "the TLS handshake"),
            ((*BEFORE, good_tls()), Outcome.UNREACHED, "its answer to EHLO"),
            ((*BEFORE, good_tls(), HEAR, INSIDE), Outcome.UNREACHED, "its answer to QUIT"),
        )
        for script, kind, words in phases:
            self.stopped(script, kind, words)

    def test_closed_in_each_phase(self) -> None:
        """The same when the connection ends instead."""
        for length in range(len(BEFORE)):
            script = BEFORE[:length]
            observation, _ = seen((*script, CLOSE))
            assert observation.stop is not None
            self.assertIs(observation.stop.outcome, Outcome.UNREACHED, script)
            self.assertIn("ended the connection", observation.stop.text)
        observation, _ = seen((*BEFORE, good_tls(), HEAR, RESET))
        assert observation.stop is not None
        self.assertIn("broke the connection off", observation.stop.text)

    def test_dripping_does_not_help(self) -> None:
        """The clock runs from the beginning of a wait: a line each second does not set it back."""
        server = HostileServer(())
        client = ClientTLS(ServerPolicy(Level.ENCRYPTED, trust()))
        observing = Deferred.fromCoroutine(observe(target(), server, client.to(HOST, 25), server.reactor, LIMITS))
        for _ in range(19):
            server.wire.arrive(b"220-more\r\n")
            server.wait(1)
        self.assertNoResult(observing)
        server.wait(2)
        stop = self.successResultOf(observing).stop
        assert stop is not None
        self.assertIn("the greeting", stop.text)

    def test_a_server_that_does_not_close(self) -> None:
        """After QUIT the connection is cut, and all is well."""
        observation, server = seen((*BEFORE, good_tls(), HEAR, INSIDE, HEAR, BYE))
        self.assertIs(outcome(observation), Outcome.VERIFIED)
        self.assertTrue(server.wire.aborted)

    def test_refusing_greetings(self) -> None:
        """554 and BYE are a server that does not serve us."""
        self.stopped((b"554 go away\r\n",), Outcome.UNREACHED, "does not serve us: 554 go away")
        self.stopped((b"421 busy\r\n",), Outcome.UNREACHED, "does not serve us: 421 busy")
        self.stopped((b"-ERR no\r\n",), Outcome.UNREACHED, "does not serve us", target(Talk.POP3))
        self.stopped((b"* BYE no\r\n",), Outcome.UNREACHED, "does not serve us", target(Talk.IMAP))


class _Endpoint:
    def __init__(self, result: Deferred[object]) -> None:
        self.connect = lambda factory: result


class Connecting(SynchronousTestCase):
    """Before there is a connection."""

    def stop(self, result: Deferred[object], seconds: float = 0.0) -> str:
        clock = Clock()
        client = ClientTLS(ServerPolicy(Level.ENCRYPTED, trust()))
        observing = Deferred.fromCoroutine(
            observe(target(), _Endpoint(result), client.to(HOST, 25), clock, LIMITS)  # type: ignore[arg-type]
        )
        clock.advance(seconds)
        stop = self.successResultOf(observing).stop
        assert stop is not None
        self.assertIs(stop.outcome, Outcome.UNREACHED)
        return stop.text

    def test_failures(self) -> None:
        """No such host, refused, no route, no answer: a sentence each."""
        from twisted.internet.defer import fail

        self.assertIn("no such host", self.stop(fail(DNSLookupError())))
        self.assertIn("nobody listens", self.stop(fail(ConnectionRefusedError())))
        self.assertIn("No route", self.stop(fail(OSError(113, "No route to host"))))
        self.assertIn("within 20 seconds", self.stop(Deferred(), 21))


class Fuzz(SynchronousTestCase):
    """Any server."""

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.one_of(st.just(HEAR), st.just(CLOSE), st.sampled_from([GREETING, EHLO, READY]), st.binary(max_size=40))
        ),
        st.sampled_from([talk for talk in Talk if talk is not Talk.NOTHING]),
        st.booleans(),
    )
    def test_always_an_end(self, script: list[bytes | Step], talk: Talk, at_once: bool) -> None:
        """Whatever comes in whatever order, there is an observation, and no timer or connection is left."""
        observation, server = seen(script, target(talk, at_once=at_once))
        self.assertIsNotNone(observation.stop)
        self.assertIsNotNone(server.wire.end)
        for line in observation.dialogue:
            self.assertTrue(line.text.isascii() and line.text.isprintable(), line)


class ChannelRules(SynchronousTestCase):
    """What the channel itself holds."""

    def test_one_line(self) -> None:
        """A command with a line end in it never reaches the wire."""
        server = HostileServer(())
        channel = Channel(Talk.SMTP.dialect, server.reactor)
        server.wire.begin(channel)
        self.assertRaises(ValueError, channel.say, "NOOP\r\nDATA")
        reading = Deferred.fromCoroutine(channel.reply(5, "x"))
        server.wait(6)
        self.failureResultOf(reading, TooSlow)

    def test_changes(self) -> None:
        """What should come and go is not told."""
        self.assertEqual(changes(("STARTTLS", "SIZE 5"), ("SIZE 5", "AUTH PLAIN", "REQUIRETLS")), ())
        self.assertIn("AUTH in clear", " ".join(changes(("AUTH PLAIN", "STARTTLS"), ("AUTH PLAIN",))))
        self.assertEqual(changes(("AUTH SCRAM-SHA-256", "STARTTLS"), ("AUTH PLAIN",)).__len__(), 1)
