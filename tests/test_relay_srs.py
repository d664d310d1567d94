"""Rewritten senders: a bounce finds its way back, and nobody else can make such an address."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.relay.srs import VALID_DAYS, Rewriter, is_rewritten

OURS = Rewriter(b"secret of ours")
OTHERS = Rewriter(b"secret of others")
BOB = parse_address("Bob.x@example.net")
DAY = 86400.0
NOW = 20_000 * DAY


@st.composite
def senders(draw: st.DrawFn) -> Address:
    """Addresses of every kind, of moderate length."""
    local = draw(st.text(min_size=1, max_size=24))
    quoted = local.replace("\\", "\\\\").replace('"', '\\"')
    domain = draw(st.sampled_from(["example.net", "[192.0.2.1]", "a-b.c.example", "[IPv6:2001:db8::1]"]))
    for text in (local, f'"{quoted}"'):
        try:
            return parse_address(f"{text}@{domain}")
        except AddressError:
            continue
    assume(False)
    raise AssertionError


def forward(rewriter: Rewriter, sender: Address, domain: str, now: float = NOW) -> Address:
    """The rewritten address, which there is."""
    made = rewriter.forward(sender, domain, now)
    assert made is not None
    return made


class SrsTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """The form that other forwarders know, under our domain.

        Rule: SRS: a bounce finds its way back
        """
        made = forward(OURS, BOB, "example.org")
        self.assertRegex(str(made), r"^SRS0=[A-Z2-7]{6}=[A-Z2-7]{2}=example\.net=Bob\.x@example\.org$")
        self.assertTrue(is_rewritten(made))
        self.assertEqual(OURS.back(made, NOW), BOB)
        self.assertFalse(is_rewritten(BOB))
        self.assertIsNone(OURS.back(BOB, NOW))

    def test_case_is_no_matter(self) -> None:
        """Servers on the way may change it; the mailbox is the same."""
        made = forward(OURS, BOB, "example.org")
        for local in (made.local_part.lower(), made.local_part.upper()):
            back = OURS.back(Address(local, made.domain), NOW)
            assert back is not None
            self.assertEqual(parse_address(str(back)).key, BOB.key)

    def test_forged_or_changed(self) -> None:
        """One made with another secret, or with any part changed, leads nowhere.

        Rule: SRS: strangers cannot make an address
        """
        made = forward(OURS, BOB, "example.org")
        self.assertIsNone(OTHERS.back(made, NOW))
        for old, new in (("Bob.x", "eve"), ("example.net", "example.com"), ("SRS0=", "SRS0=A"), ("=Bob", "==Bob")):
            self.assertIsNone(OURS.back(Address(made.local_part.replace(old, new), made.domain), NOW))
        for local in ("SRS0=", "SRS0=a=b", "SRS0==AA=x=y", "SRS1=a=b", "SRS1=a=b==c", "SRS0=\u00e4=AA=x=y"):
            self.assertIsNone(OURS.back(Address(local, "example.org"), NOW))

    def test_letters_that_look_alike(self) -> None:
        """The sign for Kelvin is a k in lower case: it makes no other mailbox of a bounce's, and no day."""
        kelvin = "\u212a"
        made = forward(OURS, parse_address("kate@example.net"), "example.org")
        self.assertIsNone(OURS.back(Address(made.local_part.replace("kate", f"{kelvin}ate"), made.domain), NOW))
        days = (NOW + number * DAY for number in range(1024))
        late = next(now for now in days if "K" in str(OURS.forward(BOB, "example.org", now)).split("=")[2])
        tag, day = str(OURS.forward(BOB, "example.org", late)).split("=")[1:3]
        forged = Address(f"SRS0={tag}={day.replace('K', kelvin)}=example.net=Bob.x", "example.org")
        self.assertIsNone(OURS.back(forged, late))

    def test_too_old(self) -> None:
        """After thirty days it is over; a clock that is a day behind does no harm."""
        made = forward(OURS, BOB, "example.org")
        self.assertEqual(OURS.back(made, NOW + VALID_DAYS * DAY), BOB)
        self.assertIsNone(OURS.back(made, NOW + (VALID_DAYS + 1) * DAY))
        self.assertEqual(OURS.back(made, NOW - DAY), BOB)
        self.assertIsNone(OURS.back(made, NOW - 2 * DAY))

    def test_a_chain_of_forwarders(self) -> None:
        """The bounce goes to the first of them at once, in the form that this one has made."""
        first = forward(OTHERS, BOB, "first.example")
        second = forward(OURS, first, "example.org")
        self.assertTrue(second.local_part.startswith("SRS1="), second)
        self.assertEqual(OURS.back(second, NOW), first)
        third = forward(OTHERS, second, "third.example")
        self.assertEqual(OTHERS.back(third, NOW), first)
        self.assertLess(len(third.local_part) - len(second.local_part), 2)

    def test_no_room(self) -> None:
        """A local part has 64 octets."""
        self.assertIsNone(OURS.forward(parse_address("b" * 50 + "@example.net"), "example.org", NOW))

    def test_the_secret_is_not_shown(self) -> None:
        """Not in a traceback."""
        self.assertNotIn("secret", repr(OURS))

    @settings(deadline=None)
    @given(senders(), st.floats(0, 1e10), st.integers(0, VALID_DAYS))
    def test_every_sender(self, sender: Address, now: float, days: int) -> None:
        """What is rewritten is an address, and leads back to the same mailbox as long as it is good."""
        made = OURS.forward(sender, "example.org", now)
        if made is not None:
            self.assertEqual(parse_address(str(made)), made)
            if not is_rewritten(sender):
                back = OURS.back(made, now + days * DAY)
                assert back is not None
                self.assertEqual((back.name, back.domain), (sender.name, sender.domain))
