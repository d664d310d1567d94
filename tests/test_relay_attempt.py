"""An attempt from routes to outcomes, with DNS and servers in memory: hosts in turn, demands, kept connections."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mtasts.record import PolicyMode, StsPolicy
from mailsvc.relay.demands import StsFacts
from mailsvc.relay.outcome import Kind, Outcome, Phase
from mailsvc.relay.routes import RouteKind
from mailsvc.relay.seams import Batch, Destination
from mailsvc.relay.url import parse_relay
from mailsvc.relay.weighing import weighed
from mailsvc.storage.outbound import OutboundRow
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.levels import Level
from mailsvc.tls.recheck import Purpose
from tests.attempt_world import BODY, HEADER, Way
from tests.bad_certificates import bad_certificates
from tests.fake_dns import NOBODY, FakeResolver
from tests.fake_mail import ALL, GOOD, Script

ONE, TWO = ("192.0.2.1", 25), ("192.0.2.2", 25)
HOST = "mail.example.org"
"""What the certificate of the good server names."""

JOE, ANN = "joe@there.example", "ann@there.example"
EXPIRED = next(each for each in bad_certificates(Purpose.SERVER) if each.title == "expired")
PLAIN = Script(starttls=False)
UNTRUSTED = Script(chain=EXPIRED.chain, key=EXPIRED.key)
SPKI = GOOD.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
FITS = TLSARecord(3, 1, 1, hashlib.sha256(SPKI).digest())
FITS_NOT = TLSARecord(3, 1, 1, bytes(32))


def dns(*, signed: Sequence[str] = (), records: Sequence[TLSARecord] = (), **more: Any) -> FakeResolver:
    """there.example with two MX hosts, of which the first has the name in the certificate."""
    return FakeResolver(
        {"there.example": [(10, HOST), (20, "second.example")]},
        {HOST: ["192.0.2.1"], "second.example": ["192.0.2.2"]},
        records={f"_25._tcp.{HOST}": records},
        signed=signed,
        **more,
    )


SIGNED = ("there.example", HOST, f"_25._tcp.{HOST}")


def answering(**answers: Any) -> Script:
    """A server in clear with these answers."""
    return Script(starttls=False, answers=answers)


class WayCase(SynchronousTestCase):
    def way(self, servers: Any, resolver: FakeResolver | None = None, **more: Any) -> Way:
        way = Way(servers, resolver or dns(), **more)
        self.addCleanup(way.end)
        return way

    def policy(self, mode: PolicyMode = PolicyMode.ENFORCE, *mx: str) -> StsFacts:
        return StsFacts("there.example", "1", StsPolicy(mode, mx or (HOST,), 86400))

    def assertDelivered(self, outcomes: Sequence[Outcome], host: str = HOST) -> None:
        self.assertEqual([(each.kind, each.host) for each in outcomes], [(Kind.DELIVERED, host)] * len(outcomes))

    def assertWaits(self, outcomes: Sequence[Outcome], enhanced: str) -> str:
        self.assertEqual({(each.kind, each.enhanced) for each in outcomes}, {(Kind.DEFERRED, enhanced)}, outcomes)
        return outcomes[0].text


class Hosts(WayCase):
    def test_the_message_reaches_the_best_mx(self) -> None:
        """In one transaction for all recipients, header, body and prefix as they are stored."""
        way = self.way({ONE: Script(), TWO: Script()})
        self.assertDelivered(way.send(JOE, ANN, prefix=b"X-Before: 1\r\n"))
        [taken] = way.network.taken
        self.assertEqual(taken.recipients, [JOE, ANN])
        self.assertEqual(taken.content, b"X-Before: 1\r\n" + HEADER + BODY)
        self.assertTrue(taken.encrypted)
        self.assertEqual(len(way.network.met), 1)

    def test_a_large_message_is_read_in_parts(self) -> None:
        """One that the claim has not brought along."""
        way = self.way({ONE: Script()})
        body = b"".join(b"%070d\r\n" % number for number in range(5000))
        self.assertDelivered(way.send(JOE, content=0, body=body))
        self.assertEqual(way.network.taken[0].content, HEADER + body)

    def test_the_next_host_is_tried_when_the_first_cannot_be_reached(self) -> None:
        """RFC 5321 section 5.1: one after the other, in the order of preference.

        Rule: MX hosts: in turn, each recipient until it is decided
        """
        way = self.way({TWO: Script()})
        self.assertDelivered(way.send(JOE), "second.example")
        self.assertEqual(way.network.asked, [ONE, TWO])

    def test_only_who_was_not_decided_goes_on_to_the_next_host(self) -> None:
        """One recipient is taken, one refused for ever, one is put off: the last one alone is tried elsewhere."""
        refused, later = "no@there.example", "later@there.example"
        first = Script(
            starttls=False,
            answers={
                f"RCPT TO:<{refused}>": b"550 5.1.1 no such user\r\n",
                f"RCPT TO:<{later}>": b"450 4.2.0 greylisted\r\n",
            },
        )
        way = self.way({ONE: first, TWO: Script(starttls=False)})
        outcomes = way.send(JOE, refused, later)
        self.assertEqual([each.kind for each in outcomes], [Kind.DELIVERED, Kind.FAILED, Kind.DELIVERED])
        self.assertEqual([each.recipients for each in way.network.taken], [[JOE], [later]])

    def test_nobody_goes_on_after_the_end_of_the_content(self) -> None:
        """The first host may have the message: a second one would make a duplicate for sure.

        Rule: MX hosts: nobody goes on after the final dot
        """
        way = self.way({ONE: Script(lost_after="END"), TWO: Script()})
        [outcome] = way.send(JOE)
        self.assertEqual((outcome.kind, outcome.duplicate_possible), (Kind.DEFERRED, True))
        self.assertEqual(way.network.asked, [ONE])

    def test_when_all_fail_the_one_that_came_furthest_is_told_first(self) -> None:
        """And the others are not forgotten."""
        way = self.way({TWO: answering(RCPT=b"450 4.2.0 greylisted\r\n")})
        text = self.assertWaits(way.send(JOE), "4.2.0")
        self.assertIn("greylisted", text)
        self.assertIn(f"{HOST} [192.0.2.1:25]", text)

    def test_hosts_that_all_keep_us_waiting(self) -> None:
        """After a quarter of an hour no further one is tried in this attempt."""
        silent = Script(answers={"GREETING": None})
        hosts = {f"mx{number}.example": f"192.0.2.{number}" for number in range(1, 8)}
        resolver = FakeResolver(
            {"there.example": [(10, name) for name in hosts]}, {name: [address] for name, address in hosts.items()}
        )
        way = self.way({(address, 25): silent for address in hosts.values()}, resolver)
        self.assertWaits(way.send(JOE), "4.4.2")
        self.assertEqual(len(way.heard), 3, "each took five minutes for its greeting")

    def test_dns_that_does_not_answer_keeps_the_mail(self) -> None:
        """Never a bounce for a resolver that is down.

        Rule: MX hosts: temporary and permanent DNS failure told apart
        """
        way = self.way({}, FakeResolver({"there.example": NOBODY}))
        self.assertIn("could not be looked up", self.assertWaits(way.send(JOE), "4.4.3"))

    def test_a_domain_that_does_not_exist_fails_at_once(self) -> None:
        """5.1.2, without an attempt."""
        [outcome] = self.way({}, FakeResolver()).send(JOE)
        self.assertEqual((outcome.kind, outcome.enhanced), (Kind.FAILED, "5.1.2"))

    def test_a_host_whose_address_nobody_knows_holds_the_bounce_back(self) -> None:
        """One MX host has no address, of the other one nobody could say: that is no permanent failure."""
        resolver = dns()
        resolver.hosts = {"second.example": NOBODY}
        self.assertWaits(self.way({}, resolver).send(JOE), "4.4.3")

    def test_an_address_literal_is_tried_directly(self) -> None:
        """``joe@[192.0.2.1]``."""
        way = self.way({ONE: Script()})
        self.assertDelivered(way.send("joe@[192.0.2.1]"), "192.0.2.1")

    def test_a_recipient_twice_is_asked_for_once(self) -> None:
        """Two rows, one RCPT, two outcomes."""
        way = self.way({ONE: Script()})
        self.assertDelivered(way.send(JOE, JOE))
        self.assertEqual(way.network.taken[0].recipients, [JOE])

    def test_what_the_sender_wants_to_hear_goes_along(self) -> None:
        """NOTIFY, ORCPT, RET and ENVID (RFC 3461)."""
        way = self.way({ONE: Script(keywords=ALL)})
        columns = {"dsn_return": "HDRS", "envelope_id": "a b"}
        way.send(JOE, columns=columns, notify="SUCCESS,DELAY", original="rfc822;joe@there.example")
        said = "\n".join(way.network.met[0].commands)
        self.assertIn("RET=HDRS ENVID=a+20b", said)
        self.assertIn("NOTIFY=SUCCESS,DELAY ORCPT=rfc822;joe@there.example", said)


class Routes(WayCase):
    def test_a_relay_takes_everything(self) -> None:
        """No DNS is asked for it; several are tried in turn."""
        way = self.way({("192.0.2.9", 25): Script()})
        way.route("smtp+tls://192.0.2.8", "smtp+tls://192.0.2.9")
        self.assertDelivered(way.send(JOE), "192.0.2.9")
        self.assertEqual(way.resolver.asked, [])

    def test_the_mx_hosts_as_the_last_resort(self) -> None:
        """A route that says so goes on to them."""
        way = self.way({ONE: Script()})
        way.route("smtp://192.0.2.8", "tls://")
        self.assertDelivered(way.send(JOE))

    def test_a_demand_of_the_route_holds_for_mx_hosts(self) -> None:
        """``tls://``: the second MX host has no certificate for its name, so it gets nothing."""
        way = self.way({TWO: Script()})
        way.route("tls://")
        outcomes = way.send(JOE)
        self.assertWaits(outcomes, "4.7.5")
        self.assertEqual(outcomes[0].required, Level.NAME)
        self.assertEqual(way.network.taken, [])

    def test_a_row_that_was_rerouted_goes_that_way(self) -> None:
        """``mailsvc queue reroute``."""
        way = self.way({("192.0.2.9", 2525): Script()})
        self.assertDelivered(way.send(JOE, via="smtp+tls://192.0.2.9:2525"), "192.0.2.9")

    def test_a_route_that_cannot_be_read_holds_the_mail(self) -> None:
        """It never goes directly instead."""
        way = self.way({ONE: Script()})
        way.route("tls://192.0.2.8")
        way.store.connection.execute("UPDATE route_relay SET url = 'nonsense'")
        self.assertIn("damaged", self.assertWaits(way.send(JOE), "4.3.0"))

    def test_credentials_that_are_missing_hold_the_mail(self) -> None:
        """With the cure, before anybody is connected to."""
        way = self.way({ONE: Script()})
        way.route("tls://label@192.0.2.1")
        self.assertIn("mailsvc route credentials add label", self.assertWaits(way.send(JOE), "4.3.0"))
        self.assertEqual(way.network.asked, [])

    def test_a_client_certificate_that_is_missing_holds_the_mail(self) -> None:
        """The file is named."""
        way = self.way({ONE: Script()})
        way.route("tls://192.0.2.1?cert=ours")
        self.assertIn("/nonexistent/ours/fullchain.pem", self.assertWaits(way.send(JOE), "4.3.0"))

    def test_a_route_that_changes_while_rows_wait_together(self) -> None:
        """Each row goes its own way: what was put together under the old routes is told to nobody else."""
        way = self.way({("192.0.2.8", 25): Script(), ("192.0.2.9", 25): Script()})
        way.route("smtp://192.0.2.9")
        rows = way.rows(JOE, "joe@other.example", ANN)
        way.route("smtp://192.0.2.8", kind=RouteKind.TO, key="there.example")
        outcomes = way.attempt(rows)
        self.assertEqual([each.host for each in outcomes], ["192.0.2.8", "192.0.2.9", "192.0.2.8"])
        self.assertEqual([each.recipients for each in way.network.taken], [[JOE, ANN], ["joe@other.example"]])

    def names(self, way: Way, rows: Sequence[OutboundRow]) -> list[str]:
        found = way.network.run(way.deliveries.destinations(rows))
        return [found[row.id].name for row in sorted(rows, key=lambda row: row.id)]

    def test_what_may_travel_together_has_one_name(self) -> None:
        """By domain without a route; by its relays with one, whatever the domain; and a URL's case counts."""
        way = self.way({})
        two = (JOE, "joe@other.example")
        self.assertEqual(self.names(way, way.rows(*two)), ["there.example", "other.example"])
        way.route("tls://relay.example")
        self.assertEqual(self.names(way, way.rows(*two)), ["tls://relay.example"] * 2)
        way.route("tls://", kind=RouteKind.FROM, key="tina@example.org")
        strict = way.rows(*two, sender="tina@example.org")
        self.assertEqual(self.names(way, strict), ["there.example tls://", "other.example tls://"])
        upper, lower = (way.rows(JOE, via=f"tls://relay.example?ca={path}") for path in ("/A.pem", "/a.pem"))
        self.assertNotEqual(self.names(way, upper), self.names(way, lower))
        long = way.rows(JOE, via=f"tls://relay.example?ca=/{'a' * 1000}")
        self.assertLessEqual(len(self.names(way, long)[0]), 200)

    def test_a_route_s_limit_is_that_of_its_destination(self) -> None:
        """All rows of the route share it; what the postmaster has rerouted does not go by the route."""
        way = self.way({})
        way.route("tls://relay.example", at_once=1)
        found = way.network.run(way.deliveries.destinations(way.rows(JOE, "joe@other.example")))
        self.assertEqual(set(found.values()), {Destination("tls://relay.example at-once=1", 1)})
        rerouted = way.network.run(way.deliveries.destinations(way.rows(JOE, via="tls://relay.example")))
        self.assertEqual(set(rerouted.values()), {Destination("tls://relay.example")})


