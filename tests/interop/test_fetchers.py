"""Programs that fetch: what arrives is what was sent, what is kept is kept, what is deleted is gone.

Each does so by STLS and on the implicit TLS listener, except getmail6, which has no STLS (the table in docs/pop3.rst).
"""

from __future__ import annotations

import email
import email.policy
import poplib
import time
from typing import Any

from tests.interop.clients import (
    curl,
    delivered,
    fetchmail,
    getmail,
    mpop,
    mutt_fetches,
    poplib_fetches,
    poplib_session,
    smtplib_session,
)
from tests.interop.mail import message
from tests.interop.programs import Done, InteropCase
from tests.running import after_trace

COUNT = 3
BOTH = ("pop3", "pop3s")


class Fetcher(InteropCase):
    """Every test begins with three messages in the maildrop."""

    def setUp(self) -> None:
        super().setUp()
        self.sent = [message(number, self.user.address) for number in range(COUNT)]
        self.send(*self.sent)

    def send(self, *messages: bytes) -> None:
        """Deliver with smtplib, through the MX listener."""
        with smtplib_session(self, "smtp") as session:
            for mail in messages:
                session.sendmail("bob@example.net", [self.user.address], mail, ["BODY=8BITMIME"])

    def fetched(self, messages: list[bytes]) -> None:
        """Assert that these are the messages that were sent, behind their trace headers."""
        self.assertEqual(sorted(after_trace(fetched) for fetched in messages), sorted(self.sent))

    def left(self, count: int) -> None:
        """Assert that so many messages are on the server."""
        session = poplib_session(self, "pop3s")
        self.assertEqual(session.stat()[0], count)
        session.quit()

    def refused(self, done: Done) -> None:
        """Assert that the program did not like the certificate, and fetched nothing."""
        self.assertNotEqual(done.status, 0)
        self.assertRegex(done.text.lower(), "certificate|ssl|tls")
        self.left(COUNT)


class Mpop(Fetcher):
    def test_keep_over_stls_and_pop3s(self) -> None:
        """Everything once; a second run over the other port finds nothing new by UIDL, then only what is new."""
        self.succeeds(mpop(self, "pop3"))
        self.fetched(delivered(self, "mpop/*/*"))
        self.left(COUNT)
        self.succeeds(mpop(self, "pop3s"))
        self.fetched(delivered(self, "mpop/*/*"))
        self.sent.append(message(COUNT, self.user.address))
        self.send(self.sent[-1])
        self.succeeds(mpop(self, "pop3"))
        self.fetched(delivered(self, "mpop/*/*"))

    def test_nokeep(self) -> None:
        """The maildrop is empty afterwards, over either port."""
        for listener in BOTH:
            self.succeeds(mpop(self, listener, keep=False))
            self.left(0)
            self.fetched(delivered(self, "mpop/*/*"))
            self.sent.append(message(len(self.sent), self.user.address))
            self.send(self.sent[-1])

    def test_login_by_sasl(self) -> None:
        """AUTH with each mechanism that mpop and this service have, over both ports; SCRAM proves both sides."""
        for mechanism in ("plain", "login", "scram-sha-256"):
            for listener in BOTH:
                self.succeeds(mpop(self, listener, auth=mechanism))
        self.fetched(delivered(self, "mpop/*/*"))
        self.left(COUNT)

    def test_another_ca_is_not_trusted(self) -> None:
        """mpop checks, so that the tests above have really checked."""
        self.refused(mpop(self, "pop3", ca=self.other_ca()))


