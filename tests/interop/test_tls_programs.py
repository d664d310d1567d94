"""TLS with other people's TLS: GnuTLS, Python's ssl, stunnel on either side.  OpenSSL is in `test_openssl`."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from tests.interop.client_certificate import asking, probe, shown
from tests.interop.mail import message
from tests.interop.programs import Done, InteropCase, program, run
from tests.interop.stunnel import Stunnel
from tests.peer import Peer
from tests.pki import HOSTNAME
from tests.running import LISTENERS, after_trace

STARTTLS = {"smtp": "smtp", "submission": "smtp", "pop3": "pop3"}


class GnuTLS(InteropCase):
    def gnutls(self, listener: str, *options: str, name: str = HOSTNAME) -> Done:
        """Connect, handshake, say QUIT."""
        starttls = [f"--starttls-proto={STARTTLS[listener]}"] if listener in STARTTLS else []
        return run(
            [
                *(program("gnutls-cli"), *starttls, f"--port={self.port(listener)}", f"--x509cafile={self.service.ca}"),
                *(f"--verify-hostname={name}", f"--sni-hostname={name}", *options, "127.0.0.1"),
            ],
            home=self.home,
            stdin=b"QUIT\r\n",
        )

    def test_every_listener_is_trusted(self) -> None:
        """STARTTLS, STLS and TLS from the first octet; QUIT is answered inside, and the end is a proper one."""
        for listener in LISTENERS:
            done = self.succeeds(self.gnutls(listener))
            self.assertIn("Status: The certificate is trusted.", done.text, listener)
            self.assertIn("221 2.0.0 " if listener.startswith("s") else "+OK bye", done.text)
            self.assertIn("Peer has closed the GnuTLS connection", done.text)

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 work, and nothing older (RFC 8996)."""
        for version, works in (("1.3", True), ("1.2", True), ("1.1", False)):
            priority = f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
            done = self.gnutls("submissions", priority)
            self.assertEqual("Handshake was completed" in done.text, works, done.text)

    def test_resumption(self) -> None:
        """A second connection resumes the session of the first."""
        done = self.gnutls("submissions", "--resume", "--waitresumption")
        self.assertIn("This is a resumed session", done.text)

    def test_a_wrong_name_is_noticed(self) -> None:
        """The tests above would notice a certificate that fits anything."""
        self.assertNotEqual(self.gnutls("pop3s", name="mail.example.com").status, 0)


class PythonSSL(InteropCase):
    def test_every_listener(self) -> None:
        """With its defaults, which check chain and name; the end comes by close_notify."""
        for listener in LISTENERS:
            with Peer(self.port(listener), self.service.ca, tls=listener not in STARTTLS) as peer:
                peer.line()
                if listener in STARTTLS:
                    peer.send(b"STLS\r\n" if listener == "pop3" else b"STARTTLS\r\n")
                    peer.line()
                    peer.start_tls()
                peer.send(b"QUIT\r\n")
                self.assertIn(peer.line()[:4], (b"221 ", b"+OK "))
                self.assertTrue(peer.at_end())

    def test_another_ca_is_noticed(self) -> None:
        """So the test above has checked something."""
        with self.assertRaises(ssl.SSLCertVerificationError):
            Peer(self.port("submissions"), self.other_ca(), tls=True)