class Demands(WayCase):
    def test_without_a_policy_any_channel_is_good_and_told_truly(self) -> None:
        """Opportunistic TLS: an expired certificate, and no TLS at all."""
        for script, level in ((Script(), Level.NAME), (UNTRUSTED, Level.ENCRYPTED), (PLAIN, Level.PLAIN)):
            [outcome] = self.way({ONE: script}).send(JOE)
            self.assertEqual((outcome.kind, outcome.level, outcome.required), (Kind.DELIVERED, level, Level.PLAIN))

    def test_mta_sts_enforce_demands_the_name(self) -> None:
        """RFC 8461 section 5; the sentence says why, and the certificate's fault is told.

        Rule: MTA-STS: enforce demands a named host and a verified name
        """
        way = self.way({ONE: UNTRUSTED, TWO: Script()})
        way.sts["there.example"] = self.policy()
        outcomes = way.send(JOE)
        text = self.assertWaits(outcomes, "4.7.5")
        self.assertIn("because the MTA-STS policy of there.example says enforce", text)
        self.assertIn("does not name second.example", text)
        self.assertEqual((outcomes[0].level, outcomes[0].required), (Level.ENCRYPTED, Level.NAME))
        self.assertEqual(way.network.taken, [])
        # The host that the policy does not name is not even connected to.
        self.assertEqual(way.network.asked, [ONE])

    def test_mta_sts_testing_demands_nothing(self) -> None:
        """It is for reports."""
        way = self.way({ONE: UNTRUSTED})
        way.sts["there.example"] = self.policy(PolicyMode.TESTING)
        self.assertDelivered(way.send(JOE))

    def test_dane_verifies_the_server(self) -> None:
        """RFC 7672: signed MX, signed addresses, signed TLSA, a key that fits.

        Rule: DANE: usable TLSA records decide
        """
        way = self.way({ONE: Script()}, dns(signed=SIGNED, records=[FITS]))
        outcomes = way.send(JOE)
        self.assertDelivered(outcomes)
        self.assertEqual((outcomes[0].level, outcomes[0].required), (Level.DANE, Level.DANE))

    def test_dane_that_does_not_fit_holds_the_mail(self) -> None:
        """Although a public CA vouches for the name."""
        way = self.way({ONE: Script()}, dns(signed=SIGNED, records=[FITS_NOT]))
        way.resolver.hosts["second.example"] = ()
        outcomes = way.send(JOE)
        self.assertWaits(outcomes, "4.7.5")
        self.assertEqual(way.network.taken, [])
        self.assertIn("because TLSA records are published", outcomes[0].text)

    def test_dane_that_cannot_be_asked_holds_the_mail(self) -> None:
        """In a signed zone a TLSA question without an answer is what an attacker arranges (RFC 7672 section 2.2).

        Rule: DANE: a question without an answer holds the mail
        """
        resolver = dns(signed=SIGNED)
        resolver.records[f"_25._tcp.{HOST}"] = NOBODY
        way = self.way({ONE: Script()}, resolver)
        del way.resolver.hosts["second.example"]
        self.assertIn("is not used now", self.assertWaits(way.send(JOE), "4.7.10"))
        self.assertEqual(way.network.asked, [])

    def test_without_a_signed_mx_tlsa_records_are_not_asked_for(self) -> None:
        """RFC 7672 section 2.2.1; nor with a resolver on another machine.

        Rule: DANE: only with a validating resolver on this machine
        """
        for resolver in (dns(signed=SIGNED[1:], records=[FITS_NOT]), dns(signed=SIGNED, doubt="not on this machine")):
            way = self.way({ONE: Script()}, resolver)
            self.assertDelivered(way.send(JOE))
            self.assertNotIn("TLSA", [kind for kind, _ in resolver.asked])

    def test_a_route_with_roots_of_its_own_is_not_outranked_by_dane(self) -> None:
        """A TLSA record that fits would say more than the pin that the postmaster has written."""
        way = self.way({ONE: Script()}, dns(signed=SIGNED, records=[FITS]))
        way.route(f"tls://?verify=none&pin={'0' * 64}")
        self.assertWaits(way.send(JOE), "4.7.5")

    def test_who_has_shown_tls_is_not_believed_without(self) -> None:
        """The downgrade memory: taught by a delivery, and asked by the next.

        Rule: Downgrade memory for mail that goes out
        """
        way = self.way({ONE: Script()}, idle=0.0)
        self.assertDelivered(way.send(JOE))
        memory = way.remembered("there.example")
        assert memory is not None
        self.assertEqual(memory.level, Level.NAME)
        way.network.places[ONE] = PLAIN
        outcomes = way.send(JOE)
        self.assertIn("it was encrypted, server name verified before", self.assertWaits(outcomes, "4.7.10"))
        self.assertEqual(outcomes[0].required, Level.NAME)

    def test_dane_is_remembered_as_what_the_certificate_proves_alone(self) -> None:
        """A domain that withdraws its TLSA records, signed, is not held to them."""
        way = self.way({ONE: UNTRUSTED}, dns(signed=SIGNED))
        key = EXPIRED.chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        way.resolver.records[f"_25._tcp.{HOST}"] = [TLSARecord(3, 1, 1, hashlib.sha256(key).digest())]
        [outcome] = way.send(JOE)
        self.assertEqual(outcome.level, Level.DANE)
        memory = way.remembered("there.example")
        assert memory is not None
        self.assertEqual(memory.level, Level.ENCRYPTED)

    def test_an_opportunistic_relay_is_remembered_by_its_name(self) -> None:
        """``smtp+tls://mail.example.org`` that has shown TLS does not fall back to plain text for some days."""
        way = self.way({(HOST, 25): PLAIN})
        way.remember(HOST, Level.ENCRYPTED)
        needed = way.network.run(way.policies.of_relay(parse_relay(f"smtp+tls://{HOST}"), way.rows(JOE)[0].message))
        self.assertEqual((needed.level, needed.remembers), (Level.ENCRYPTED, HOST))

    def test_the_postmaster_has_the_last_word(self) -> None:
        """An override holds instead of the memory, of MTA-STS and of DANE; and it can demand more.

        Rule: Downgrade memory: the postmaster has the last word
        """
        way = self.way({ONE: UNTRUSTED}, dns(signed=SIGNED, records=[FITS_NOT]))
        way.sts["there.example"] = self.policy()
        way.remember("there.example", Level.NAME)
        way.override("there.example", Level.PLAIN)
        self.assertDelivered(way.send(JOE))
        way = self.way({ONE: PLAIN})
        way.override("there.example", Level.ENCRYPTED)
        self.assertIn("the postmaster has set", self.assertWaits(way.send(JOE), "4.7.10"))

    def test_requiretls_needs_a_host_that_somebody_vouches_for(self) -> None:
        """RFC 8689 section 4.2.1: a signed MX or an MTA-STS policy, a verified name, and the server's promise.

        Rule: REQUIRETLS: an MX host that somebody vouches for
        """
        wish = {"require_tls": 1}
        [outcome] = self.way({ONE: Script(keywords=ALL), TWO: Script(keywords=ALL)}).send(JOE, columns=wish)
        self.assertEqual((outcome.kind, outcome.enhanced), (Kind.FAILED, "5.7.30"))
        self.assertIn("nobody vouches", outcome.text)
        way = self.way({ONE: Script(keywords=ALL)})
        way.sts["there.example"] = self.policy(PolicyMode.TESTING)
        [outcome] = way.send(JOE, columns=wish)
        self.assertEqual((outcome.kind, outcome.required), (Kind.DELIVERED, Level.NAME))
        self.assertIn("REQUIRETLS", "".join(way.network.met[0].commands))
        way = self.way({ONE: UNTRUSTED}, dns(signed=SIGNED))
        del way.resolver.hosts["second.example"]
        way.resolver.mx["there.example"] = [(10, HOST)]
        self.assertIn("the sender demands REQUIRETLS", self.assertWaits(way.send(JOE, columns=wish), "4.7.5"))

    def test_tls_required_no_delivers_whatever_the_recipients_domain_says(self) -> None:
        """RFC 8689 section 5: the sender prefers it delivered; not against the postmaster, nor against a route.

        Rule: TLS-Required: No for mail that goes out
        """
        wish = {"tls_optional": 1}
        way = self.way({ONE: PLAIN}, dns(signed=SIGNED, records=[FITS_NOT]))
        way.sts["there.example"] = self.policy()
        way.remember("there.example", Level.NAME)
        self.assertDelivered(way.send(JOE, columns=wish))
        way.override("there.example", Level.ENCRYPTED)
        self.assertEqual(way.send(JOE, columns=wish)[0].kind, Kind.DEFERRED)
        way = self.way({ONE: PLAIN})
        way.route("tls://")
        self.assertEqual(way.send(JOE, columns=wish)[0].kind, Kind.DEFERRED)

    def test_requiretls_outranks_tls_required_no(self) -> None:
        """RFC 8689 section 5: with both the header field has no meaning."""
        way = self.way({ONE: PLAIN}, dns(signed=SIGNED))
        way.resolver.mx["there.example"] = [(10, HOST)]
        outcomes = way.send(JOE, columns={"tls_optional": 1, "require_tls": 1})
        self.assertWaits(outcomes, "4.7.10")

    def test_a_route_in_plain_text_asks_for_no_policy(self) -> None:
        """``smtp://`` is the postmaster's word."""
        way = self.way({ONE: Script()}, dns(signed=SIGNED, records=[FITS_NOT]))
        way.sts["there.example"] = self.policy()
        way.route("smtp://")
        [outcome] = way.send(JOE)
        self.assertEqual((outcome.kind, outcome.level), (Kind.DELIVERED, Level.PLAIN))

    def test_each_session_with_an_mx_host_is_told_of(self) -> None:
        """What TLS-RPT counts: the failures with what the server has shown, and the successes."""
        way = self.way({ONE: UNTRUSTED, TWO: Script()})
        way.sts["there.example"] = self.policy(PolicyMode.ENFORCE, HOST, "second.example")
        way.send(JOE)
        first, second = way.heard
        assert first.refused is not None and first.identity is not None and second.refused is not None
        self.assertEqual((first.domain, first.host), ("there.example", HOST))
        self.assertEqual([each.kind for each in first.identity.chain_findings], ["expired"])
        way = self.way({ONE: Script()})
        way.send(JOE)
        [one] = way.heard
        self.assertEqual((one.refused, one.peer, one.identity is not None), (None, "192.0.2.1", True))


