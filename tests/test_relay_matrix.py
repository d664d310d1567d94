"""The matrix: every URL of a relay against every behaviour of a server, with real TLS, in memory.

Each cell states what must happen.  Beside the cells stand rules that hold in all of them, whatever the table says:
nothing goes out below what the URL promises, no word of the mail is said in clear where TLS is promised, no login is
said in clear anywhere, and what is reported is what was.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.client import How, Refused, Where, connect, server_policy
from mailsvc.relay.logins import LoginKind, RelayLogin
from mailsvc.relay.outcome import Kind, Outcome
from mailsvc.relay.url import Relay, Tls, parse_relay
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.levels import Level
from mailsvc.tls.recheck import Purpose, spki_digest
from tests.bad_certificates import HOST, Bad, bad_certificates, root
from tests.fake_mail import ALL, GOOD, MESSAGE, SIMPLE, Network, Script, outgoing

ADDRESS = "192.0.2.1"
SECRET = "open sesame"
BAD = {each.title: each for each in bad_certificates(Purpose.SERVER)}


@dataclass(frozen=True)
class Behaviour:
    """What listens on ports 25 and 465 (24 for LMTP is like 25), None for nobody."""

    starttls: Script | None
    implicit: Script | None


def showing(title: str) -> Behaviour:
    """A server with one of the bad certificates, on both ports."""
    bad: Bad = BAD[title]
    script = Script(chain=bad.chain, key=bad.key)
    return Behaviour(script, replace(script, implicit=True))


GREETS = Script()
IMPLICIT = Script(implicit=True)

BEHAVIOURS: dict[str, Behaviour] = {
    "good": Behaviour(GREETS, IMPLICIT),
    "good with every extension": Behaviour(replace(GREETS, keywords=ALL), replace(IMPLICIT, keywords=ALL)),
    "no STARTTLS": Behaviour(replace(GREETS, starttls=False), None),
    "no STARTTLS, but TLS on 465": Behaviour(replace(GREETS, starttls=False), IMPLICIT),
    "STARTTLS stripped": Behaviour(replace(GREETS, starttls=False, keywords=(*SIMPLE, "XXXXXXXA")), None),
    "STARTTLS offered, then unknown": Behaviour(replace(GREETS, go_ahead=b"502 5.5.1 no such command\r\n"), None),
    "STARTTLS refused with 454": Behaviour(replace(GREETS, go_ahead=b"454 4.7.0 not now\r\n"), None),
    "STARTTLS refused with 454, but TLS on 465": Behaviour(replace(GREETS, go_ahead=b"454 4.7.0 no\r\n"), IMPLICIT),
    "STARTTLS answered with 421": Behaviour(replace(GREETS, go_ahead=b"421 4.3.2 going\r\n"), None),
    "STARTTLS answered with 250": Behaviour(replace(GREETS, go_ahead=b"250 2.0.0 yes\r\n"), None),
    "no TLS behind 220": Behaviour(replace(GREETS, tls="no"), replace(IMPLICIT, tls="no")),
    "the handshake breaks off": Behaviour(replace(GREETS, tls="end"), replace(IMPLICIT, tls="end")),
    "the handshake breaks off, but TLS on 465": Behaviour(replace(GREETS, tls="end"), IMPLICIT),
    "TLS stalls": Behaviour(replace(GREETS, tls="stall"), replace(IMPLICIT, tls="stall")),
    "an answer injected behind 220": Behaviour(replace(GREETS, behind=b"250 injected\r\n"), None),
    "an injection, but TLS on 465": Behaviour(replace(GREETS, behind=b"250-a\r\n250 AUTH PLAIN\r\n"), IMPLICIT),
    "half a line injected": Behaviour(replace(GREETS, behind=b"2"), None),
    "an answer before EHLO": Behaviour(replace(GREETS, answers={"GREETING": b"220 hi\r\n250 STARTTLS\r\n"}), None),
    "a client certificate is demanded": Behaviour(
        replace(GREETS, demands_certificate=True), replace(IMPLICIT, demands_certificate=True)
    ),
    "EHLO unknown": Behaviour(replace(GREETS, answers={"EHLO": b"500 what\r\n", "LHLO": b"500 what\r\n"}), None),
    "the greeting is 554": Behaviour(replace(GREETS, answers={"GREETING": b"554 5.7.1 not you\r\n"}), None),
    "the greeting is no SMTP": Behaviour(replace(GREETS, answers={"GREETING": b"SSH-2.0-x\r\n"}), None),
    "silence": Behaviour(replace(GREETS, answers={"GREETING": None}), None),
    "silence, but TLS on 465": Behaviour(replace(GREETS, answers={"GREETING": None}), IMPLICIT),
    "nobody listens": Behaviour(None, None),
    "only 465": Behaviour(None, IMPLICIT),
    "wrong name": showing("another host"),
    "expired": showing("expired"),
    "not yet valid": showing("not yet valid"),
    "unknown CA": showing("an unknown CA that is sent"),
    "self-signed": showing("self-signed"),
    "no subjectAltName": showing("a common name and no subjectAltName"),
    "the chain is not complete": showing("an intermediate that is not sent"),
    "forged": showing("signed by an impostor of the root"),
    "the other side's certificate": showing("the other side's certificate"),
    "a weak key": showing("a weak key"),
}

CA = "{ca}"
PIN = spki_digest(GOOD.certificate)
URLS: dict[str, str] = {
    "try": f"smtp+tls://{HOST}",
    "plain": f"smtp://{HOST}",
    "tls": f"tls://{HOST}?ca={CA}",
    "tls chain": f"tls://{HOST}?verify=chain&ca={CA}",
    "tls none": f"tls://{HOST}?verify=none",
    "tls pin": f"tls://{HOST}?verify=none&pin={PIN}",
    "smtps": f"smtps://{HOST}?ca={CA}",
    "smtps none": f"smtps://{HOST}?verify=none",
    "ssl": f"ssl://{HOST}?ca={CA}",
    "ssl none": f"ssl://{HOST}?verify=none",
    "lmtp": f"lmtp://{HOST}",
    "backup": "backup://us.example.net",
}
"""`try*` is the first of them under a policy that demands the name (MTA-STS)."""

# What a cell says: "clear", "enc", "chain", "name": delivered over a channel of just that level; or part of the reason
# why the mail waits.  Left out: as `_usual` says.
NO_OFFER = "does not offer STARTTLS"
CELLS: dict[str, dict[str, str]] = {
    "no STARTTLS": {
        "try": "clear",
        "tls": NO_OFFER,
        "tls chain": NO_OFFER,
        "tls none": NO_OFFER,
        "tls pin": NO_OFFER,
        "ssl": NO_OFFER,
        "ssl none": NO_OFFER,
        "try*": NO_OFFER,
    },
    "no STARTTLS, but TLS on 465": {
        "try": "clear",
        "tls": NO_OFFER,
        "ssl": "name",
        "ssl none": "enc",
        "try*": NO_OFFER,
    },
    "STARTTLS stripped": {"try": "clear", "tls": NO_OFFER, "tls none": NO_OFFER, "ssl": NO_OFFER, "try*": NO_OFFER},
    "STARTTLS offered, then unknown": {"try": "clear", "tls": "with 502", "ssl": "with 502", "try*": "with 502"},
    "STARTTLS refused with 454": {"try": "clear", "tls": "with 454", "ssl": "with 454", "try*": "with 454"},
    "STARTTLS refused with 454, but TLS on 465": {"try": "clear", "tls": "with 454", "ssl": "name", "try*": "with 454"},
    "STARTTLS answered with 421": {"try": "421", "tls": "421", "ssl": "421", "try*": "421"},
    "STARTTLS answered with 250": {"try": "clear", "tls": "with 250", "ssl": "with 250", "try*": "with 250"},
    "no TLS behind 220": {"try": "clear", "tls": "not TLS", "smtps": "not TLS", "ssl": "not TLS", "try*": "not TLS"},
    "the handshake breaks off": {"try": "clear", "tls": "in the middle", "smtps": "in the middle", "ssl": "in the mid"},
    "the handshake breaks off, but TLS on 465": {"try": "clear", "tls": "in the middle", "ssl": "name"},
    "TLS stalls": {"try": "clear", "tls": "within", "smtps": "within", "ssl": "within", "try*": "within"},
    # Whoever injects is at work right now: not even opportunistic mail goes on.
    "an answer injected behind 220": {"try": "injection", "tls": "injection", "ssl": "injection", "try*": "injection"},
    "an injection, but TLS on 465": {"try": "injection", "tls": "injection", "ssl": "injection", "try*": "injection"},
    "half a line injected": {"try": "injection", "tls": "injection", "ssl": "injection", "try*": "injection"},
    "an answer before EHLO": {
        "try": "injection",
        "plain": "injection",
        "lmtp": "injection",
        "tls": "injection",
        "ssl": "injection",
        "try*": "injection",
        "backup": "injection",
    },
    "a client certificate is demanded": {
        "try": "clear",
        "tls": "demands a client certificate",
        "smtps": "demands a client certificate",
        "ssl": "demands a client certificate",
    },
    "EHLO unknown": {"try": "clear", "plain": "clear", "lmtp": "500", "tls": NO_OFFER, "ssl": NO_OFFER},
    "the greeting is 554": dict.fromkeys(("try", "plain", "lmtp", "tls", "ssl", "try*", "backup"), "554"),
    "the greeting is no SMTP": dict.fromkeys(("try", "plain", "lmtp", "tls", "ssl", "try*", "backup"), "no SMTP reply"),
    "silence": dict.fromkeys(("try", "plain", "lmtp", "tls", "ssl", "try*", "backup"), "its greeting"),
    "silence, but TLS on 465": {
        "try": "its greeting",
        "plain": "its greeting",
        "lmtp": "its greeting",
        "tls": "its greeting",
        "ssl": "name",
    },
    "only 465": {"try": "nobody listens", "tls": "nobody listens", "smtps": "name", "ssl": "name", "ssl none": "enc"},
    "wrong name": {"tls": "not for mail.example.org", "tls chain": "chain"},
    "expired": {"tls": "expired on", "tls chain": "expired on", "ssl": "expired on"},
    "not yet valid": {"tls": "not valid before", "tls chain": "not valid before", "ssl": "not valid before"},
    "unknown CA": {"tls": "CN=foreign root", "tls chain": "CN=foreign root", "ssl": "CN=foreign root"},
    "self-signed": {"tls": "is self-signed", "tls chain": "is self-signed", "ssl": "is self-signed"},
    "no subjectAltName": {"tls": "a common name does not count", "tls chain": "chain", "ssl": "common name"},
    "the chain is not complete": {"tls": "CN=middle CA", "tls chain": "CN=middle CA", "ssl": "CN=middle CA"},
    "forged": {"tls": "forged", "tls chain": "forged", "ssl": "forged"},
    "the other side's certificate": {"tls": "", "tls chain": "", "ssl": ""},
    "a weak key": {"tls": "1024 bits", "tls chain": "1024 bits", "ssl": "1024 bits"},
}
LEVELS = {"clear": Level.PLAIN, "enc": Level.ENCRYPTED, "chain": Level.CHAIN, "name": Level.NAME}
GOOD_CELLS = {"good", "good with every extension"}
CERTIFICATES = set(list(BEHAVIOURS)[list(BEHAVIOURS).index("wrong name") :])
STRICT = {"tls": "name", "tls chain": "name", "smtps": "name", "ssl": "name", "tls pin": "name", "try*": "name"}


def expected(behaviour: str, url: str) -> str | None:
    """What the cell says; None for "it waits, for whatever reason"."""
    row = CELLS.get(behaviour, {})
    if url in row:
        return row[url]
    if url == "backup" and "try" in row:
        return row["try"]
    if url in ("plain", "lmtp"):
        # TLS has no part in it: only who listens there matters.
        return None if BEHAVIOURS[behaviour].starttls is None else "clear"
    if behaviour in GOOD_CELLS:
        return STRICT.get(url, "enc")
    if behaviour in CERTIFICATES:
        # Without a demand any certificate will do, and is told as what it is; a pin is another key's.
        return "enc" if url in ("try", "backup", "tls none", "smtps none", "ssl none") else None
    if url in ("smtps", "smtps none"):
        script = BEHAVIOURS[behaviour].implicit
        good = script is not None and script.tls == "yes" and not script.demands_certificate
        return (STRICT.get(url, "enc")) if good else None
    if url == "ssl none":
        return "enc" if row.get("ssl") == "name" else None
    return None


class Cells:
    """Runs cells; the CA's file and the TLS objects are made once."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        ca = self.folder / "ca.pem"
        ca.write_bytes(root().certificate.public_bytes(Encoding.PEM))
        self.relays = {name: parse_relay(url.format(ca=ca)) for name, url in URLS.items()}
        self.tls = {name: ClientTLS(server_policy(relay)) for name, relay in self.relays.items()}
        strict = parse_relay(URLS["tls"].format(ca=ca))
        self.relays["try*"] = self.relays["try"]
        self.tls["try*"] = ClientTLS(server_policy(strict, Level.NAME))

    def how(self, url: str, login: RelayLogin | None = None) -> How:
        required = Level.NAME if url == "try*" else Level.PLAIN
        relay = self.relays[url]
        tls = None if relay.tls is Tls.NEVER else self.tls[url]
        return How(relay, "us.example.net", tls, required, login=login)

    def network(self, behaviour: Behaviour, relay: Relay) -> Network:
        places: dict[object, Script | None] = {}
        if behaviour.starttls is not None:
            script = behaviour.starttls
            places[ADDRESS, 25] = script
            places[ADDRESS, 24] = replace(script, lmtp=True)
        if behaviour.implicit is not None:
            places[ADDRESS, 465] = behaviour.implicit
        return Network(places)

    def run(self, behaviour: str, url: str, login: RelayLogin | None = None) -> tuple[Outcome, Network]:
        network = self.network(BEHAVIOURS[behaviour], self.relays[url])
        message = outgoing()

        async def one() -> Outcome:
            try:
                conversation = await connect(network, Where(HOST, (ADDRESS,)), self.how(url, login))
            except Refused as refused:
                return refused.outcome
            outcomes = await conversation.deliver(message)
            await conversation.quit()
            return outcomes[message.recipients[0]]

        return network.run(one()), network


