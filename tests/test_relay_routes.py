"""Routes: which one a recipient's mail takes, in which order relays are tried; credentials in a file."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, parse_address
from mailsvc.relay.logins import LoginKind, RelayLogin, read_logins
from mailsvc.relay.routes import (
    Plan,
    Route,
    RouteKind,
    ToBackup,
    ToMX,
    ToRelays,
    in_order,
    plan,
    relays_of,
    target_in_words,
)
from mailsvc.relay.url import MX, RelayError, parse_relay

A, B, C = (parse_relay(f"tls://{name}.example") for name in "abc")
DIRECT = parse_relay("tls://")
BOB = parse_address("bob@deep.example.net")
ALICE = parse_address("Alice@example.org")


class Table:
    """Routes in a dictionary."""

    def __init__(self, *routes: Route) -> None:
        self._routes = {(route.kind, route.key): route for route in routes}

    def route(self, kind: RouteKind, key: str) -> Route | None:
        return self._routes.get((kind, key))


def planned(*routes: Route, sender: Address | None = ALICE, account: Address | None = ALICE) -> Plan:
    """The plan for `BOB`."""
    return plan(BOB, sender, account, Table(*routes))


ALL = [
    Route(RouteKind.TO, "deep.example.net", (A,)),
    Route(RouteKind.TO, "*.example.net", (A,)),
    Route(RouteKind.TO, "*.net", (A,)),
    Route(RouteKind.ACCOUNT, "alice@example.org", (A,)),
    Route(RouteKind.FROM, "alice@example.org", (A,)),
    Route(RouteKind.FROM, "example.org", (A,)),
    Route(RouteKind.DEFAULT, "", (A,)),
]


class PlanTests(SynchronousTestCase):
    def test_the_most_particular_decides(self) -> None:
        """Recipient's domain, domains above it, account, sender, sender's domain, default: each when those before are
        not there.

        Rule: Routes: the most particular decides
        """
        for place, route in enumerate(ALL):
            self.assertEqual(planned(*ALL[place:]).route, route.name)
        self.assertEqual(planned().route, "mx")

    def test_no_route(self) -> None:
        """The MX hosts of the domain, and the steps say what was looked for."""
        found = planned()
        self.assertEqual(found.targets, (ToMX("deep.example.net", MX),))
        self.assertIn("there is no route for everything else", found.steps)
        self.assertIn("the MX hosts of deep.example.net", found.steps[-1])

    def test_a_star_is_below_only(self) -> None:
        """*.example.net is not example.net."""
        table = Table(Route(RouteKind.TO, "*.example.net", (A,)))
        self.assertEqual(plan(parse_address("x@example.net"), None, None, table).route, "mx")
        self.assertEqual(plan(parse_address("x@a.b.example.net"), None, None, table).route, "to *.example.net")

    def test_a_notice_has_no_sender(self) -> None:
        """Without a sender and an account only the recipient and the default count."""
        self.assertEqual(planned(*ALL[3:], sender=None, account=None).route, "default")

    def test_an_address_literal(self) -> None:
        """It has no domains above it."""
        found = plan(parse_address("x@[192.0.2.1]"), None, None, Table())
        self.assertEqual(found.targets, (ToMX("[192.0.2.1]", MX),))
        self.assertIn("the address [192.0.2.1]", found.steps[-1])

    def test_relays_in_turn(self) -> None:
        """Named relays are one target; MX hosts and being a backup are targets of their own, in their place."""
        backup = parse_relay("backup://mx2.example.org")
        found = planned(Route(RouteKind.DEFAULT, "", (A, B, DIRECT, C, backup)))
        self.assertEqual(
            found.targets,
            (
                ToRelays((A, B)),
                ToMX("deep.example.net", DIRECT),
                ToRelays((C,)),
                ToBackup("deep.example.net", "mx2.example.org", backup),
            ),
        )
        self.assertEqual([relay for target in found.targets for relay in relays_of(target)], [A, B, DIRECT, C, backup])
        self.assertEqual(sum("when that cannot be reached" in step for step in found.steps), 4)

    def test_words_of_weights(self) -> None:
        """The share of each is told."""
        words = target_in_words(ToRelays((A, B), (3, 1)))
        self.assertTrue(words[0].startswith("in 75 % of the cases first to a.example"), words[0])

    def test_what_does_not_fit(self) -> None:
        """Weights for each relay or for none, in their range, and not for MX hosts."""
        for relays, weights in (
            ((), ()),
            ((A,) * 21, ()),
            ((A, B), (1,)),
            ((A,), (0,)),
            ((A,), (65536,)),
            ((A, DIRECT), (1, 1)),
        ):
            self.assertRaises(RelayError, Route, RouteKind.DEFAULT, "", relays, weights)


class OrderTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.integers(0, 1000), st.lists(st.integers(1, 65535), min_size=3, max_size=3))
    def test_each_has_its_turn(self, seed: int, weights: list[int]) -> None:
        """An order by weight holds every relay once; without weights it is the given one."""
        order = in_order(ToRelays((A, B, C), tuple(weights)), Random(seed))
        self.assertEqual(sorted(map(str, order)), sorted(map(str, (A, B, C))))
        self.assertEqual(in_order(ToRelays((A, B, C)), Random(seed)), (A, B, C))

    def test_by_weight(self) -> None:
        """The first one comes in proportion to its weight."""
        random = Random(1)
        first = Counter(in_order(ToRelays((A, B), (3, 1)), random)[0] for _ in range(2000))
        self.assertTrue(1400 < first[A] < 1600, first)


class LoginTests(SynchronousTestCase):
    """Credentials in a file."""

    def file(self, text: str, mode: int = 0o600) -> Path:
        path = Path(self.mktemp()).absolute()
        path.write_text(text, "utf-8")
        os.chmod(path, mode)
        return path

    def refused(self, path: Path) -> str:
        return str(self.assertRaises(MailsvcError, read_logins, path))

    def test_read(self) -> None:
        """A table for each label: with a password, a token, or nothing but a certificate."""
        path = self.file(
            '[isp]\nuser = "alice"\npassword = "geheim"\n[mail]\nuser = "a@b"\ntoken = "t"\n["x.y"]\nuser = ""\n'
            '[plain]\nuser = "alice"\npassword = "geheim"\nmechanisms = ["PLAIN"]\n'
        )
        self.assertEqual(
            read_logins(path),
            {
                "isp": RelayLogin("isp", LoginKind.PASSWORD, "alice", "geheim"),
                "mail": RelayLogin("mail", LoginKind.TOKEN, "a@b", "t"),
                "plain": RelayLogin("plain", LoginKind.PASSWORD, "alice", "geheim", ("PLAIN",)),
                "x.y": RelayLogin("x.y", LoginKind.CERTIFICATE, ""),
            },
        )
        self.assertNotIn("geheim", repr(read_logins(path)))

    def test_open_to_others(self) -> None:
        """A file that others can read is not used, and the cure is named.

        Rule: Credentials for relays: a file that others can read is refused
        """
        self.assertIn("chmod 600", self.refused(self.file("", 0o644)))
        self.assertIn("credentials for relays", self.refused(Path("/nonexistent/file")))

    def test_mistakes(self) -> None:
        """Each is named with its place, and never with what is secret."""
        for text, words in (
            ('[isp]\nuser = "a"\npassword = "geheim', "at its end"),
            ('[isp]\nuser = "a"\npassword = geheim\n', "line 3"),
            ('password = "geheim"\n', "below a [LABEL]"),
            ('[isp]\npassword = "geheim"\n', "user name is missing"),
            ('[isp]\nuser = "a"\npassword = "geheim"\ntoken = "geheim"\n', "leave out one"),
            ('[isp]\nuser = "a"\npassword = 1\n', "strings"),
            ('[isp]\nuser = "a"\npasswd = "geheim"\n', "strings user, password and token only"),
            ('[isp]\nuser = "a"\npassword = ""\n', "is empty"),
            ('[isp]\nuser = "a"\npassword = "geheim\\u0000"\n', "control character"),
            ('[isp]\nuser = "a\\n"\npassword = "geheim"\n', "control character"),
            ('["a b"]\nuser = "a"\npassword = "geheim"\n', "label has letters"),
            ('[isp]\nuser = "a"\npassword = "geheim"\nmechanisms = "PLAIN"\n', 'a list such as ["PLAIN"]'),
            ('[isp]\nuser = "a"\npassword = "geheim"\nmechanisms = ["NTLM"]\n', "'NTLM' is no mechanism"),
            ('[isp]\nuser = "a"\ntoken = "geheim"\nmechanisms = ["PLAIN"]\n', "a token has one mechanism only"),
        ):
            message = self.refused(self.file(text))
            self.assertIn(words, message, text)
            self.assertNotIn("geheim", message)