class Kept(WayCase):
    def known(self, script: Script, resolver: FakeResolver | None = None) -> Way:
        """A domain whose TLS is remembered, so that each message demands the same."""
        way = self.way({ONE: script}, resolver)
        way.remember("there.example", Level.NAME)
        return way

    def test_a_connection_is_used_again_for_some_seconds(self) -> None:
        """The second message costs no handshake; after a while the connection is ended in order.

        Rule: Connections are kept for some seconds
        """
        way = self.known(Script())
        self.assertDelivered([*way.send(JOE), *way.send(ANN)])
        [server] = way.network.met
        self.assertEqual(len(server.taken), 2)
        way.network.pass_time(5.0)
        self.assertEqual(server.commands[-1], "QUIT")
        self.assertDelivered(way.send(JOE))
        self.assertEqual(len(way.network.met), 2)

    def test_a_kept_connection_that_is_over_costs_nothing(self) -> None:
        """The server says 421, or is just gone: the message goes by a new one, in the same attempt."""
        for answer in (b"421 4.4.2 idle\r\n", b""):
            way = self.known(Script(answers={"MAIL": [b"250 ok\r\n", answer, b"250 ok\r\n"]}))
            self.assertDelivered([*way.send(JOE), *way.send(ANN)])
            self.assertEqual(len(way.network.met), 2)
            self.assertEqual(len(way.network.taken), 2)

    def test_a_stricter_message_does_not_use_it(self) -> None:
        """What was made opportunistically is not taken for what REQUIRETLS demands."""
        way = self.way({ONE: Script(keywords=ALL)}, dns(signed=SIGNED))
        way.send(JOE)
        way.send(JOE, columns={"require_tls": 1})
        self.assertEqual(len(way.network.met), 2)

    def test_it_is_not_kept_for_ever(self) -> None:
        """After 300 seconds it is ended, however busy, so that what changed in DNS is seen."""
        way = self.known(Script())
        for _ in range(80):
            self.assertDelivered(way.send(JOE))
            way.network.pass_time(4.0)
        self.assertEqual(len(way.network.met), 2)

    def test_nothing_is_kept_when_mailsvc_stops(self) -> None:
        """QUIT is said to all of them."""
        way = self.known(Script())
        way.send(JOE)
        way.network.run(_wait(way.deliveries.stop()))
        self.assertEqual(way.network.met[0].commands[-1], "QUIT")
        self.assertWaits(way.send(ANN), "4.3.2")
        self.assertEqual(way.network.getDelayedCalls(), [])


