"""Which addresses are of the internet, in all spellings."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.reach import Reach, networks, reach_of

INSIDE = [
    *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255"),
    *("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("fc00::1", "fd12:3456::1", "fec0::1", "2001:db8::1", "3fff::1", "2001::1", "2001:2::1", "100::1", "5f00::1"),
    *("::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::1", "::10.0.0.1"),
]
HERE = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "239.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "ff02::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "64:ff9b::127.0.0.1"),
    *("2002:7f00:1::1", "::127.0.0.1", "mail.example.org", ""),
]
WORLD = [
    *("9.255.255.255", "11.0.0.0", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.167.0.1", "1.1.1.1"),
    *("2606:4700::1111", "2a00::1", "2001:200::1", "2002:101:101::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"),
]


class Reaches(SynchronousTestCase):
    def test_where_addresses_are(self) -> None:
        """Of the internet, of a network inside, or of this machine: also with the IPv4 address in an IPv6 address."""
        for reach, addresses in ((Reach.INSIDE, INSIDE), (Reach.HERE, HERE), (Reach.WORLD, WORLD)):
            self.assertEqual([each for each in addresses if reach_of(each)[0] is not reach], [], reach)

    def test_networks_that_are_named(self) -> None:
        """They count as the internet's, in every spelling of an address; this machine never does."""
        allowed = networks(["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::/0"])
        self.assertEqual([each for each in INSIDE + WORLD if reach_of(each, allowed)[0] is not Reach.WORLD], [])
        self.assertEqual([each for each in HERE if reach_of(each, allowed)[0] is not Reach.HERE], [])
        some = networks(["10.0.0.0/24", "fd12::/16"])
        found = [each for each in INSIDE if reach_of(each, some)[0] is Reach.WORLD]
        spellings = ["::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "::10.0.0.1"]
        self.assertEqual(found, ["10.0.0.1", "fd12:3456::1", *spellings])

    @settings(deadline=None)
    @given(st.ip_addresses(v=4))
    def test_an_address_in_an_address(self, address: ipaddress.IPv4Address) -> None:
        """Mapped (RFC 4291), translated (RFC 6052) and 6to4 (RFC 3056) are where the address inside is."""
        number, there = int(address), reach_of(str(address))[0]
        for inside in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80 | 1):
            self.assertIs(reach_of(str(ipaddress.IPv6Address(inside)))[0], there)
