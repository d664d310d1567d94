"""Client certificates of other people's programs against the whole service: openssl, curl, msmtp; and its commands."""

from __future__ import annotations

import json
import os
import poplib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued
from mailsvc.certkit.keys import encode_key
from mailsvc.certkit.revocation import list_pem, new_list
from mailsvc.tls.recheck import Purpose
from tests.bad_certificates import Made, now, root
from tests.client_certificates import expired, key_of, person
from tests.interop.programs import Done, program, run
from tests.running import PASSWORD, RunningService, python_environment

ALICE = "alice@example.org"
LIMIT = 180.0
MESSAGE = b"From: alice@example.org\nSubject: by certificate\n\nhello\n"


class ClientCertificates(SynchronousTestCase):
    """A service that asks on submission and POP3, and requires on submissions."""

    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mailsvc-identity-"))
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.ca = self.home / "clients.pem"
        self.ca.write_bytes(root().certificate.public_bytes(Encoding.PEM))
        self.crl = self.home / "clients.crl"
        self.revoke_by_ca()
        self.config = self.home / "mailsvc.toml"
        ask = f'mode = "ask"\nroots = "{self.ca}"\ncrls = "{self.crl}"\n'
        self.config.write_text(
            f'[accounts]\ncertificate_cas = "{self.ca}"\n[certificates]\nlook_seconds = 3600\n'
            f"[client_certificates.submission]\n{ask}[client_certificates.pop3]\n{ask}"
            f"[client_certificates.submissions]\n{ask.replace('ask', 'require')}"
        )
        self.service = RunningService(self.home, options=(f"--config={self.config}",)).start()
        self.addCleanup(self.service.kill)
        self.service.add_users(ALICE)

    def tearDown(self) -> None:
        self.assertEqual(self.service.alarms(), [])

    def revoke_by_ca(self, *made: Made) -> None:
        """The CA's next list."""
        ca = Issued(root().certificate, root().key)
        serials = [each.certificate.serial_number for each in made]
        fresh = self.home / "fresh.crl"
        fresh.write_bytes(list_pem(new_list(ca, None, serials, "key-compromise", now())))
        fresh.rename(self.crl)

    def reload(self) -> None:
        """Let the service read the list that has just changed."""
        os.kill(self.service.pid, signal.SIGHUP)
        ended = threading.Event()
        timer = threading.Timer(LIMIT, ended.set)
        timer.start()
        while not any("have changed, and are in use" in line for line in self.service.log):
            self.assertFalse(ended.is_set(), self.service.log_tail())
            threading.Event().wait(0.05)
        timer.cancel()

    def files(self, made: Made, name: str) -> tuple[str, str]:
        """Certificate and key as files."""
        cert, key = self.home / f"{name}.pem", self.home / f"{name}.key"
        cert.write_bytes(made.certificate.public_bytes(Encoding.PEM))
        key.touch(0o600)
        key.write_bytes(encode_key(made.key))
        return str(cert), str(key)

    def mailsvc(self, *arguments: str) -> str:
        """The command, on the database of the running service."""
        command = [sys.executable, "-m", "mailsvc", f"--database={self.service.database}", *arguments]
        done = subprocess.run(
            command, env=python_environment(), cwd=self.home, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def s_client(self, listener: str, lines: str, *options: str) -> str:
        """A dialogue of openssl s_client, which sends all its lines at once."""
        starttls = ("-starttls", "smtp") if listener == "submission" else ()
        done = run(
            [
                *(program("openssl"), "s_client", "-quiet", "-crlf", "-verify_quiet", "-CAfile", self.service.ca),
                *("-connect", f"127.0.0.1:{self.service.ports[listener]}", *starttls, *options),
            ],
            home=self.home,
            stdin=lines.encode(),
        )
        return done.text

    def msmtp(self, listener: str, auth: str, cert: str, key: str, sender: str = ALICE) -> Done:
        rc = self.home / "msmtprc"
        rc.touch(0o600)
        rc.write_text(
            f"account default\nhost localhost\nport {self.service.ports[listener]}\ntls on\n"
            f"tls_starttls {'off' if listener == 'submissions' else 'on'}\ntls_trust_file {self.service.ca}\n"
            f"tls_cert_file {cert}\ntls_key_file {key}\nauth {auth}\n"
            f"user {ALICE}\nfrom {sender}\ndomain client.example\n"
        )
        return run([program("msmtp"), "-C", str(rc), "--timeout=120", ALICE], home=self.home, stdin=MESSAGE)

    def fetched(self, *arguments: str) -> Done:
        """What curl gets of the newest message by POP3."""
        port = self.service.ports["pop3"]
        return run(
            [
                *(program("curl"), "--silent", "--show-error", "--ssl-reqd", "--cacert", self.service.ca),
                *(*arguments, f"pop3://localhost:{port}/1"),
            ],
            home=self.home,
        )

    def test_openssl(self) -> None:
        """EXTERNAL by a known key; without a certificate a listener that requires one gives no session.

        Rule: EXTERNAL
        """
        laptop = person("laptop")
        cert, key = self.files(laptop, "laptop")
        self.mailsvc("user", "certificate", "add", ALICE, "--certificate", cert, "--label", "laptop")
        dialogue = f"ehlo client.example\nauth external =\nmail from:<{ALICE}>\nquit\n"
        for version in ("-tls1_2", "-tls1_3"):
            said = self.s_client("submission", dialogue, "-cert", cert, "-key", key, version)
            self.assertIn("235 2.7.0 ", said)
            self.assertIn("250 2.1.0 ", said)
        self.assertIn("504 5.5.4 ", self.s_client("submission", dialogue))
        self.assertNotIn("250", self.s_client("submissions", dialogue, "-tls1_3"))
        other, its_key = self.files(person("stranger", alone=True), "stranger")
        self.assertNotIn("250", self.s_client("submissions", dialogue, "-cert", other, "-key", its_key))

    def test_alerts(self) -> None:
        """A certificate that is refused where one is required gets the alert that says why (RFC 8446 section 6.2).

        Rule: TLS server: the alert says why a client's certificate is refused
        """
        gone = person("gone")
        self.revoke_by_ca(gone)
        self.reload()
        cases = (
            (expired("old"), "old", 45),  # certificate_expired
            (gone, "gone", 44),  # certificate_revoked
            (person("stranger", alone=True), "stranger", 48),  # unknown_ca
            (person("server", usage=Purpose.SERVER.value), "server", 43),  # unsupported_certificate
        )
        for made, name, number in cases:
            cert, key = self.files(made, name)
            for version in ("-tls1_2", "-tls1_3"):
                said = self.s_client("submissions", "", "-cert", cert, "-key", key, version)
                self.assertIn(f"SSL alert number {number}", said, (name, version))
        self.assertIn("SSL alert number 116", self.s_client("submissions", "", "-tls1_3"))  # certificate_required

    def test_msmtp_and_curl(self) -> None:
        """A verified address logs in by a CA that may vouch: sent with msmtp, fetched with curl; then it is revoked.

        Rule: EXTERNAL by a verified address
        Rule: EXTERNAL: revoked in the table
        """
        made = person("Alice", ALICE)
        cert, key = self.files(made, "alice")
        for listener in ("submission", "submissions"):
            done = self.msmtp(listener, "external", cert, key)
            self.assertEqual(done.status, 0, done.text)
        shown = ("--cert", cert, "--key", key, "--login-options", "AUTH=EXTERNAL", "--user", f"{ALICE}:")
        got = self.fetched(*shown)
        self.assertEqual(got.status, 0, got.text)
        self.assertIn(b"client certificate: verified, CN=Alice, issuer CN=root)", got.output.replace(b"\r\n\t", b" "))
        self.assertIn(b"Authentication-Results: mail.example.org;\r\n\tx-tls-client=pass\r\n", got.output)
        self.assertIn("certificate " + key_of(made), self.mailsvc("mailbox", "devices", ALICE, "--json"))
        self.assertIn("verified, CN=Alice, issuer CN=root", self.mailsvc("why", ALICE))
        self.mailsvc("user", "certificate", "revoke", ALICE, "--certificate", cert)
        self.assertNotEqual(self.msmtp("submission", "external", cert, key).status, 0)
        self.assertNotEqual(self.fetched(*shown).status, 0)

    def test_curl_sends(self) -> None:
        """curl by SMTP, with EXTERNAL."""
        cert, key = self.files(person("Alice", ALICE), "alice")
        mail = self.home / "mail.eml"
        mail.write_bytes(MESSAGE.replace(b"\n", b"\r\n"))
        done = run(
            [
                *(program("curl"), "--silent", "--show-error", "--ssl-reqd", "--cacert", self.service.ca),
                *("--cert", cert, "--key", key, "--login-options", "AUTH=EXTERNAL", "--user", f"{ALICE}:"),
                *("--mail-from", ALICE, "--mail-rcpt", ALICE, "--upload-file", str(mail)),
                f"smtp://localhost:{self.service.ports['submission']}",
            ],
            home=self.home,
        )
        self.assertEqual(done.status, 0, done.text)

    def test_a_relay_client(self) -> None:
        """A machine sends with msmtp and no login, as whom it was granted; then it is removed.

        Rule: Mail from a machine by its certificate
        """
        cert, key = self.files(person("printer"), "printer")
        self.mailsvc("relay-client", "add", "printer", "--certificate", cert, "--sender", ALICE)
        done = self.msmtp("submission", "off", cert, key)
        self.assertEqual(done.status, 0, done.text)
        self.assertNotEqual(self.msmtp("submission", "off", cert, key, "bob@example.org").status, 0)
        self.assertIn("as the relay client printer", self.mailsvc("why", ALICE))
        [facts] = json.loads(self.mailsvc("relay-client", "list", "--json"))
        self.assertIsNotNone(facts["last_used"])
        self.mailsvc("relay-client", "remove", "printer")
        self.assertNotEqual(self.msmtp("submission", "off", cert, key).status, 0)

    def test_a_revocation_list_at_sighup(self) -> None:
        """What the CA takes back is refused after SIGHUP, and other certificates go on.

        Rule: Revocation lists and roots are read again
        """
        gone, stays = self.files(stolen := person("Alice", ALICE), "gone"), self.files(person("A", ALICE), "stays")
        self.assertEqual(self.msmtp("submissions", "external", *gone).status, 0)
        self.revoke_by_ca(stolen)
        self.reload()
        self.assertNotEqual(self.msmtp("submissions", "external", *gone).status, 0)
        self.assertEqual(self.msmtp("submissions", "external", *stays).status, 0)
        self.assertTrue(any("was revoked by its CA" in line for line in self.service.log), self.service.log_tail())

    def test_a_login_that_is_taken_back(self) -> None:
        """A session that is open ends at its next command when another process has disabled the account.

        Rule: POP3: a session ends when its login is taken back
        """
        client = poplib.POP3("localhost", self.service.ports["pop3"], timeout=LIMIT)
        self.addCleanup(client.close)
        client.stls(ssl.create_default_context(cafile=str(self.service.ca)))
        client.user(ALICE)
        client.pass_(PASSWORD)
        self.mailsvc("user", "set", ALICE, "--disabled", "on")
        with self.assertRaises(poplib.error_proto) as caught:
            for _ in range(1000):  # the tables are looked at once a second
                client.noop()
                threading.Event().wait(0.02)
        self.assertIn("[SYS/PERM]", str(caught.exception))

    def test_passwords_work_beside_it(self) -> None:
        """Where certificates are asked for and not required, a password does as before."""
        done = self.fetched("--user", f"{ALICE}:{PASSWORD}")
        self.assertIn(done.status, (0, 56, 8), done.text)  # there is no message 1
        self.assertNotIn("denied", done.text)
