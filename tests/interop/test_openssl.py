"""`openssl s_client` as the judge of the certificate: chain, name, versions, on every listener."""

from __future__ import annotations

from tests.interop.programs import Done, InteropCase, program, run
from tests.pki import HOSTNAME

STARTTLS = {"smtp": "smtp", "submission": "smtp", "submissions": "", "pop3": "pop3", "pop3s": ""}
QUIT = b"QUIT\n"


class TheCertificate(InteropCase):
    def s_client(self, listener: str, *options: str, name: str = HOSTNAME) -> Done:
        """Connect, handshake, say QUIT.  -ign_eof: it is the server that ends the connection."""
        starttls = ["-starttls", STARTTLS[listener]] if STARTTLS[listener] else []
        asked = [] if "-noservername" in options else ["-servername", name]
        return run(
            [
                *(program("openssl"), "s_client", "-connect", f"127.0.0.1:{self.port(listener)}", *starttls),
                *("-CAfile", self.service.ca, "-verify_hostname", name, *asked),
                *("-showcerts", "-ign_eof", "-crlf", *options),
            ],
            home=self.home,
            stdin=QUIT,
        )

    def test_every_listener_shows_a_chain_that_verifies(self) -> None:
        """Verify return code 0 for our name and our CA; leaf and CA are shown; QUIT is answered inside TLS."""
        for listener in STARTTLS:
            done = self.succeeds(self.s_client(listener))
            self.assertIn("Verify return code: 0 (ok)", done.text, listener)
            self.assertEqual(done.text.count("BEGIN CERTIFICATE"), 2, done.text)
            self.assertIn("221 2.0.0 " if listener.startswith("s") else "+OK bye", done.text)

    def test_every_name_in_the_certificate_is_accepted(self) -> None:
        """Also when no name or another name is asked for by SNI."""
        for name in (HOSTNAME, "localhost"):
            self.assertIn("Verify return code: 0 (ok)", self.s_client("submissions", name=name).text)
        other = self.s_client("pop3s", "-noservername")
        self.assertIn("Verify return code: 0 (ok)", other.text)

    def test_a_wrong_name_is_noticed(self) -> None:
        """The test above would notice a certificate that fits anything."""
        done = self.s_client("submission", name="mail.example.com")
        self.assertIn("Verify return code: 62 (hostname mismatch)", done.text)

    def test_tls_1_2_and_1_3_are_spoken_and_nothing_older(self) -> None:
        """RFC 8996."""
        for listener in STARTTLS:
            for option, version in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
                self.assertIn(f"New, {version}, Cipher is", self.s_client(listener, option).text)
        for option in ("-tls1", "-tls1_1"):
            done = self.s_client("submissions", option, "-cipher", "ALL:@SECLEVEL=0")
            self.assertIn("Cipher is (NONE)", done.text)

    def test_the_connection_ends_with_close_notify(self) -> None:
        """An end that an attacker on the line cannot fake (RFC 8446 section 6.1)."""
        for listener in STARTTLS:
            done = self.s_client(listener, "-msg")
            self.assertRegex(done.text, r"<<< TLS 1\.[23], Alert \[length 0002\], warning close_notify")
            self.assertNotIn("unexpected eof", done.text)
