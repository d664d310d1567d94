"""What EHLO tells, and what the answers of blocklists mean."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.config.kinds import Mistake, Networks, Zones
from mailsvc.gate.blocklists import Blocklist, Standing, blocklist, is_listing, question, standing
from mailsvc.gate.manners import NO_NAME, OTHER_ADDRESS, OUR_NAME, finding
from mailsvc.gate.places import address_of

PEER = "192.0.2.7"


class HeloTests(SynchronousTestCase):
    """`finding`."""

    def test_names(self) -> None:
        """A full name is one, whatever it leads to; a single word, an address without brackets or ours are not."""
        for name, expected in {
            "mail.example.net": None,
            "MAIL.example.net.": None,
            "xn--bcher-kva.example": None,
            "localhost": NO_NAME,
            "192.0.2.7": NO_NAME,
            "under_score.example.net": NO_NAME,
            "-x.example.net": NO_NAME,
            "a..example.net": NO_NAME,
            "a" * 64 + ".example.net": NO_NAME,
            "mail.example.org": OUR_NAME,
            "MAIL.Example.ORG.": OUR_NAME,
        }.items():
            self.assertEqual(finding(name, PEER, "mail.example.org"), expected, name)

    def test_literals(self) -> None:
        """RFC 5321 section 4.1.3: the literal of the client's own address, IPv4 or IPv6, is right."""
        for name, peer, expected in [
            ("[192.0.2.7]", PEER, None),
            ("[192.0.2.7]", "::ffff:192.0.2.7", None),
            ("[192.0.2.8]", PEER, OTHER_ADDRESS),
            ("[127.0.0.1]", PEER, OTHER_ADDRESS),
            ("[IPv6:2001:db8::1]", "2001:db8:0::1", None),
            ("[ipv6:2001:db8::2]", "2001:db8::1", OTHER_ADDRESS),
            ("[2001:db8::1]", "2001:db8::1", NO_NAME),
            ("[192.0.2.7", PEER, NO_NAME),
            ("[]", PEER, NO_NAME),
            ("[IPv6:192.0.2.7]", PEER, NO_NAME),
        ]:
            self.assertEqual(finding(name, peer, "mail.example.org"), expected, name)

    @settings(deadline=None)
    @given(st.text(max_size=80), st.text(max_size=40))
    def test_anything(self, name: str, peer: str) -> None:
        """No EHLO and no peer is too strange for an answer."""
        self.assertIn(finding(name, peer, "mail.example.org"), {None, NO_NAME, OUR_NAME, OTHER_ADDRESS})


class BlocklistTests(SynchronousTestCase):
    """The rules of RFC 5782."""

    def test_question(self) -> None:
        """The address backwards in front of the zone; IPv6 by its digits; nothing without an address."""
        self.assertEqual(question("192.0.2.99", "bl.example.net"), "99.2.0.192.bl.example.net")
        self.assertEqual(question("::ffff:192.0.2.99", "bl.example.net"), "99.2.0.192.bl.example.net")
        asked = question("2001:db8:1:2:3:4:567:89ab", "bl.example.net")
        self.assertEqual(asked, "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example.net")
        self.assertIsNone(question("local", "bl.example.net"))

    def test_answers(self) -> None:
        """Only 127.0.0.0/8 is a listing, and 127.255.255.x says that the list does not talk to us."""
        for answers, expected in [
            (["127.0.0.2"], True),
            (["127.0.0.4", "127.0.0.10"], True),
            (["127.255.255.254"], False),
            (["127.255.255.252", "127.0.0.2"], True),
            (["203.0.113.9"], False),
            (["::1"], False),
            ([], False),
        ]:
            self.assertEqual(is_listing(answers), expected, answers)

    def test_standing(self) -> None:
        """Weights add up, a good list takes away, a silent one counts nothing and is named.

        Rule: DNSBL: asynchronous, weights, the result stored
        """
        lists = [Blocklist("a.example", 3), Blocklist("good.example", -2), Blocklist("c.example")]
        found = standing(lists, {"a.example": True, "good.example": True, "c.example": None})
        self.assertEqual(found, Standing(1, ("a.example", "good.example"), ("c.example",)))
        self.assertEqual(str(found), "listed in a.example, good.example (score 1); no answer from c.example")
        self.assertEqual(str(standing(lists[:1], {"a.example": False})), "not listed (score 0)")

    def test_settings(self) -> None:
        """A zone, a weight behind an asterisk; what cannot be one is a mistake of the configuration."""
        self.assertEqual(blocklist("BL.example.net"), Blocklist("bl.example.net", 1))
        self.assertEqual(blocklist("good.example.org*-2"), Blocklist("good.example.org", -2))
        for good in ([], ["bl.example.net"], ["good.example.org*-2", "b.example*10"]):
            self.assertEqual(Zones().parse(good), tuple(good))
        for bad in ("bl.example.net", [1], ["example"], ["a..b"], ["bl.example*"], ["bl.example*x"], ["*3"], [""]):
            self.assertRaises(Mistake, Zones().parse, bad)
        self.assertEqual(Networks().parse(["192.0.2.0/24", "::1"]), ("192.0.2.0/24", "::1"))
        networks: list[object] = ["192.0.2.0/24", ["192.0.2.1/24"], ["mail.example.net"], [17], [True]]
        for wrong in networks:
            self.assertRaises(Mistake, Networks().parse, wrong)

    @settings(deadline=None)
    @given(st.ip_addresses())
    def test_any_address(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        """Every address can be asked about, in a name that the DNS takes."""
        asked = question(str(address), "bl.example.net")
        assert asked is not None
        self.assertLessEqual(len(asked), 253)
        if isinstance(address_of(str(address)), ipaddress.IPv4Address):
            self.assertEqual(len(asked.split(".")), 7)
