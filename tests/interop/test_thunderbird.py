"""Thunderbird, without a screen: leaves mail on the server, fetches only what is new, and deletes, over both ports."""

from __future__ import annotations

from tests.interop.clients import poplib_session, smtplib_session
from tests.interop.mail import message
from tests.interop.programs import InteropCase
from tests.interop.thunderbird import Thunderbird
from tests.running import crlf


class ThunderbirdTests(InteropCase):
    def send(self, *numbers: int) -> None:
        with smtplib_session(self, "smtp") as session:
            for number in numbers:
                mail = message(number, self.user.address, b"the only line\r\n")
                session.sendmail("bob@example.net", [self.user.address], mail, ["BODY=8BITMIME"])

    def left(self) -> int:
        session = poplib_session(self, "pop3s")
        count, _ = session.stat()
        session.quit()
        return count

    def test_leave_on_server_and_delete(self) -> None:
        """The first start fetches all, the next, over the other port, what is new; over both, what shall go goes."""
        thunderbird = Thunderbird(self)
        self.send(1, 2)
        self.assertEqual(thunderbird.fetch("pop3s"), "2 retrieved, 0 deleted")
        self.send(3)
        self.assertEqual(thunderbird.fetch("pop3"), "1 retrieved, 0 deleted")
        self.assertEqual(self.left(), 3)
        self.send(4)
        self.assertEqual(thunderbird.fetch("pop3", keep=False), "1 retrieved, 4 deleted")
        self.send(5)
        self.assertEqual(thunderbird.fetch("pop3s", keep=False), "1 retrieved, 1 deleted")
        self.assertEqual(self.left(), 0)
        inbox = crlf(thunderbird.inbox())
        for number in (1, 2, 3, 4, 5):
            self.assertEqual(inbox.count(message(number, self.user.address, b"the only line\r\n")), 1, number)
