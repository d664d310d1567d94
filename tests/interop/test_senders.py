"""Programs that send: what they say when it goes well and when it does not, and what arrives."""

from __future__ import annotations

import smtplib

from tests.interop.clients import (
    curl,
    curl_sends,
    msmtp,
    mutt_sends,
    poplib_fetches,
    smtplib_session,
    swaks,
    with_login,
)
from tests.interop.mail import message
from tests.interop.programs import InteropCase, program, run
from tests.running import after_trace

TLS_LISTENERS = ("submission", "submissions")


class Sender(InteropCase):
    def arrived(self, *messages: bytes) -> None:
        """Assert that these messages, and no others, are in the maildrop, unchanged."""
        self.assertEqual([after_trace(fetched) for fetched in poplib_fetches(self)], list(messages))


class Swaks(Sender):
    def test_starttls_and_tls_on_connect_with_plain_and_login(self) -> None:
        """Both listeners for users, both mechanisms."""
        sent: list[bytes] = []
        for listener in TLS_LISTENERS:
            for mechanism in ("PLAIN", "LOGIN"):
                sent.append(message(len(sent), self.user.address))
                self.succeeds(swaks(self, sent[-1], listener, *with_login(self, mechanism)))
        self.arrived(*sent)

    def test_the_mx_listener_takes_mail_for_us_without_login(self) -> None:
        """And offers no AUTH: swaks says that it found none (status 28)."""
        sent = message(1, self.user.address)
        self.succeeds(swaks(self, sent, "smtp"))
        self.arrived(sent)
        self.assertEqual(swaks(self, sent, "smtp", *with_login(self)).status, 28)

    def test_a_wrong_password_is_535(self) -> None:
        """swaks ends with 28, authentication failed, and nothing is delivered."""
        for mechanism in ("PLAIN", "LOGIN"):
            wrong = with_login(self, mechanism, "wrong")
            done = swaks(self, message(1, self.user.address), "submission", *wrong)
            self.assertEqual(done.status, 28, done.text)
            self.assertIn("535 5.7.8", done.text)
        self.arrived()

    def test_an_unknown_recipient_is_550_5_1_1(self) -> None:
        """swaks ends with 24, no recipient was accepted."""
        for listener, options in (("smtp", ()), ("submission", with_login(self))):
            done = swaks(self, message(1, self.user.address), listener, *options, "--to", "nobody@example.org")
            self.assertEqual(done.status, 24, done.text)
            self.assertIn("550 5.1.1", done.text)

    def test_nothing_is_relayed(self) -> None:
        """For strangers: only users may write to the world."""
        done = swaks(self, message(1, self.user.address), "smtp", "--to", "someone@example.net")
        self.assertEqual(done.status, 24, done.text)
        self.assertIn("550 5.7.1", done.text)

    def test_nothing_goes_without_tls(self) -> None:
        """Without STARTTLS even MAIL is 530."""
        for listener in ("smtp", "submission"):
            who = ("--server", f"localhost:{self.port(listener)}", "--from", "<>", "--to", self.user.address)
            done = run([program("swaks"), "--helo", "client.example.org", *who], home=self.home)
            self.assertEqual(done.status, 23, done.text)
            self.assertIn("530 5.7.0 Must issue a STARTTLS command first", done.text)


class Curl(Sender):
    def test_smtp_and_smtps(self) -> None:
        """curl sends what it is given, and logs in by PLAIN."""
        sent: list[bytes] = []
        for scheme, listener in (("smtp", "submission"), ("smtps", "submissions")):
            sent.append(message(len(sent), self.user.address))
            url = f"{scheme}://localhost:{self.port(listener)}/client.example.org"
            self.succeeds(curl_sends(self, sent[-1], url))
        self.arrived(*sent)

    def test_login_as_the_mechanism(self) -> None:
        """curl can be told to use LOGIN."""
        sent = message(1, self.user.address)
        data = self.write("mail", sent)
        mail = ("--mail-from", self.user.address, "--mail-rcpt", self.user.address, "--upload-file", str(data))
        url = f"smtps://localhost:{self.port('submissions')}/client.example.org"
        self.succeeds(curl(self, "--login-options", "AUTH=LOGIN", *mail, url))
        self.arrived(sent)

    def test_another_ca_is_not_trusted(self) -> None:
        """curl's own check refuses (status 60), so that the tests above have really checked."""
        url = f"smtps://localhost:{self.port('submissions')}/client.example.org"
        self.assertEqual(curl(self, "--cacert", self.other_ca(), url).status, 60)


class Msmtp(Sender):
    def test_587_and_465_with_each_mechanism(self) -> None:
        """With certificate verification and each mechanism that msmtp and we have; status 0."""
        sent: list[bytes] = []
        for listener in TLS_LISTENERS:
            for mechanism in ("plain", "login", "scram-sha-256"):
                sent.append(message(len(sent), self.user.address))
                self.succeeds(msmtp(self, sent[-1], listener, mechanism=mechanism))
        self.arrived(*sent)

    def test_another_ca_is_not_trusted(self) -> None:
        """msmtp checks, and sends nothing to a stranger."""
        done = msmtp(self, message(1, self.user.address), "submission", ca=self.other_ca())
        self.assertNotEqual(done.status, 0)
        self.assertIn("certificate", done.text)
        self.arrived()


class Mutt(Sender):
    def test_it_submits_over_starttls(self) -> None:
        """mutt writes its own header; the body is what was typed, dots and all."""
        self.succeeds(mutt_sends(self, b"hello from mutt\n.\n..dot\nlast line\n", "by mutt"))
        [fetched] = poplib_fetches(self)
        header, body = after_trace(fetched).split(b"\r\n\r\n", 1)
        self.assertEqual(body, b"hello from mutt\r\n.\r\n..dot\r\nlast line\r\n")
        self.assertIn(b"\r\nSubject: by mutt\r\n", header)


class Smtplib(Sender):
    def test_both_listeners_with_8bitmime(self) -> None:
        """smtplib logs in with the best mechanism that it finds, and announces SIZE and BODY.

        Rule: 8BITMIME
        """
        sent: list[bytes] = []
        for listener in TLS_LISTENERS:
            sent.append(message(len(sent), self.user.address))
            with smtplib_session(self, listener) as session:
                session.login(self.user.address, self.user.password)
                session.sendmail(self.user.address, [self.user.address], sent[-1], ["BODY=8BITMIME"])
        self.arrived(*sent)

    def test_several_messages_in_a_session_and_a_wrong_recipient_between(self) -> None:
        """One refused recipient refuses neither the others nor the next message."""
        first, second = message(1, self.user.address), message(2, self.user.address)
        with smtplib_session(self, "submission") as session:
            session.login(self.user.address, self.user.password)
            refused = session.sendmail(self.user.address, [self.user.address, "nobody@example.org"], first)
            self.assertEqual(refused["nobody@example.org"][0], 550)
            self.assertRaises(
                smtplib.SMTPRecipientsRefused, session.sendmail, self.user.address, ["nobody@example.org"], first
            )
            session.sendmail(self.user.address, [self.user.address], second)
        self.arrived(first, second)

    def test_a_wrong_password_leaves_the_session_usable(self) -> None:
        """535, and the right one afterwards works."""
        with smtplib_session(self, "submissions") as session:
            error = self.assertRaises(smtplib.SMTPAuthenticationError, session.login, self.user.address, "wrong")
            self.assertEqual(error.smtp_code, 535)
            session.login(self.user.address, self.user.password)
