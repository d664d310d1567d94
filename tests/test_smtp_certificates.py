"""Logging in and handing in mail by a client certificate, in real TLS, and what Received and the events say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email import message_from_bytes
from email.policy import SMTP

from cryptography import x509
from OpenSSL import SSL

from mailsvc.certkit.build import Issued
from mailsvc.certkit.revocation import new_list
from mailsvc.smtp.modes import SUBMISSIONS, lmtp, mx
from mailsvc.storage import accounts, identities
from mailsvc.tls.policy import Asking, ListenerPolicy
from tests.bad_certificates import Made, make, now, root
from tests.client_certificates import AskingHost, asking, expired, external, key_of, mail, person, showing
from tests.memory import ALICE, BOB, Client, MailCase, storage_failure

WELCOME = b"235 2.7.0 Authentication succeeded\r\n"
REFUSED = b"535 5.7.8 Authentication credentials invalid\r\n"
NOT_OFFERED = b"504 5.5.4 Authentication mechanism not offered\r\n"
LOGIN_FIRST = b"530 5.7.0 Authentication required\r\n"


def revoked_by_ca(*made: Made) -> x509.CertificateRevocationList:
    """A list of `root()` that takes these back."""
    serials = [each.certificate.serial_number for each in made]
    return new_list(Issued(root().certificate, root().key), None, serials, "key-compromise", now())


class CertificateCase(MailCase):
    def asking(self, policies: Mapping[str, ListenerPolicy] | None = None) -> AskingHost:
        host = AskingHost(policies)
        self.hosts.append(host)
        return host


class ExternalTests(CertificateCase):
    """SASL EXTERNAL (RFC 4422 appendix A) on the submission listeners."""

    def test_a_known_key_logs_in(self) -> None:
        """The key of a certificate that was added is the account, with and without saying whom; inside every version.

        Rule: EXTERNAL
        """
        host, laptop = self.asking(), person()
        host.know(laptop)
        for newest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            for authzid in ("", ALICE):
                client = host.sender(laptop, context=showing(laptop, newest=newest))
                self.assertIn(b" EXTERNAL ", host.greeting)
                self.assertEqual(client.ask(external(authzid)), WELCOME)
                self.assertTrue(mail(client).startswith(b"250 "))
        client = host.sender(laptop, SUBMISSIONS)
        self.assertEqual(client.ask(b"AUTH EXTERNAL"), b"334 \r\n")
        self.assertEqual(client.ask(b""), WELCOME)

    def test_only_as_itself(self) -> None:
        """An authzid that is not a name of the account is refused; so is a sender that is not its own.

        Rule: EXTERNAL
        """
        host, laptop = self.asking(), person()
        host.know(laptop)
        client = host.sender(laptop)
        refused = b"535 5.7.8 Acting as another identity is not permitted\r\n"
        self.assertEqual(client.ask(external(BOB)), refused)
        self.assertEqual(client.ask(external()), WELCOME)
        self.assertTrue(client.ask(b"MAIL FROM:<bob@example.org>").startswith(b"553 5.7.1 "))

    def test_an_unknown_key(self) -> None:
        """A certificate that is verified and nobody's logs nobody in; without one, or outside TLS, nothing is offered.

        Rule: EXTERNAL
        """
        host = self.asking()
        self.assertEqual(host.sender(person("stranger", ALICE)).ask(external()), REFUSED)
        client = host.sender(None)
        self.assertNotIn(b"EXTERNAL", host.greeting)
        self.assertEqual(client.ask(external()), NOT_OFFERED)

    def test_what_a_known_key_forgives(self) -> None:
        """That nobody whom we trust has signed it, and nothing else: an expired certificate of a known key is none."""
        host = self.asking()
        alone, old = person("alone", alone=True), expired("old")
        server = person("server", usage=x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, alone=True)
        for number, made in enumerate((alone, old, server)):
            host.know(made, label=f"number {number}")
        self.assertEqual(host.sender(alone).ask(external()), WELCOME)
        for made in (old, server):
            self.assertEqual(host.sender(made).ask(external()), NOT_OFFERED)

    def test_what_a_ca_revoked_stays_revoked(self) -> None:
        """A thief can put any certificate around the key that he stole: where revocation lists are set, one that cannot
        be held against them is no login, and no relay client.

        Rule: EXTERNAL: revoked by its CA
        """
        gone, good = person("gone"), person("good")
        host = self.asking({"submission": asking(crls=(revoked_by_ca(gone),))})
        for made in (gone, good):
            host.know(made, label=made.certificate.subject.rfc4514_string())
            host.store.now(identities.add_relay_client, str(made.certificate.subject), key_of(made), "", ["*"], 0.0)
        again = make(None, "gone", usage=x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH, key=gone.key)
        other = make(root("other"), "gone", usage=x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH, key=gone.key)
        for made in (gone, again, other):
            self.assertEqual(host.sender(made).ask(external()), NOT_OFFERED)
            self.assertTrue(mail(host.sender(made), "printer@example.org").startswith(b"530 "))
        self.assertEqual(host.sender(good).ask(external()), WELCOME)

    def test_a_ca_that_may_vouch(self) -> None:
        """A verified mail address logs in when it is of a CA that was named for it, and of no other.

        Rule: EXTERNAL by a verified address
        """
        other = root("other")
        host = self.asking({"submission": asking(Asking.ASK, root(), other)})
        alice = person("a", "Alice@example.org", "elsewhere@example.net")
        self.assertEqual(host.sender(alice).ask(external()), REFUSED, "nobody may vouch")
        host.vouching = frozenset({key_of(root())})
        self.assertEqual(host.sender(alice).ask(external()), WELCOME)
        self.assertEqual(host.sender(person("a", ALICE, issuer=other)).ask(external()), REFUSED)
        self.assertEqual(host.sender(person("a", ALICE, alone=True)).ask(external()), REFUSED)
        self.assertEqual(host.sender(person(ALICE)).ask(external()), REFUSED, "a common name is no address")
        both = person("both", ALICE, BOB)
        self.assertEqual(host.sender(both).ask(external()), REFUSED, "which of the two is not said")
        client = host.sender(both)
        self.assertEqual(client.ask(external(BOB)), WELCOME)
        self.assertTrue(client.ask(b"MAIL FROM:<bob@example.org>").startswith(b"250 "))

    def test_revoked_in_the_table(self) -> None:
        """A revoked key is refused at its next session, and at the next MAIL of one that runs; by whatever way it came.

        Rule: EXTERNAL: revoked in the table
        """
        host, laptop, vouched = self.asking(), person(), person("v", ALICE)
        host.vouching = frozenset({key_of(root())})
        host.know(laptop)
        for made in (laptop, vouched):
            client = host.sender(made)
            self.assertEqual(client.ask(external()), WELCOME)
            self.assertTrue(mail(client).startswith(b"250 "))
            host.store.now(identities.revoke_key, ALICE, key_of(made), 1.0)
            self.assertTrue(mail(client).startswith(b"421 4.7.0 "))
            self.assertEqual(host.sender(made).ask(external()), REFUSED)

    def test_disabled_and_removed(self) -> None:
        """The key of an account that is disabled, or gone, opens nothing."""
        host, laptop = self.asking(), person()
        host.know(laptop)
        host.store.connection.execute("UPDATE account SET disabled = 1 WHERE key = ?", (ALICE,))
        self.assertEqual(host.sender(laptop).ask(external()), REFUSED)
        host.store.now(accounts.remove_account, ALICE)
        self.assertEqual(host.sender(laptop).ask(external()), REFUSED)

    def test_required(self) -> None:
        """Where a certificate is required there is no session without a good one."""
        host = self.asking({"submissions": asking(Asking.REQUIRE)})
        for made in (None, expired(), person(alone=True)):
            self.assertRaises(SSL.Error, host.sender, made, SUBMISSIONS)
            self.assertTrue(host.clients[-1].is_closed)
        self.assertIn(b"250", host.sender(person(), SUBMISSIONS).ask(b"NOOP"))


class Pop3Tests(CertificateCase):
    def test_external(self) -> None:
        """The same key opens the maildrop by POP3 (RFC 5034), and its device is named after the key.

        Rule: EXTERNAL
        """
        host, phone = self.asking(), person("phone")
        host.know(phone, label="phone")
        client = host.fetcher(phone)
        self.assertIn(b" EXTERNAL ", client.ask(b"CAPA"))
        self.assertTrue(client.ask(external()).startswith(b"+OK"))
        client.ask(b"QUIT")
        [(credential,)] = host.store.connection.execute("SELECT credential FROM device").fetchall()
        self.assertEqual(credential, f"certificate {key_of(phone)}")
        host.store.now(identities.revoke_certificate, ALICE, "phone", 1.0)
        self.assertEqual(host.count("device"), 0, "what it has not fetched holds nothing back")
        self.assertTrue(host.fetcher(phone).ask(external()).startswith(b"-ERR [AUTH]"))
        self.assertNotIn(b"EXTERNAL", host.fetcher(None).ask(b"CAPA"))

    def test_a_stolen_phone_deletes_nothing(self) -> None:
        """QUIT of a session whose key was revoked meanwhile removes nothing."""
        host, phone = self.asking(), person("phone")
        host.know(phone, label="phone")
        host.put_message(b"Subject: x\r\n\r\nbody\r\n")
        client = host.fetcher(phone)
        client.ask(external())
        client.ask(b"DELE 1")
        host.store.now(identities.revoke_certificate, ALICE, "phone", 1.0)
        self.assertTrue(client.ask(b"QUIT").startswith(b"-ERR"))
        self.assertEqual(len(host.mail_of()), 1)


class MachineTests(CertificateCase):
    """Relay clients: `mailsvc relay-client add`."""

    def machine(self, *senders: str) -> tuple[AskingHost, Made]:
        host, made = self.asking(), person("printer", alone=True)
        host.store.now(identities.add_relay_client, "printer", key_of(made), "", senders, 0.0)
        return host, made

    def test_mail_without_a_login(self) -> None:
        """A machine hands in mail without AUTH, is named in the event, and is no user: the keyword has no A.

        Rule: Mail from a machine by its certificate
        """
        host, made = self.machine("@example.org")
        client = host.sender(made)
        self.assertTrue(mail(client, "printer@example.org").startswith(b"250 2.0.0 "))
        self.assertIn(b" with ESMTPS\r\n", host.mail_of()[0])
        [detail] = host.store.connection.execute("SELECT detail FROM event WHERE kind = 'accepted'").fetchone()
        self.assertIn('"machine": "printer"', detail)
        self.assertEqual(client.ask(b"MAIL FROM:<>")[:3], b"250")

    def test_as_whom(self) -> None:
        """In the envelope and in the header, as whom it was granted and as nobody else.

        Rule: Mail from a machine by its certificate
        """
        host, made = self.machine("printer@example.org", "@example.net")
        client = host.sender(made)
        self.assertTrue(client.ask(b"MAIL FROM:<alice@example.org>").startswith(b"553 5.7.1 "))
        self.assertTrue(mail(client, "x@example.net", text=b"From: a@example.net\r\n\r\n").startswith(b"250 "))
        forged = mail(client, "printer@example.org", text=b"From: alice@example.org\r\n\r\nx\r\n")
        self.assertTrue(forged.startswith(b"550 5.7.1 From: address not granted"), forged)
        unreadable = mail(client, "printer@example.org", text=b"From: <<>\r\n\r\nx\r\n")
        self.assertTrue(unreadable.startswith(b"550 5.7.1 "), unreadable)
        host, made = self.machine("*")
        self.assertTrue(mail(host.sender(made), "any@example.com").startswith(b"250 "))

    def test_to_the_world(self) -> None:
        """A machine may write to others as users may; a stranger may not."""
        host, made = self.machine("*")
        for client in (host.sender(made), self._user()):
            self.assertTrue(mail(client, ALICE, "x@elsewhere.example").startswith(b"250 "))
        self.assertEqual(host.count("outbound"), 1)
        stranger = host.mx_client()
        stranger.ask(b"MAIL FROM:<a@example.org>")
        self.assertEqual(stranger.ask(b"RCPT TO:<x@elsewhere.example>")[:9], b"550 5.7.1")

    def _user(self) -> Client:
        user = self.asking()
        user.know(laptop := person())
        login = user.sender(laptop)
        login.ask(external())
        return login

    def test_others_must_log_in(self) -> None:
        """Another key, an expired certificate, none, HELO before TLS: 530."""
        host, made = self.machine("*")
        late = expired("printer", alone=True)
        host.store.now(identities.add_relay_client, "late", key_of(late), "", ["*"], 0.0)
        for shown in (person("other"), late, None):
            self.assertEqual(host.sender(shown).ask(b"MAIL FROM:<a@example.org>"), LOGIN_FIRST)
        self.assertEqual(host.sender(made).ask(b"MAIL FROM:<a@example.org>")[:3], b"250")

    def test_removed(self) -> None:
        """The next message of a machine that was removed, or whose key was revoked, is refused; also inside a session.

        Rule: Mail from a machine by its certificate
        """
        host, made = self.machine("*")
        client = host.sender(made)
        self.assertTrue(mail(client, "a@example.org").startswith(b"250 "))
        host.store.now(identities.revoke_key, ALICE, key_of(made), 1.0)
        self.assertEqual(mail(client, "a@example.org"), LOGIN_FIRST)
        host, made = self.machine("*")
        client = host.sender(made)
        self.assertTrue(mail(client, "a@example.org").startswith(b"250 "))
        host.store.now(identities.remove_relay_client, "printer")
        self.assertEqual(mail(client, "a@example.org"), LOGIN_FIRST)

    def test_a_login_counts_more(self) -> None:
        """Who logs in on such a machine is the user, and may send as the user only."""
        host, made = self.machine("*")
        host.know(made)
        client = host.sender(made)
        self.assertTrue(mail(client, "a@example.com").startswith(b"250 "))
        self.assertEqual(client.ask(external()), WELCOME)
        self.assertTrue(mail(client, "a@example.com").startswith(b"553 5.7.1 "))

    def test_the_database_fails(self) -> None:
        """What cannot be looked up now is put off, and not refused for good."""
        host, made = self.machine("*")
        client = host.sender(made)
        host.store.failure = storage_failure()
        self.assertEqual(client.ask(b"MAIL FROM:<a@example.org>")[:3], b"451")
        host.store.failure = None


def received(host: AskingHost) -> str:
    """The TLS clause of the newest message, unfolded."""
    message = message_from_bytes(host.mail_of()[-1], policy=SMTP)
    unfolded = re.sub(r"\r?\n\t", " ", str(message["Received"]).replace("\t", " "))
    return re.sub(r" +", " ", unfolded[unfolded.index("(using") : unfolded.index(" id ")])


class TraceTests(CertificateCase):
    """Received, Authentication-Results, and the columns of the event."""

    def mx(self, made: Made | None) -> AskingHost:
        """A host that has taken one message from a server with this certificate."""
        host = self.asking({"smtp": asking()})
        client = host.sender(made, mx(requires_tls=True))
        self.assertTrue(mail(client, "a@example.net").startswith(b"250 "))
        return host

    def test_verified(self) -> None:
        """Common name and issuer, in one clause; the result is pass; and the event has the same.

        Rule: Received: what was checked of the client's certificate
        """
        made = person("mail.example.net")
        host = self.mx(made)
        clause = received(host)
        self.assertRegex(
            clause,
            r"\A\(using TLSv1\.3 with cipher TLS_AES_256_GCM_SHA384 \(256 bits\), group \S+;"
            r" client certificate: verified, CN=mail\.example\.net, issuer CN=root\)\Z",
        )
        top = host.mail_of()[0].split(b"Received:")[0].decode()
        self.assertEqual(
            top.split("\r\n")[2:-1],
            [
                "Authentication-Results: mail.example.org;",
                "\tx-tls-client=pass",
                '\tpolicy.subject="CN=mail.example.net"',
                '\tpolicy.issuer="CN=root"',
                f"\tpolicy.spki={key_of(made)}",
            ],
        )
        for row in [row for row in host.events() if row[0] in ("secured", "accepted")]:
            self.assertEqual(row[1:], ("verified", "CN=mail.example.net", "CN=root", key_of(made), None))

    def test_failed(self) -> None:
        """What was wrong, with its date, all of it.

        Rule: Received: what was checked of the client's certificate
        """
        made = expired("old", alone=True)
        host = self.mx(made)
        day = made.certificate.not_valid_after_utc.strftime("%Y-%m-%d")
        self.assertIn(f"client certificate: not verified: expired {day}; self-signed)", received(host))
        stored = host.mail_of()[0]
        self.assertIn(f'\tx-tls-client=fail\r\n\treason="expired {day}; self-signed"\r\n'.encode(), stored)
        told = [row for row in host.events() if row[0] == "accepted"]
        self.assertEqual(told[0][1:3], ("failed", "CN=old"))
        self.assertEqual(told[0][5], f'["expired {day}", "self-signed"]')

    def test_none(self) -> None:
        """A client that was asked and had none.

        Rule: Received: what was checked of the client's certificate
        """
        host = self.mx(None)
        self.assertTrue(received(host).endswith("; client certificate: none)"))
        self.assertIn(
            b"Authentication-Results: mail.example.org;\r\n\tx-tls-client=none\r\nReceived:", host.mail_of()[0]
        )
        self.assertEqual([row[1] for row in host.events() if row[0] == "accepted"], ["none"])

    def test_not_asked(self) -> None:
        """A client that was not asked; there is no result then.

        Rule: Received: what was checked of the client's certificate
        """
        host = self.asking({"submission": asking()})
        client = host.sender(person(), mx(requires_tls=True))
        mail(client, "a@example.net")
        self.assertTrue(received(host).endswith("; client certificate: not asked)"))
        self.assertNotIn(b"Authentication-Results", host.mail_of()[0])
        self.assertEqual([row[1] for row in host.events() if row[0] == "accepted"], ["not asked"])

    def test_names_that_would_end_the_comment(self) -> None:
        """Parentheses, quotes, backslashes, line ends, commas and characters beyond ASCII in a subject stay in it.

        Rule: No NUL, CR or LF reaches a header
        """
        for name in ("a) by evil.example (", 'x" y\\', "a\r\nEvil: yes", "a, CN=admin", "ü" * 32, "(" * 64):
            for made in (person(name), person(name, alone=True)):
                host = self.mx(made)
                stored = host.mail_of()[0]
                message = message_from_bytes(stored, policy=SMTP)
                names = ["Return-Path", "Delivered-To", "Authentication-Results", "Received", "Subject"]
                self.assertEqual((message.keys(), message.defects), (names, []), name)
                for line in stored.split(b"\r\n"):
                    self.assertLess(len(line), 998)
                clause = str(message["Received"])
                self.assertEqual(_depth(clause[clause.index("(using") :]), 0, clause)

    def test_on_lmtp_too(self) -> None:
        """A server of ours in front, which hands over by LMTP with a certificate."""
        host = self.asking()
        client = host.sender(person("front"), lmtp(requires_tls=True))
        mail(client, "a@example.net")
        self.assertIn("verified, CN=front, issuer CN=root", received(host))


def _depth(text: str) -> int:
    """How many comments are open at the end; -1 when one was closed that was not open."""
    depth = 0
    for char in re.sub(r"\\.", "", text):
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return -1
    return depth