@cache
def cells() -> Cells:
    return Cells()


def every_cell() -> Iterator[tuple[str, str]]:
    for behaviour in BEHAVIOURS:
        for url in (*URLS, "try*"):
            yield behaviour, url


class Matrix(SynchronousTestCase):
    """The table, and what holds in all of it."""

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cells().folder)
        cells.cache_clear()

    def test_every_cell(self) -> None:
        """Every URL with every behaviour: delivered over a channel of just that level, or waiting for that reason.

        Rule: Relay URLs: what happens for every behaviour of a server
        """
        wrong = []
        for behaviour, url in every_cell():
            outcome, network = cells().run(behaviour, url)
            wanted = expected(behaviour, url)
            if wanted in LEVELS:
                right = outcome.kind is Kind.DELIVERED and outcome.level is LEVELS[wanted] and len(network.taken) == 1
            else:
                right = outcome.kind is Kind.DEFERRED and (wanted or "") in outcome.text and not network.taken
                right = right and outcome.elsewhere and not outcome.duplicate_possible
            if not right:
                wrong.append(
                    f"{url} / {behaviour}: wanted {wanted!r}, got {outcome.kind} {outcome.level} {outcome.text}"
                )
            self._holds_always(behaviour, url, outcome, network)
        self.assertEqual(wrong, [], "\n".join(["", *wrong]))

    def _holds_always(self, behaviour: str, url: str, outcome: Outcome, network: Network) -> None:
        """What no cell may break, whatever it says."""
        where = f"{url} / {behaviour}"
        how = cells().how(url)
        promised = how.demanded
        if promised > Level.PLAIN or how.relay.tls in (Tls.MUST, Tls.IMPLICIT, Tls.EITHER):
            for word in (b"MAIL", b"RCPT", b"DATA", b"AUTH", b"alice", b"joe", b"secret"):
                self.assertNotIn(word, network.clear, where)
            self.assertTrue(all(taken.encrypted for taken in network.taken), where)
        if outcome.kind is Kind.DELIVERED:
            self.assertGreaterEqual(outcome.level, promised, where)
            (taken,) = network.taken
            self.assertEqual(taken.content, MESSAGE, where)
            self.assertEqual(taken.encrypted, outcome.level > Level.PLAIN, where)
            self.assertEqual(outcome.tls != "", outcome.level > Level.PLAIN, where)
        if how.relay.tls is Tls.NEVER:
            self.assertFalse(any(b"STARTTLS" in bytes(each.clear) for each in network.met), where)
        if how.relay.tls is Tls.IMPLICIT:
            # Not one word of SMTP in clear: what came in clear is a ClientHello, or nothing.
            self.assertFalse(b"EHLO" in network.clear or b"QUIT" in network.clear, where)
        self.assertEqual(network.getDelayedCalls(), [], f"{where}: timers were left behind")
        self.assertTrue(all(each.ended for each in network.met), f"{where}: a connection was left open")

    def test_no_login_in_clear(self) -> None:
        """With credentials: they are said inside TLS to a server that is what the URL demands, or not at all.

        Rule: Relay credentials: never in clear
        """
        login = RelayLogin("provider", LoginKind.PASSWORD, "joe", SECRET)
        for behaviour, script in BEHAVIOURS.items():
            for url in ("try", "plain", "tls", "tls none", "smtps", "ssl", "try*"):
                network = cells().network(self._asking(script), cells().relays[url])
                outcome = self._log_in(network, url, login)
                where = f"{url} / {behaviour}"
                self.assertNotIn(b"AUTH", network.clear, where)
                self.assertNotIn(b"am9l", network.clear, where)
                for server in network.met:
                    if server.logged_in:
                        self.assertGreaterEqual(outcome.level, cells().how(url).demanded, where)
                        self.assertGreater(outcome.level, Level.PLAIN, where)
                if outcome.kind is Kind.DELIVERED:
                    self.assertEqual([each.logged_in for each in network.met if each.taken], ["joe"], where)
                self.assertIsNot(outcome.kind if outcome.phase.value == "AUTH" else None, Kind.FAILED, where)

    @staticmethod
    def _asking(behaviour: Behaviour) -> Behaviour:
        def asks(script: Script | None) -> Script | None:
            # An AUTH in clear is offered, too: it must not be taken.
            return (
                None
                if script is None
                else replace(
                    script,
                    auth=("PLAIN", "LOGIN"),
                    keywords=(*script.keywords, "AUTH PLAIN LOGIN"),
                    secure=script.keywords,
                )
            )

        return Behaviour(asks(behaviour.starttls), asks(behaviour.implicit))

    def _log_in(self, network: Network, url: str, login: RelayLogin) -> Outcome:
        message = outgoing()

        async def one() -> Outcome:
            try:
                conversation = await connect(network, Where(HOST, (ADDRESS,)), cells().how(url, login))
            except Refused as refused:
                return refused.outcome
            outcomes = await conversation.deliver(message)
            await conversation.quit()
            return outcomes[message.recipients[0]]

        found: Outcome = network.run(one())
        return found

    def test_what_contradicts_itself_is_not_begun(self) -> None:
        """A URL without TLS under a policy that demands it connects nowhere; neither does a weaker ClientTLS."""
        network = cells().network(BEHAVIOURS["good"], cells().relays["plain"])
        how = replace(cells().how("plain"), required=Level.NAME)
        with self.assertRaises(Refused) as caught:
            network.run(connect(network, Where(HOST, (ADDRESS,)), how))
        self.assertIn("never uses TLS", caught.exception.outcome.text)
        self.assertEqual(network.asked, [])
        for how in (replace(cells().how("tls"), tls=cells().tls["try"]), replace(cells().how("tls"), tls=None)):
            with self.assertRaises(ValueError):
                network.run(connect(network, Where(HOST, (ADDRESS,)), how))
        self.assertEqual(network.asked, [])
