"""URLs of relays: what each promises, and that none promises what it does not demand."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.url import GUARANTEED, Relay, RelayError, Scheme, Tls, Verify, Way, default_port, parse_relay
from mailsvc.tls.levels import Level
from mailsvc.tls.roots import NoRoots, RootsFile, RootsFolder, SystemRoots

PIN = "ab" * 32

LABELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
HOSTS = st.sampled_from(
    ["mail.example.org", "localhost", "192.0.2.1", "2001:db8::1", "xn--bcher-kva.example", "a-b.example"]
)
PATHS = st.text(string.ascii_letters + "/ %?&#@:äß", min_size=1, max_size=30).map(lambda text: f"/{text}x")
PINS = st.lists(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), max_size=3, unique=True).map(tuple)


@st.composite
def relays(draw: st.DrawFn) -> Relay:
    """Any relay that can exist."""
    scheme = draw(st.sampled_from(Scheme))
    if scheme is Scheme.LMTP and draw(st.booleans()):
        return Relay(scheme, "", 0, Verify.NONE, draw(PATHS))
    port = draw(st.one_of(st.just(default_port(scheme)), st.integers(1, 65535)))
    if scheme is Scheme.BACKUP:
        return Relay(scheme, "mx2.example.org", port, Verify.NONE)
    host = draw(HOSTS if scheme is Scheme.LMTP else st.one_of(HOSTS, st.just("")))
    if scheme not in GUARANTEED:
        return Relay(scheme, host, port, Verify.NONE)
    verify = draw(st.sampled_from(Verify))
    return Relay(
        scheme,
        host,
        port,
        verify,
        label=draw(st.none() | LABELS) if host else None,
        ca=None if verify is Verify.NONE else draw(st.none() | PATHS | PATHS.map(lambda path: f"{path}/")),
        cert=draw(st.none() | LABELS | PATHS),
        pins=draw(PINS),
    )


class TableTests(SynchronousTestCase):
    """The table of the schemes, line by line."""

    def test_each_scheme(self) -> None:
        """Scheme, default ports, how TLS begins, and the least that the channel must be.

        Rule: Relay URLs: the table of schemes
        """
        for text, ways, tls, required in (
            ("smtp+tls://h", (Way(25, Tls.TRY),), Tls.TRY, Level.PLAIN),
            ("smtp://h", (Way(25, Tls.NEVER),), Tls.NEVER, Level.PLAIN),
            ("tls://h", (Way(25, Tls.MUST),), Tls.MUST, Level.NAME),
            ("smtps://h", (Way(465, Tls.IMPLICIT),), Tls.IMPLICIT, Level.NAME),
            ("ssl://h", (Way(25, Tls.MUST), Way(465, Tls.IMPLICIT)), Tls.EITHER, Level.NAME),
            ("lmtp://h", (Way(24, Tls.NEVER),), Tls.NEVER, Level.PLAIN),
            ("lmtp:///run/l.sock", (Way(0, Tls.NEVER),), Tls.NEVER, Level.PLAIN),
            ("backup://mx2.example.org", (Way(25, Tls.TRY),), Tls.TRY, Level.PLAIN),
        ):
            relay = parse_relay(text)
            self.assertEqual((relay.ways, relay.tls, relay.required), (ways, tls, required), text)
            self.assertEqual(str(relay), text)

    def test_a_port_of_its_own(self) -> None:
        """With ssl:// both manners are tried there, and on 465 the one without a greeting first."""
        self.assertEqual(parse_relay("ssl://h:587").ways, (Way(587, Tls.MUST), Way(587, Tls.IMPLICIT)))
        self.assertEqual(parse_relay("ssl://h:465").ways, (Way(465, Tls.IMPLICIT), Way(465, Tls.MUST)))
        self.assertEqual(parse_relay("tls://[2001:DB8::1]:587"), Relay(Scheme.TLS, "2001:db8::1", 587, Verify.NAME))

    def test_what_is_checked(self) -> None:
        """verify= sets the level; a pin alone is as good as a name."""
        for query, level in (
            ("", Level.NAME),
            ("?verify=name", Level.NAME),
            ("?verify=chain", Level.CHAIN),
            (f"?verify=chain&pin={PIN}", Level.CHAIN),
            ("?verify=none", Level.ENCRYPTED),
            (f"?verify=none&pin={PIN}", Level.NAME),
        ):
            for scheme in ("tls", "smtps", "ssl"):
                self.assertIs(parse_relay(f"{scheme}://h{query}").required, level, query)

    def test_whom_it_trusts(self) -> None:
        """The system's roots; a file or folder alone; with verify=none a pin alone, and else a pin besides."""
        self.assertEqual(parse_relay("tls://h").trust.roots, SystemRoots())
        self.assertIsInstance(parse_relay("tls://h?ca=/etc/ca.pem").trust.roots, RootsFile)
        self.assertIsInstance(parse_relay("tls://h?ca=/etc/ca/").trust.roots, RootsFolder)
        alone = parse_relay(f"tls://h?verify=none&pin={PIN.upper()}").trust
        self.assertEqual((alone.roots, alone.pins), (NoRoots(), frozenset({PIN})))
        beside = parse_relay(f"tls://h?pin={PIN}").trust
        self.assertEqual((beside.roots, beside.pins), (SystemRoots(), frozenset({PIN})))

    def test_without_a_host(self) -> None:
        """The MX hosts of the recipient's domain are meant."""
        self.assertTrue(parse_relay("tls://").is_mx)
        self.assertTrue(parse_relay("smtp+tls://:2525").is_mx)
        self.assertFalse(parse_relay("lmtp:///run/x").is_mx)

    def test_in_words(self) -> None:
        """A fallback, and what is not checked, is said."""
        self.assertIn("else in plain text", parse_relay("smtp+tls://h").in_words)
        self.assertIn("or not at all", parse_relay("tls://h").in_words)
        words = parse_relay("tls://isp@h:587?verify=none").in_words
        self.assertIn("whoever answers is accepted", words)
        self.assertIn("whoever answers there gets them", words)
        self.assertIn("port 25 or 465", parse_relay("ssl://h").in_words)