class Fetchmail(Fetcher):
    def test_keep_over_stls_and_pop3s(self) -> None:
        """The second run says "no new mail" (status 1) on the other port."""
        done = self.succeeds(fetchmail(self, "pop3"))
        self.assertIn("upgrade to TLS succeeded", done.text)
        self.fetched(delivered(self, "fetchmail.[0-9]*"))
        self.left(COUNT)
        self.assertEqual(fetchmail(self, "pop3s").status, 1)
        self.fetched(delivered(self, "fetchmail.[0-9]*"))

    def test_nokeep_over_stls_and_ssl(self) -> None:
        """Fetched, deleted, gone; then there is no mail (status 1)."""
        self.succeeds(fetchmail(self, "pop3s", keep=False))
        self.fetched(delivered(self, "fetchmail.[0-9]*"))
        self.left(0)
        self.assertEqual(fetchmail(self, "pop3", keep=False).status, 1)
        self.sent.append(message(COUNT, self.user.address))
        self.send(self.sent[-1])
        self.succeeds(fetchmail(self, "pop3", keep=False))
        self.fetched(delivered(self, "fetchmail.[0-9]*"))
        self.left(0)

    def test_fetchall(self) -> None:
        """All again each time, and at last deleted, whatever UIDL says."""
        for listener in BOTH:
            self.succeeds(fetchmail(self, listener, options="fetchall"))
            self.left(COUNT)
        self.sent *= 2
        self.fetched(delivered(self, "fetchmail.[0-9]*"))
        for path in self.home.glob("fetchmail.[0-9]*"):
            path.unlink()
        del self.sent[COUNT:]
        self.succeeds(fetchmail(self, "pop3", keep=False, options="fetchall"))
        self.fetched(delivered(self, "fetchmail.[0-9]*"))
        self.left(0)

    def test_fastuidl(self) -> None:
        """It asks UIDL for single messages and finds what is new by halving."""
        self.succeeds(fetchmail(self, "pop3", options="fastuidl 1"))
        for listener in (*BOTH, *BOTH):
            self.sent += [message(number, self.user.address) for number in range(len(self.sent), len(self.sent) + 3)]
            self.send(*self.sent[-3:])
            done = self.succeeds(fetchmail(self, listener, options="fastuidl 1"))
            self.fetched(delivered(self, "fetchmail.[0-9]*"))
            if len(self.sent) > 7:  # fewer are not worth it to fetchmail
                self.assertRegex(done.text, r"POP3> UIDL \d")
        self.left(len(self.sent))

    def test_another_ca_is_not_trusted(self) -> None:
        """fetchmail checks, with STLS and with --ssl."""
        for listener in BOTH:
            self.refused(fetchmail(self, listener, ca=self.other_ca()))


class Getmail(Fetcher):
    """On pop3s only: getmail6 has no STLS for POP3 (6.18.11 of Debian 12; 6.20.2, the newest, has none either)."""

    def test_keep_then_delete(self) -> None:
        """getmail6 remembers by UIDL, and empties the maildrop when told to."""
        self.succeeds(getmail(self))
        self.fetched(delivered(self, "getmail.[0-9]*"))
        self.left(COUNT)
        self.succeeds(getmail(self, keep=False))
        self.fetched(delivered(self, "getmail.[0-9]*"))
        self.left(0)

    def test_another_ca_is_not_trusted(self) -> None:
        """getmail6 checks."""
        self.refused(getmail(self, ca=self.other_ca()))


class Mutt(Fetcher):
    def test_keep_then_delete(self) -> None:
        """mutt writes what it fetched into a maildir as it is; every run fetches all again, the last two delete."""
        for keep in (True, False):
            for listener in BOTH:
                for path in self.home.glob("mutt/*/*"):
                    path.unlink()
                self.succeeds(mutt_fetches(self, listener, keep=keep))
                self.fetched(delivered(self, "mutt/*/*"))
                self.left(COUNT if keep else 0)
                if not keep:
                    self.send(*self.sent)

    def test_login_by_sasl(self) -> None:
        """AUTH PLAIN, which leaves a verifier behind for this account, then SCRAM-SHA-256, over both ports."""
        for mechanism in ("plain", "scram-sha-256"):
            for listener in BOTH:
                for path in self.home.glob("mutt/*/*"):
                    path.unlink()
                self.succeeds(mutt_fetches(self, listener, auth=mechanism))
                self.fetched(delivered(self, "mutt/*/*"))
                self.left(COUNT)


class Curl(Fetcher):
    def url(self, listener: str, rest: str) -> str:
        return f"{listener}://localhost:{self.port(listener)}/{rest}"

    def test_list_fetch_top_and_delete(self) -> None:
        """LIST, RETR, TOP, UIDL and DELE over both ports, with bytes that curl does not touch."""
        for listener in BOTH:
            listing = self.succeeds(curl(self, self.url(listener, ""))).output
            sizes = [int(line.split()[1]) for line in listing.splitlines()]
            fetched = [
                self.succeeds(curl(self, self.url(listener, str(number)))).output for number in range(1, COUNT + 1)
            ]
            self.assertEqual(sizes, [len(mail) for mail in fetched])
            self.fetched(fetched)
            top = self.succeeds(curl(self, "--request", "TOP 1 2", self.url(listener, ""))).output
            self.assertTrue(fetched[0].startswith(top), top)
            self.assertEqual(len(top.partition(b"\r\n\r\n")[2].splitlines()), 2)
            uidl = self.succeeds(curl(self, "--request", "UIDL", self.url(listener, ""))).output
            self.assertEqual(len(uidl.splitlines()), COUNT)
            self.left(COUNT)
        for left, listener in enumerate(BOTH, start=1):
            self.succeeds(curl(self, "--request", "DELE", "--head", self.url(listener, "2")))
            self.left(COUNT - left)

    def test_login_by_sasl(self) -> None:
        """AUTH PLAIN and LOGIN, with an initial response and without."""
        for listener in BOTH:
            for way in ("PLAIN", "LOGIN"):
                for more in ((), ("--sasl-ir",)):
                    options = ("--login-options", f"AUTH={way}", *more)
                    done = self.succeeds(curl(self, *options, "--verbose", self.url(listener, "1")))
                    self.assertIn(f"> AUTH {way}", done.text)
                    self.assertEqual(after_trace(done.output), self.sent[0])

    def test_another_ca_is_not_trusted(self) -> None:
        """Status 60 is curl's word for it."""
        for listener in BOTH:
            self.assertEqual(curl(self, "--cacert", self.other_ca(), self.url(listener, "1")).status, 60)