class Stopping(WayCase):
    def test_an_attempt_that_is_cut_short_knows_what_became_of_the_message(self) -> None:
        """Nothing was sent yet, so no duplicate is possible; and no other host is begun."""
        way = self.way({ONE: Script(answers={"MAIL": None}), TWO: Script()})
        rows = way.rows(JOE)
        attempt = Deferred.fromCoroutine(way.deliveries.attempt(Batch(Destination("x"), rows[0].message, rows)))
        way.network.settle()
        self.assertNoResult(attempt)
        way.deliveries.hurry()
        attempt.cancel()
        way.network.settle()
        outcome = self.successResultOf(attempt)[rows[0].id]
        self.assertEqual((outcome.kind, outcome.duplicate_possible), (Kind.DEFERRED, False))
        self.assertEqual(way.network.asked, [ONE])

    def test_what_was_delivered_stays_delivered(self) -> None:
        """One recipient is through, and mailsvc stops while the next host is connected to: no duplicate for him."""
        first = Script(starttls=False, answers={f"RCPT TO:<{ANN}>": b"450 4.2.0 later\r\n"})
        way = self.way({ONE: first, TWO: None})
        rows = way.rows(JOE, ANN)
        attempt = Deferred.fromCoroutine(way.deliveries.attempt(Batch(Destination("x"), rows[0].message, rows)))
        way.network.settle()
        self.assertEqual(way.network.asked, [ONE, TWO])
        way.deliveries.hurry()
        attempt.cancel()
        way.network.settle()
        kinds = {row.recipient: self.successResultOf(attempt)[row.id].kind for row in rows[:1]}
        self.assertEqual(kinds, {JOE: Kind.DELIVERED})

    def test_a_connection_that_is_cut_short_was_no_attempt_at_the_content(self) -> None:
        """Nobody could have got the message."""
        way = self.way({ONE: None, TWO: None})
        rows = way.rows(JOE)
        attempt = Deferred.fromCoroutine(way.deliveries.attempt(Batch(Destination("x"), rows[0].message, rows)))
        way.network.settle()
        way.deliveries.hurry()
        attempt.cancel()
        way.network.settle()
        outcome = self.successResultOf(attempt)[rows[0].id]
        self.assertEqual((outcome.kind, outcome.duplicate_possible), (Kind.DEFERRED, False))


class Weighing(SynchronousTestCase):
    def test_a_permanent_failure_needs_everybodys_consent(self) -> None:
        """One host cannot take it, the other could not be reached: it waits."""
        cannot = Outcome(Kind.FAILED, "no UTF-8 here", 0, "5.6.7", Phase.HELLO, "a.example")
        away = Outcome(Kind.DEFERRED, "nobody answers", 0, "4.4.1", Phase.CONNECT, "b.example")
        self.assertIs(weighed([cannot, away]).kind, Kind.DEFERRED)
        self.assertIs(weighed([cannot, cannot]).kind, Kind.FAILED)
        self.assertEqual(weighed([away, cannot]).text, "nobody answers; no UTF-8 here")

    def test_a_decision_is_a_decision(self) -> None:
        """The last one heard, when it was one about the recipient."""
        away = Outcome(Kind.DEFERRED, "nobody answers", 0, "4.4.1", Phase.CONNECT, "a.example")
        taken = Outcome(Kind.DELIVERED, "250 taken", 250, "2.0.0", Phase.END, "b.example")
        self.assertIs(weighed([away, taken]), taken)


async def _wait(deferred: Any) -> Any:
    return await deferred