class BehindStunnel(InteropCase):
    """Programs without TLS of their own come through stunnel, which verifies us."""

    def stunnel(self, name: str, listener: str) -> dict[str, str]:
        """A section of its configuration: clear text on a UNIX socket, TLS to a listener."""
        return {
            "client": "yes",
            "accept": str(self.home / name),
            "connect": f"127.0.0.1:{self.port(listener)}",
            "CAfile": self.service.ca,
            "verifyChain": "yes",
            "checkHost": HOSTNAME,
            **({"protocol": STARTTLS[listener]} if listener in STARTTLS else {}),
        }

    def test_swaks_sends_and_curl_fetches(self) -> None:
        """By STARTTLS and STLS, which stunnel says itself, and with TLS from the first octet."""
        user = self.user
        services = {
            "out": self.stunnel("out", "submission"),
            "outs": self.stunnel("outs", "submissions"),
            "in": self.stunnel("in", "pop3"),
            "ins": self.stunnel("ins", "pop3s"),
        }
        sent = [message(number, user.address) for number in (1, 2)]
        with Stunnel(self.home, services):
            for mail, name in zip(sent, ("out", "outs"), strict=True):
                data = self.write(f"{name}.eml", mail.removesuffix(b"\r\n"))
                self.succeeds(
                    run(
                        [
                            *(program("swaks"), "--socket", str(self.home / name), "--helo", "client.example.org"),
                            *("--from", user.address, "--to", user.address, "--data", f"@{data}"),
                            *("--auth", "PLAIN", "--auth-user", user.address, "--auth-password", user.password),
                        ],
                        home=self.home,
                    )
                )
            for name in ("in", "ins"):
                fetched = [self.curl(self.home / name, number) for number in (1, 2)]
                self.assertEqual([after_trace(each) for each in fetched], sent, name)

    def curl(self, socket: Path, number: int) -> bytes:
        """One message."""
        config = self.write(f"{socket.name}.curl", f'user = "{self.user.address}:{self.user.password}"\n')
        place = f"pop3://localhost/{number}"
        done = run(
            [program("curl"), "-sS", "--config", str(config), "--unix-socket", str(socket), place], home=self.home
        )
        return self.succeeds(done).output


class BeforeStunnel(InteropCase):
    """Our own client comes to a stunnel that demands a certificate; behind it is a listener of ours in clear."""

    options = ("--tls=optional",)

    def test_probe_shows_its_certificate(self) -> None:
        """With it there is a session; without it stunnel refuses, and the probe says so."""
        certs = self.service.certs
        files = shown(self.home)
        place = certs.folder / certs.hostname
        section = {
            "accept": "127.0.0.1:0",
            "connect": f"127.0.0.1:{self.port('smtp')}",
            "cert": str(place / "fullchain.pem"),
            "key": str(place / "privkey.pem"),
            "CAfile": self.service.ca,
            "verifyChain": "yes",
            "requireCert": "yes",
            "protocol": "smtp",
        }
        with Stunnel(self.home, {"in": section}) as stunnel:
            there = (stunnel.ports["in"], self.service.ca, "--starttls", "smtp")
            done = probe(self.home, *there, "--cert", str(files.certificate), "--key", str(files.key))
            self.assertEqual(done.status, 0, done.text)
            without = probe(self.home, *there)
        self.assertEqual(without.status, 5, without.text)


class ClientCertificates(InteropCase):
    """Certificates that clients show where our MX listener asks for them."""

    def setUp(self) -> None:
        self.options = asking()
        super().setUp()

    def shown_by(self, arguments: Sequence[str]) -> str:
        """What a program said that connects and says QUIT."""
        return run(list(arguments), home=self.home, stdin=b"QUIT\r\n").text

    def test_gnutls_and_openssl_show_theirs(self) -> None:
        """Both are asked for it, with the name of the CA."""
        files = shown(self.home)
        port = self.port("smtp")
        gnutls = (
            *(program("gnutls-cli"), "--starttls-proto=smtp", f"--port={port}", f"--x509cafile={self.service.ca}"),
            *(f"--x509certfile={files.certificate}", f"--x509keyfile={files.key}"),
            *(f"--verify-hostname={HOSTNAME}", "127.0.0.1"),
        )
        self.assertIn("221 2.0.0 ", self.shown_by(gnutls))
        openssl = (
            *(program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-starttls", "smtp", "-ign_eof"),
            *("-cert", str(files.certificate), "-key", str(files.key), "-CAfile", self.service.ca),
        )
        said = self.shown_by(openssl)
        self.assertIn("Acceptable client certificate CA names\nCN = mailsvc test CA", said)
        self.assertIn("221 2.0.0 ", said)
