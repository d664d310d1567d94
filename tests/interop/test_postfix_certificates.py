"""Client certificates between Postfix and us, in both directions."""

from __future__ import annotations

from tests.interop.client_certificate import Shown, asking, probe, shown
from tests.interop.clients import poplib_fetches
from tests.interop.forwarder import Forwarder
from tests.interop.mail import message
from tests.interop.postfix import Postfix
from tests.interop.programs import InteropCase


class FromPostfix(InteropCase):
    """Postfix brings mail to our MX listener, which asks for a certificate."""

    def setUp(self) -> None:
        self.options = asking()
        super().setUp()

    def brought(self, number: int, settings: str = "") -> tuple[str, str]:
        """A message that Postfix brings: what became of it there, and how it begins here, in one line."""
        folder = self.home / f"postfix{number}"
        folder.mkdir()
        transports = {"example.org": f"smtp:[localhost]:{self.port('smtp')}"}
        postfix = Postfix(folder, self.service.ca, transports, settings)
        self.addCleanup(postfix.stop)
        postfix.start()
        with postfix.submit() as session:
            session.sendmail(self.user.address, [self.user.address], message(number, self.user.address))
        status, said = postfix.results(1)[self.user.address]
        if status != "sent":
            return said, ""
        return status, " ".join(poplib_fetches(self)[-1].decode("ascii", "replace")[:2000].split())

    def test_its_certificate_is_told_and_remembered(self) -> None:
        """Without one its mail is taken; with one the trace tells whose; and then it does not come without any more."""
        self.home.chmod(0o755)
        files = shown(self.home)
        settings = f"smtp_tls_cert_file = {files.certificate}\nsmtp_tls_key_file = {files.key}"
        status, trace = self.brought(1)
        self.assertEqual(status, "sent")
        self.assertIn("; client certificate: none)", trace)
        status, trace = self.brought(2, settings)
        self.assertEqual(status, "sent")
        self.assertIn("; client certificate: verified, CN=relay.example.net, issuer CN=mailsvc test CA)", trace)
        said, _ = self.brought(3)
        self.assertIn("451 4.7.5 ", said)


class ToPostfix(InteropCase):
    """Our client comes to a Postfix that asks (smtpd_tls_ask_ccert) or demands (smtpd_tls_req_ccert)."""

    def postfix(self, demand: str) -> Postfix:
        """One with the certificate of the service beside it."""
        folder = self.service.certs.folder / self.service.certs.hostname
        settings = (
            f"smtpd_tls_cert_file = {folder}/fullchain.pem\nsmtpd_tls_key_file = {folder}/privkey.pem\n"
            f"smtpd_tls_CAfile = {self.service.ca}\nsmtpd_tls_loglevel = 1\n{demand}"
        )
        postfix = Postfix(self.home, self.service.ca, {"example.org": "error:no mail here"}, settings)
        self.addCleanup(postfix.stop)
        postfix.start()
        return postfix

    def probed(self, postfix: Postfix, files: Shown | None) -> int:
        """The exit status of a probe, with or without a certificate."""
        extra = () if files is None else ("--cert", str(files.certificate), "--key", str(files.key))
        with Forwarder(postfix.socket) as forwarder:
            done = probe(self.home, forwarder.port, self.service.ca, "--starttls", "smtp", *extra)
        self.said = done.text
        return done.status

    def test_it_verifies_ours(self) -> None:
        """Trusted with a certificate, anonymous without; both get through where it only asks."""
        postfix = self.postfix("smtpd_tls_security_level = may\nsmtpd_tls_ask_ccert = yes")
        files = shown(self.home)
        self.assertEqual(self.probed(postfix, files), 0, self.said)
        self.assertEqual(self.probed(postfix, None), 0, self.said)
        postfix.stop()
        log = "\n".join(postfix.everything())
        self.assertIn("Trusted TLS connection established from", log)
        self.assertIn("Anonymous TLS connection established from", log)

    def test_it_demands_one(self) -> None:
        """Only with a certificate is there a session."""
        postfix = self.postfix("smtpd_tls_security_level = encrypt\nsmtpd_tls_req_ccert = yes")
        self.assertEqual(self.probed(postfix, shown(self.home)), 0, self.said)
        self.assertNotEqual(self.probed(postfix, None), 0, self.said)