class RefusedTests(SynchronousTestCase):
    """What is no URL of a relay."""

    def refused(self, text: str) -> str:
        """The sentence."""
        return str(self.assertRaises(RelayError, parse_relay, text))

    def test_a_promise_that_is_not_kept(self) -> None:
        """No password, check or pin where the channel may be plain text all the same.

        Rule: Relay URLs: no credentials where the channel may be plain
        """
        for scheme in ("smtp+tls://", "smtp://", "lmtp://", "backup://"):
            self.assertIn("no password", self.refused(f"{scheme}isp@mail.example.org"))
            for query in ("verify=name", "verify=chain", "ca=/x", "cert=x", f"pin={PIN}"):
                self.assertIn("not kept", self.refused(f"{scheme}mail.example.org?{query}"))

    def test_contradictions(self) -> None:
        """Each names its cure."""
        for text, words in (
            ("tls://h?verify=none&ca=/x", "leave out one"),
            ("tls://isp@", "name its host"),
            ("backup://", "name the host name"),
            ("backup://192.0.2.1", "name the host name"),
            ("lmtp://", "UNIX socket"),
            ("tls://h?ca=x.pem", "full path"),
            ("tls://h?cert=../x", "name of a folder"),
            ("tls://h?pin=abc", "64 hexadecimal digits"),
            ("tls://h?verify=maybe", "none, chain or name"),
            ("tls://h?verify=name&verify=none", "given twice"),
            ("tls://h?verify", "no value"),
            ("tls://h?color=red", "no parameter"),
            ("tls://h:0", "1 to 65535"),
            ("tls://h:65536", "1 to 65535"),
            ("tls://2001:db8::1", "brackets"),
            ("tls://[fe80::1%eth0]", "no IPv6 address"),
            ("tls://h/path", "no host name"),
            ("tls://-x", "no host name"),
            ("tls://h#x", "no host name"),
            ("lmtp:///run/" + 104 * "x", "107 octets"),
            ("http://h", "no scheme"),
            ("mail.example.org", "begins with"),
            ("tls://h\r\nX: y", "control character"),
            ("tls://h?ca=/%0d%0a", "full path"),
            ("tls://h?ca=/%ff", "not UTF-8"),
            ("tls://" + 2000 * "h", "longer than"),
        ):
            self.assertIn(words, self.refused(text), text)

    def test_a_password_is_never_shown(self) -> None:
        """Who writes one into a URL is told where it belongs, without an echo of it."""
        for secret in ("geheim", "geh@eim", "geh?eim", "geh/eim", "geh:eim", "geh&pin=eim", "geh#eim"):
            message = self.refused(f"tls://user:{secret}@mail.example.org")
            self.assertNotIn("eim", message.replace("geheimnis", ""), secret)


class Properties(SynchronousTestCase):
    """Of every relay that can exist, and of every text."""

    @settings(deadline=None)
    @given(relays())
    def test_round_trip(self, relay: Relay) -> None:
        """What is written is read as the same value, and written the same way again."""
        text = str(relay)
        self.assertEqual(parse_relay(text), relay)
        self.assertTrue(text.isprintable() and " " not in text)

    @settings(deadline=None)
    @given(relays())
    def test_none_yields_less_than_its_scheme(self, relay: Relay) -> None:
        """Where TLS is guaranteed nothing may be plain; where it is not nothing is shown or promised that needs it.

        Rule: Relay URLs: none yields less than its scheme promises
        """
        if relay.scheme in GUARANTEED:
            self.assertGreaterEqual(relay.required, Level.ENCRYPTED)
            self.assertTrue(all(way.tls in (Tls.MUST, Tls.IMPLICIT) for way in relay.ways))
        else:
            self.assertIsNone(relay.label)
            self.assertIsNone(relay.cert)
            self.assertEqual((relay.verify, relay.pins, relay.ca), (Verify.NONE, (), None))
        if relay.verify is Verify.NAME:
            self.assertGreaterEqual(relay.required, Level.NAME)
        if relay.label is not None:
            self.assertGreaterEqual(relay.required, Level.ENCRYPTED)

    @settings(deadline=None)
    @given(st.text(max_size=60), st.sampled_from(["", *(f"{scheme.value}://" for scheme in Scheme)]))
    def test_any_text(self, text: str, scheme: str) -> None:
        """A relay, or a sentence."""
        try:
            relay = parse_relay(scheme + text)
        except RelayError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(parse_relay(str(relay)), relay)
            self.assertTrue(relay.in_words.isprintable())
