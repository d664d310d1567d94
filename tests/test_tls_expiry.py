"""When a certificate's end is worth a word."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import new_authority, server_certificate
from mailsvc.tls import expiry
from mailsvc.tls.credential import Credential, make_credential
from tests.pki import HOSTNAME, authority

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def ending(left: timedelta) -> Credential:
    """A credential that ends so long after `NOW`."""
    made = server_certificate(authority(), [HOSTNAME], NOW - timedelta(days=30), lifetime=timedelta(days=30) + left)
    return make_credential(HOSTNAME, (made.certificate, authority().certificate), made.key)


class ExpiryTests(SynchronousTestCase):
    """Warnings at 21, 7, 3 and 1 days, and at the end."""

    def test_the_days(self) -> None:
        """The least warning that covers what is left."""
        day = timedelta(days=1)
        for left, wanted in (
            (30 * day, None),
            (21 * day + timedelta(seconds=1), None),
            (21 * day, 21),
            (8 * day, 21),
            (7 * day, 7),
            (5 * day, 7),
            (3 * day, 3),
            (day, 1),
            (timedelta(seconds=1), 1),
            (timedelta(0), 0),
            (-day, 0),
        ):
            self.assertEqual(expiry.due(ending(left), NOW), wanted, left)

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.integers(0, 60 * 24), min_size=1).map(sorted))
    def test_each_warning_once_in_its_order(self, hours: list[int]) -> None:
        """As time goes by warnings only become more urgent."""
        credential = ending(timedelta(days=40))
        said = [expiry.due(credential, NOW + timedelta(hours=hour)) for hour in hours]
        ranks = [100 if days is None else days for days in said]
        self.assertEqual(ranks, sorted(ranks, reverse=True))

    def test_a_root_behind_it_does_not_count(self) -> None:
        """Clients have their own copy of a root; an intermediate's end is the chain's."""
        made = server_certificate(authority(), [HOSTNAME], NOW, lifetime=timedelta(days=300))
        old = new_authority("an old root", NOW - timedelta(days=3650))
        whole = make_credential(HOSTNAME, (made.certificate, old.certificate), made.key)
        self.assertIsNone(expiry.due(whole, NOW))

    def test_in_words(self) -> None:
        """With the date and the cure."""
        self.assertIn("ends within 7 days, on 2026-05-06", expiry.sentence(ending(timedelta(days=5)), 7))
        self.assertIn("ended on 2026-04-30", expiry.sentence(ending(timedelta(days=-1)), 0))
