"""The promise of the whole slice in two tests: what real programs send, other real programs fetch, byte for byte."""

from __future__ import annotations

from tests.interop.clients import delivered, fetchmail, mpop, swaks, with_login
from tests.interop.mail import message
from tests.interop.programs import InteropCase
from tests.running import after_trace


class SwaksToMpopAndFetchmail(InteropCase):
    def round_trip(self, submission: str, pop3: str) -> None:
        sent = message(1, self.user.address)
        self.succeeds(swaks(self, sent, submission, *with_login(self)))
        self.succeeds(mpop(self, pop3))
        self.succeeds(fetchmail(self, pop3))
        [by_mpop] = delivered(self, "mpop/*/*")
        [by_fetchmail] = delivered(self, "fetchmail.[0-9]*")
        self.assertEqual(by_mpop, by_fetchmail)
        self.assertEqual(after_trace(by_mpop), sent)
        self.assertEqual(after_trace(by_fetchmail), sent)

    def test_a_message_sent_by_swaks_over_starttls_and_auth_is_fetched_by_mpop_and_fetchmail_over_stls(self) -> None:
        """Identical bytes after the added trace headers."""
        self.round_trip("submission", "pop3")

    def test_the_same_through_465_and_995(self) -> None:
        """Identical bytes after the added trace headers, with TLS from the first octet."""
        self.round_trip("submissions", "pop3s")
