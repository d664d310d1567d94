"""The extensions of issue 3 with clients that were not written for them: curl, smtplib, swaks, and raw BDAT."""

from __future__ import annotations

import sys
from itertools import count

from tests.interop.clients import curl, poplib_fetches, smtplib_session, swaks, with_login
from tests.interop.mail import message
from tests.interop.programs import InteropCase, program, run
from tests.peer import pop3_session, submission_session
from tests.running import PASSWORD, after_trace, python_environment

_NUMBERS = count(1)


class Extensions(InteropCase):
    def utf8_user(self) -> str:
        """An account whose local part is no ASCII."""
        [user] = self.service.add_users(f"jürgen{next(_NUMBERS)}@example.org")
        return user.address

    def fetched_by(self, address: str) -> list[bytes]:
        """The messages of an account, without the trace fields."""
        with pop3_session(self.port("pop3s"), self.service.ca, address, PASSWORD, tls=True) as peer:
            messages = int(peer.pop3(b"STAT").split()[1])
            found = []
            for number in range(1, messages + 1):
                self.assertTrue(peer.pop3(b"RETR %d" % number).startswith(b"+OK"))
                found.append(after_trace(peer.dotted()))
            return found

    def test_curl_sends_to_a_utf8_mailbox(self) -> None:
        """curl says SMTPUTF8 by itself when an address needs it (RFC 6531)."""
        address = self.utf8_user()
        sent = message(1, self.user.address)
        mail = self.write("utf8.eml", sent)
        url = f"smtp://localhost:{self.port('submission')}/client.example.org"
        who = ("--mail-from", self.user.address, "--mail-rcpt", address)
        self.succeeds(curl(self, *who, "--upload-file", str(mail), url))
        self.assertEqual(self.fetched_by(address), [sent])

    def test_smtplib_with_smtputf8_and_a_wish_for_a_report(self) -> None:
        """SMTPUTF8 with the options of RFC 3461: the mail arrives, and so does the report of it, with the ENVID."""
        address = self.utf8_user()
        sent = message(2, self.user.address)
        with smtplib_session(self, "submission") as client:
            client.login(self.user.address, self.user.password)
            client.sendmail(
                self.user.address,
                [address],
                sent,
                mail_options=["SMTPUTF8", "BODY=8BITMIME", "RET=HDRS", "ENVID=interop-2"],
                rcpt_options=["NOTIFY=SUCCESS"],
            )
        self.assertEqual(self.fetched_by(address), [sent])
        [report] = poplib_fetches(self)
        self.assertIn(b"Original-Envelope-Id: interop-2", report)
        self.assertIn(b"Action: delivered", report)

    def test_swaks_is_not_offered_weak_mechanisms(self) -> None:
        """CRAM and DIGEST need the password in clear on the server; swaks finds none of them and ends with 28."""
        for mechanism in ("CRAM-MD5", "CRAM-SHA1", "DIGEST-MD5"):
            done = swaks(self, message(3, self.user.address), "submission", *with_login(self, mechanism))
            self.assertEqual(done.status, 28, done.text)
        self.assertEqual(poplib_fetches(self), [])

    def test_gsasl_proves_the_password_and_the_channel(self) -> None:
        """GNU SASL over GnuTLS: SCRAM-SHA-256-PLUS bound to the session by tls-exporter (RFC 9266).

        (The msmtp of Debian 12 has no mechanism that binds.)
        """
        gsasl = program("gsasl")
        database = ("--database", str(self.service.database))
        new = f"{PASSWORD}\n".encode()
        command = [sys.executable, "-m", "mailsvc", *database, "user", "passwd", self.user.address, "--password-stdin"]
        # The password set anew, so that the account has what SCRAM is checked against.
        self.succeeds(run(command, home=self.home, stdin=new, environment=python_environment()))
        who = ("--authentication-id", self.user.address, "--password", PASSWORD)
        place = ("--smtp", "--connect", f"localhost:{self.port('submission')}", "--x509-ca-file", self.service.ca)
        done = run([gsasl, *place, "--mechanism", "SCRAM-SHA-256-PLUS", *who], home=self.home)
        self.succeeds(done)
        self.assertIn("235 2.7.0", done.text)

    def test_bdat_in_one_segment_with_the_envelope(self) -> None:
        """MAIL, RCPT and two chunks sent at once over TLS: four replies, and the octets as they were (RFC 3030)."""
        sent = message(4, self.user.address)
        first, last = sent[:100], sent[100:]
        address = self.user.address.encode()
        with submission_session(
            self.port("submission"), self.service.ca, self.user.address, self.user.password, tls=False
        ) as peer:
            peer.send(
                b"MAIL FROM:<%s> BODY=8BITMIME\r\nRCPT TO:<%s>\r\n" % (address, address)
                + b"BDAT %d\r\n%s" % (len(first), first)
                + b"BDAT %d LAST\r\n%s" % (len(last), last)
                + b"NOOP\r\n"
            )
            self.assertEqual([peer.reply()[-1][:3] for _ in range(5)], [b"250"] * 5)
        self.assertEqual([after_trace(mail) for mail in poplib_fetches(self)], [sent])