class Poplib(Fetcher):
    def test_everything_that_poplib_has(self) -> None:
        """STAT, LIST, UIDL, TOP, RETR, NOOP, RSET, DELE, CAPA and QUIT agree with each other, on both ports."""
        for listener in BOTH:
            session = poplib_session(self, listener)
            self.assertIn("UIDL", session.capa())
            count, octets = session.stat()
            sizes = [int(line.split()[1]) for line in session.list()[1]]
            self.assertEqual((count, octets), (COUNT, sum(sizes)))
            uidls = [line.split()[1] for line in session.uidl()[1]]
            self.assertEqual(len(set(uidls)), COUNT)
            self.assertEqual(session.uidl(2).split()[1:], [b"2", uidls[1]])
            one: Any = session.list(2)  # bytes; typeshed knows only what comes without an argument
            self.assertEqual(one.split()[1:], [b"2", b"%d" % sizes[1]])
            self.assertEqual(session.retr(1)[1][: len(session.top(1, 3)[1])], session.top(1, 3)[1])
            session.dele(1)
            self.assertEqual(session.stat()[0], COUNT - 1)
            self.assertRaises(poplib.error_proto, session.retr, 1)
            session.noop()
            session.rset()
            self.assertEqual(session.stat(), (count, octets))
            session.quit()
            self.fetched(poplib_fetches(self, listener))
        for left, listener in enumerate(BOTH, start=1):
            session = poplib_session(self, listener)
            session.dele(1)
            session.quit()
            self.left(COUNT - left)

    def test_an_internationalised_message(self) -> None:
        """Before UTF8 it is an ASCII one with the same meaning, after UTF8 it is what was sent; both sizes are true."""
        sent = message(9, self.user.address).replace(b"number 9,", "Grüße,".encode())
        self.send(sent)
        for listener in BOTH:
            session = poplib_session(self, listener)
            surrogate = b"\r\n".join(session.retr(COUNT + 1)[1]) + b"\r\n"
            size = int(session.list()[1][COUNT].split()[1])
            self.assertEqual(size, len(surrogate))
            session.quit()
            self.assertEqual(after_trace(surrogate).partition(b"\r\n\r\n")[2], sent.partition(b"\r\n\r\n")[2])
            read = email.message_from_bytes(surrogate, policy=email.policy.default)
            self.assertTrue(surrogate.partition(b"\r\n\r\n")[0].isascii())
            self.assertEqual(read["subject"], "Grüße,\tfolded")
            session = poplib_session(self, listener, utf8=True)
            fetched = b"\r\n".join(session.retr(COUNT + 1)[1]) + b"\r\n"
            self.assertEqual(int(session.list()[1][COUNT].split()[1]), len(fetched))
            session.quit()
            self.assertEqual(after_trace(fetched), sent)

    def test_a_maildrop_is_for_one_session(self) -> None:
        """The second login is [IN-USE]; what a session marks is dropped when its connection is cut."""
        first = poplib_session(self, "pop3")
        first.dele(1)
        error = self.assertRaises(poplib.error_proto, poplib_session, self, "pop3s")
        self.assertIn(b"[IN-USE]", error.args[0])
        first.quit()
        self.left(COUNT - 1)

    def test_deletes_are_dropped_when_the_connection_is_lost(self) -> None:
        """Only QUIT removes (RFC 1939 section 6)."""
        session = poplib_session(self, "pop3")
        session.dele(1)
        self.assertIsNotNone(session.sock)
        session.sock.close()
        session.file.close()
        # The service sees the end of the connection a moment later; until then the maildrop is in use.
        limit = time.monotonic() + 180
        while True:
            try:
                self.left(COUNT)
                break
            except poplib.error_proto as error:
                self.assertIn(b"[IN-USE]", error.args[0])
                self.assertLess(time.monotonic(), limit)
