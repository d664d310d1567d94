"""Routes and sealed credentials as rows."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound, TemporaryFailure
from mailsvc.mail.address import parse_address
from mailsvc.relay.logins import LoginKind, RelayLogin
from mailsvc.relay.routes import Route, RouteKind
from mailsvc.relay.url import parse_relay
from mailsvc.storage import routes
from mailsvc.tls.sealing import CERTIFICATE, RELAY_LOGIN, SealingKey, seal, unseal
from tests.storage_cases import OfflineCase

KEY = SealingKey(bytes(range(32)))
OTHER = SealingKey(bytes(32))
A, B = parse_relay("tls://isp@a.example:587?verify=chain"), parse_relay("smtp+tls://")
DEFAULT = Route(RouteKind.DEFAULT, "", (A, B))
WEIGHED = Route(RouteKind.TO, "example.net", (A, parse_relay("lmtp:///run/x%20y")), (3, 1), 4)
LOGIN = RelayLogin("isp", LoginKind.PASSWORD, "alice", "geheim")


class RouteRowTests(OfflineCase):
    def test_what_is_put_comes_back(self) -> None:
        """In order, with weights and limit; the list has the order in which routes are looked for."""
        with self.transaction() as txn:
            for route in (DEFAULT, WEIGHED):
                self.assertFalse(routes.add_route(txn, route, 1.0))
            self.assertEqual(routes.routes(txn), [WEIGHED, DEFAULT])
            self.assertEqual(routes.RouteRows(txn).route(RouteKind.TO, "example.net"), WEIGHED)
            self.assertIsNone(routes.RouteRows(txn).route(RouteKind.FROM, "example.net"))
            found = routes.planned(txn, parse_address("x@example.net"), None, None)
            self.assertEqual((found.route, found.at_once), ("to example.net", 4))

    def test_replace_and_remove(self) -> None:
        """A second one of a kind and key only when it is meant to replace the first."""
        with self.transaction() as txn:
            routes.add_route(txn, DEFAULT, 1.0)
            self.assertRaises(AlreadyExists, routes.add_route, txn, DEFAULT, 2.0)
            shorter = Route(RouteKind.DEFAULT, "", (B,))
            self.assertTrue(routes.add_route(txn, shorter, 2.0, replace=True))
            self.assertEqual(routes.routes(txn), [shorter])
            routes.remove_route(txn, RouteKind.DEFAULT, "")
            self.assertRaises(NotFound, routes.remove_route, txn, RouteKind.DEFAULT, "")
            self.assertEqual(routes.routes(txn), [])

    def test_a_damaged_row_holds_the_mail(self) -> None:
        """It is an error that may heal, never "no route"; so is one that promises what it does not demand."""
        for url in ("nonsense", "smtp://isp@a.example"):
            with self.transaction() as txn:
                routes.add_route(txn, DEFAULT, 1.0, replace=True)
                txn.execute("UPDATE route_relay SET url = ?", (url,))
                error = self.assertRaises(TemporaryFailure, routes.RouteRows(txn).route, RouteKind.DEFAULT, "")
                self.assertIn("damaged", str(error))


class LoginRowTests(OfflineCase):
    def test_sealed(self) -> None:
        """The secret stands in no column, and comes back with the key only.

        Rule: Credentials for relays: sealed in the database
        """
        with self.transaction() as txn:
            self.assertFalse(routes.put_login(txn, LOGIN, KEY, 1.0))
            row = routes.login_row(txn, "isp")
            assert row is not None
            self.assertNotIn(b"geheim", row.sealed)
            self.assertNotIn("geheim", repr(row))
            self.assertEqual(routes.opened(row, KEY), LOGIN)
            self.assertIn("there is no key", str(self.assertRaises(MailsvcError, routes.opened, row, None)))
            self.assertIn("another one", str(self.assertRaises(MailsvcError, routes.opened, row, OTHER)))
            self.assertRaises(MailsvcError, routes.put_login, txn, LOGIN, None, 1.0)

    def test_mechanisms(self) -> None:
        """What may be spoken with them is kept, and replaced with them."""
        login = replace(LOGIN, mechanisms=("PLAIN", "LOGIN"))
        with self.transaction() as txn:
            for each in (login, LOGIN):
                routes.put_login(txn, each, KEY, 1.0)
                row = routes.login_row(txn, "isp")
                assert row is not None
                self.assertEqual(routes.opened(row, KEY), each)

    def test_without_a_secret(self) -> None:
        """A certificate needs no key."""
        login = RelayLogin("cert", LoginKind.CERTIFICATE, "")
        with self.transaction() as txn:
            routes.put_login(txn, login, None, 1.0)
            row = routes.login_row(txn, "cert")
            assert row is not None
            self.assertEqual(routes.opened(row, None), login)

    def test_list_replace_remove(self) -> None:
        """In use by a route they stay."""
        with self.transaction() as txn:
            routes.put_login(txn, LOGIN, KEY, 1.0)
            self.assertTrue(routes.put_login(txn, RelayLogin("isp", LoginKind.TOKEN, "bob", "t"), KEY, 2.0))
            self.assertEqual([(row.label, row.user) for row in routes.login_rows(txn)], [("isp", "bob")])
            routes.add_route(txn, DEFAULT, 1.0)
            self.assertIn("default", str(self.assertRaises(MailsvcError, routes.remove_login, txn, "isp")))
            routes.remove_route(txn, RouteKind.DEFAULT, "")
            routes.remove_login(txn, "isp")
            self.assertRaises(NotFound, routes.remove_login, txn, "isp")


class SealTests(SynchronousTestCase):
    def test_bound_to_the_kind(self) -> None:
        """A seal of credentials opens neither under another label nor as a certificate's key."""
        sealed = seal(KEY, "isp", b"geheim", RELAY_LOGIN)
        self.assertEqual(unseal(KEY, "isp", sealed, RELAY_LOGIN), b"geheim")
        self.assertRaises(MailsvcError, unseal, KEY, "isp", sealed, CERTIFICATE)
        self.assertRaises(MailsvcError, unseal, KEY, "other", sealed, RELAY_LOGIN)
