"""`mailsvc certs issue|request|import|revoke|...` as people and scripts meet it, checked by the `openssl` program."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

import mailsvc
from mailsvc.certkit.build import Issued
from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import read_chain
from mailsvc.certkit.keys import is_encrypted, load_key
from mailsvc.storage.certificates import certificate
from mailsvc.storage.database import offline
from tests.pki import HOSTNAME, openssl
from tests.test_cli_certs import CommandCase
from tests.test_tls_ocsp import response


def at_terminal(arguments: Sequence[str], answers: Sequence[str]) -> tuple[int, str]:
    """`mailsvc` with a terminal of its own, where a person types an answer to each question; exit status, screen."""
    root = str(Path(mailsvc.__file__).resolve().parent.parent)
    child, terminal = pty.fork()
    if child == 0:
        signal.alarm(60)  # outlives the exec: nothing here may wait for ever
        environ = {**os.environ, "PYTHONPATH": root}
        os.execve(sys.executable, [sys.executable, "-m", "mailsvc.cli.main", *arguments], environ)
    waiting, screen = list(answers), b""
    asked = 0
    with open(terminal, "rb", buffering=0) as shown:
        try:
            while piece := shown.read(4096):
                screen += piece
                # a question ends without a line end; getpass has turned the echo off before it shows
                if screen.endswith(b": ") and screen.count(b": ") > asked and waiting:
                    asked = screen.count(b": ")
                    os.write(terminal, waiting.pop(0).encode() + b"\n")
        except OSError as error:  # EIO: the other end is closed
            if error.errno != errno.EIO:
                raise
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), screen.decode()


class MakeCase(CommandCase):
    """A folder with a private CA."""

    def setUp(self) -> None:
        super().setUp()
        self.succeed("init", self.certs, "--hostname", HOSTNAME)
        self.ca = self.certs / "ca" / "ca.pem"

    def key_of(self, folder: Path) -> str:
        return openssl("pkey", "-in", folder / "privkey.pem", "-pubout")

    def secret(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text + "\n")
        path.chmod(0o600)
        return path

    def modes(self, folder: Path) -> dict[str, int]:
        return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


class InitTests(CommandCase):
    """What `init` can do beyond its first form."""

    def test_a_limited_ca(self) -> None:
        """--permit gives name constraints, and a name outside them is refused before anything is written."""
        self.assertIn(
            "may not speak for", self.fail_with(1, "init", self.certs, "--hostname", "a.b", "--permit", "x.org")
        )
        self.assertFalse(self.certs.exists())
        self.succeed("init", self.certs, "--hostname", HOSTNAME, "--permit", "example.org")
        text = openssl("x509", "-noout", "-text", "-in", self.certs / "ca" / "ca.pem")
        self.assertIn("X509v3 Name Constraints: critical", text)
        self.assertIn("DNS:example.org", text)
        err = self.fail_with(1, "issue", self.certs, "--hostname", "mail.example.com")
        self.assertIn("may not speak for mail.example.com: it is limited to example.org", err)
        self.assertFalse((self.certs / "mail.example.com").exists())
        err = self.fail_with(1, "init", self.certs, "--hostname", "b.example.org", "--permit", "example.org")
        self.assertIn("what it may speak for cannot be changed", err)

    def test_the_place_of_the_revocation_list(self) -> None:
        """--crl-url is kept with the CA: all that it signs, now, later and once more, names it (RFC 5280 section
        4.2.1.13), and openssl and `certs show` tell it. The CA's own certificate does not."""
        url = "http://ca.example.org/mail.crl"
        out = self.succeed("init", self.certs, "--hostname", HOSTNAME, "--crl-url", url)
        self.assertIn(f"name {url} as the place of its revocation list", out)
        self.succeed("issue", self.certs, "--hostname", "b.example.org")
        self.succeed("issue", self.certs, "--renew", HOSTNAME)
        self.succeed("issue", self.certs, "--client", "alice", "--email", "alice@example.org")
        self.succeed("issue", self.certs, "--renew", "alice")
        self.succeed("init", self.certs, "--hostname", "c.example.org")
        self.succeed("init", self.certs, "--hostname", "d.example.org", "--crl-url", url)
        key, request, answer = (self.folder / name for name in ("key", "csr", "answer.pem"))
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key)
        names = ("-subj", "/CN=e", "-addext", "subjectAltName=DNS:e.example.org")
        openssl("req", "-new", *new_key, *names, "-out", request)
        self.succeed("issue", self.certs, "--request", request, "--out", answer)
        made = [self.certs / f"{name}.example.org" for name in ("mail", "b", "c", "d")]
        for path in (*(each / "fullchain.pem" for each in (*made, self.certs / "ca/clients/alice")), answer):
            text = openssl("x509", "-noout", "-text", "-in", path)
            self.assertIn("X509v3 CRL Distribution Points:", text, path)
            self.assertIn(f"URI:{url}", text, path)
            first = self.succeed("show", path).split("certificate 2 of 2")[0]
            self.assertIn(f"list at       {url}", first)
        self.assertNotIn("CRL Distribution", openssl("x509", "-noout", "-text", "-in", self.certs / "ca/ca.pem"))
        ca = self.certs / "ca/ca.pem"
        self.assertIn("OK", openssl("verify", "-x509_strict", "-CAfile", ca, made[0] / "fullchain.pem"))
        self.assertEqual(json.loads(self.succeed("show", answer, "--json"))[0]["crl_urls"], [url])

    def test_the_place_of_the_list_is_not_changed_by_the_way(self) -> None:
        """A CA that is there keeps what it has, and the sentence says where that can be changed; a file that people
        have spoilt keeps it from signing."""
        self.succeed("init", self.certs, "--hostname", HOSTNAME)
        again = ("init", self.certs, "--hostname", HOSTNAME, "--crl-url", "http://a.example/crl")
        err = self.fail_with(1, *again)
        self.assertIn("the place of its revocation list none; to change that", err)
        file = self.certs / "ca" / "crl.url"
        self.assertIn(str(file), err)
        file.write_text("http://a.example/crl\n")
        self.assertIn("Nothing to do", self.succeed(*again))
        self.assertIn("list http://a.example/crl;", self.fail_with(1, *again[:-1], "http://b.example/crl"))
        self.succeed("issue", self.certs, "--renew", HOSTNAME)
        text = openssl("x509", "-noout", "-text", "-in", self.certs / HOSTNAME / "fullchain.pem")
        self.assertIn("URI:http://a.example/crl", text)
        file.write_text("ftp://a.example/crl\n")
        err = self.fail_with(1, "issue", self.certs, "--hostname", "b.example.org")
        self.assertIn(f"{file}: 'ftp://a.example/crl' cannot be the place of a revocation list", err)

    def test_a_wrong_place_of_the_list(self) -> None:
        """A sentence, and nothing is written."""
        err = self.fail_with(1, "init", self.certs, "--hostname", HOSTNAME, "--crl-url", "ca.example.org/crl")
        self.assertIn("it must begin with http://, https://, ldap://", err)
        self.assertFalse(self.certs.exists())

    def test_kinds_of_keys(self) -> None:
        """--key is that of the CA and of the server."""
        self.succeed("init", self.certs, "--hostname", HOSTNAME, "--key", "rsa-2048")
        for path in (self.certs / "ca" / "ca.pem", self.certs / HOSTNAME / "fullchain.pem"):
            self.assertIn("(2048 bit)", openssl("x509", "-noout", "-text", "-in", path))

    def test_the_passphrase_may_come_from_the_environment_or_systemd(self) -> None:
        """A file that MAILSVC_CA_PASSPHRASE_FILE names, or the credential ca-passphrase; then also for `issue`."""
        (self.folder / "ca-passphrase").write_text("secret\n")
        for variable, value in (("MAILSVC_CA_PASSPHRASE_FILE", "ca-passphrase"), ("CREDENTIALS_DIRECTORY", "")):
            certs = self.folder / variable
            self.patch(os, "environ", {**os.environ, variable: str(self.folder / value)})
            self.assertIn("is encrypted", self.succeed("init", certs, "--hostname", HOSTNAME))
            self.succeed("issue", certs, "--hostname", "b.example.org")
            self.patch(os, "environ", {each: os.environ[each] for each in os.environ if each != variable})
            self.assertIn("--passphrase-file", self.fail_with(1, "issue", certs, "--hostname", "c.example.org"))

    def test_at_a_terminal_it_is_asked_for(self) -> None:
        """Twice when it is new, once when a key is opened; what is typed is not shown."""
        certs = ("certs", "init", str(self.certs), "--hostname", HOSTNAME)
        status, screen = at_terminal([*certs, "--ask-passphrase"], ["secret", "secret"])
        self.assertEqual(status, 0, screen)
        self.assertIn("The private CA's key is encrypted", screen)
        self.assertNotIn("secret", screen)
        status, screen = at_terminal(["certs", "issue", str(self.certs), "--hostname", "b.example.org"], ["secret"])
        self.assertEqual(status, 0, screen)
        secret = self.folder / "pass"
        secret.write_text("secret\n")
        openssl("pkey", "-in", self.certs / "ca" / "ca.key", "-passin", f"file:{secret}", "-noout")

    def test_not_two_answers(self) -> None:
        """--ask-passphrase excludes a file."""
        both = ("--ask-passphrase", "--passphrase-file", "x")
        self.assertIn("exclude", self.fail_with(2, "init", self.certs, "--hostname", HOSTNAME, *both))


class IssueTests(MakeCase):
    """`certs issue`."""

    def test_a_server(self) -> None:
        """Key and chain fit, openssl verifies them for that name and purpose; the CA has its record."""
        out = self.succeed(
            "issue", self.certs, "--hostname", "pop.example.net", "--hostname", "10.0.0.1", "--days", "90"
        )
        folder = self.certs / "pop.example.net"
        self.assertEqual(self.modes(folder), {"privkey.pem": 0o600, "fullchain.pem": 0o644})
        chain = folder / "fullchain.pem"
        check = ("verify", "-x509_strict", "-CAfile", self.ca, "-purpose", "sslserver")
        self.assertIn("OK", openssl(*check, "-verify_hostname", "pop.example.net", chain))
        self.assertIn("OK", openssl(*check, "-verify_ip", "10.0.0.1", chain))
        self.assertRaises(AssertionError, openssl, *check, "-verify_hostname", "other.example.net", chain)
        text = openssl("x509", "-noout", "-text", "-in", chain)
        for fact in (
            "CA:FALSE",
            "X509v3 Key Usage: critical",
            "Digital Signature",
            "TLS Web Server Authentication",
            "X509v3 Subject Key Identifier",
            "X509v3 Authority Key Identifier",
            "DNS:pop.example.net, IP Address:10.0.0.1",
        ):
            self.assertIn(fact, text)
        self.assertEqual(self.key_of(folder), openssl("x509", "-noout", "-pubkey", "-in", chain))
        self.assertIn("until", self.succeed("verify", self.certs, "--hostname", "pop.example.net"))
        serial = openssl("x509", "-noout", "-serial", "-in", chain).strip().partition("=")[2].lstrip("0").lower()
        self.assertTrue((self.certs / "ca" / "issued" / f"{serial}.pem").exists())
        self.assertIn("valid until", out)

    def test_a_client(self) -> None:
        """Its names are mail addresses; it cannot serve; as PKCS#12 openssl opens it."""
        out = json.loads(
            self.succeed("issue", self.certs, "--client", "alice", "--email", "Alice@Example.org", "--json")
        )
        folder = self.certs / "ca" / "clients" / "alice"
        self.assertEqual((out["folder"], out["names"]), (str(folder), ["Alice@example.org"]))
        chain = folder / "fullchain.pem"
        self.assertIn("OK", openssl("verify", "-x509_strict", "-CAfile", self.ca, "-purpose", "sslclient", chain))
        self.assertRaises(AssertionError, openssl, "verify", "-CAfile", self.ca, "-purpose", "sslserver", chain)
        secret, file = self.secret("pass", "secret"), self.folder / "alice.p12"
        self.succeed("export", folder, file, "--out-passphrase-file", secret)
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        said = openssl("pkcs12", "-in", file, "-passin", f"file:{secret}", "-noenc")
        self.assertEqual((said.count("BEGIN CERTIFICATE"), said.count("BEGIN PRIVATE KEY")), (2, 1))
        self.assertIn("not overwritten", self.fail_with(1, "export", folder, file, "--out-passphrase-file", secret))
        self.succeed("export", folder, file, "--out-passphrase-file", secret, "--replace", "--compatible")
        self.succeed("verify", chain, "--ca", self.ca, "--purpose", "client", "--key", folder / "privkey.pem")

    def test_nothing_is_overwritten_unless_told_and_then_kept(self) -> None:
        """A second certificate is refused; --replace puts the old key aside; --renew and --same-key keep the key."""
        folder = self.certs / HOSTNAME
        first = self.key_of(folder)
        self.assertIn("exists already", self.fail_with(1, "issue", self.certs, "--hostname", HOSTNAME))
        self.assertEqual(self.key_of(folder), first)
        out = json.loads(self.succeed("issue", self.certs, "--hostname", HOSTNAME, "--replace", "--json"))
        self.assertNotEqual(self.key_of(folder), first)
        self.assertEqual(self.key_of(Path(out["kept"])), first)
        self.assertEqual(self.modes(Path(out["kept"])), {"privkey.pem": 0o600, "fullchain.pem": 0o644})
        second = self.key_of(folder)
        self.succeed("issue", self.certs, "--renew", HOSTNAME, "--same-key", "--days", "10")
        self.assertEqual(self.key_of(folder), second)
        self.assertIn("(9 days)", self.run_certs("verify", self.certs)[1])
        self.succeed("issue", self.certs, "--renew", HOSTNAME)
        self.assertNotEqual(self.key_of(folder), second)
        self.assertEqual(len(list((self.certs / ".replaced").iterdir())), 3)
        self.assertEqual(len(json.loads(self.succeed("list", self.certs, "--issued", "--json"))), 4)

    def test_a_client_without_an_address(self) -> None:
        """The last sentence says what the certificate lacks."""
        out = self.succeed("issue", self.certs, "--client", "mx2")
        self.assertIn("The certificate names no host and no mail address and is valid until", out)

    def test_a_renewed_client_stays_a_client(self) -> None:
        """Same names, purpose and kind of key."""
        made = ("issue", self.certs, "--client", "machine", "--hostname", "a.example.org", "--key", "rsa-2048")
        self.succeed(*made)
        self.succeed("issue", self.certs, "--renew", "machine")
        text = openssl("x509", "-noout", "-text", "-in", self.certs / "ca" / "clients" / "machine" / "fullchain.pem")
        for fact in ("TLS Web Client Authentication", "DNS:a.example.org", "(2048 bit)", "CN = machine"):
            self.assertIn(fact, text)

    def test_an_encrypted_key_stays_encrypted(self) -> None:
        """--key-passphrase-file encrypts; a renewal without it is refused and changes nothing."""
        secret, folder = self.secret("pass", "secret"), self.certs / "b.example.org"
        self.succeed("issue", self.certs, "--hostname", "b.example.org", "--key-passphrase-file", secret)
        before = (folder / "privkey.pem").read_bytes()
        self.assertTrue(is_encrypted(before))
        openssl("pkey", "-in", folder / "privkey.pem", "-passin", f"file:{secret}", "-noout")
        self.assertIn(
            "is encrypted, and the new key shall be too",
            self.fail_with(1, "issue", self.certs, "--renew", "b.example.org"),
        )
        self.assertEqual((folder / "privkey.pem").read_bytes(), before)
        self.succeed("issue", self.certs, "--renew", "b.example.org", "--key-passphrase-file", secret)
        openssl("pkey", "-in", folder / "privkey.pem", "-passin", f"file:{secret}", "-noout")
        self.succeed("verify", self.certs, "--passphrase-file", secret)

    def test_a_request_from_elsewhere(self) -> None:
        """Made by `openssl req`; the answer goes where --out says, and the key never comes here."""
        request, answer = self.folder / "csr", self.folder / "answer.pem"
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout", self.folder / "key")
        openssl("req", "-new", *key, "-subj", "/CN=x", "-addext", "subjectAltName=DNS:far.example.org", "-out", request)
        self.succeed("issue", self.certs, "--request", request, "--out", answer)
        self.assertIn(
            "OK", openssl("verify", "-x509_strict", "-CAfile", self.ca, "-verify_hostname", "far.example.org", answer)
        )
        self.assertIn("exists already", self.fail_with(1, "issue", self.certs, "--request", request, "--out", answer))

    def test_wrong_usage(self) -> None:
        """Exit status 2 and a sentence."""
        for arguments in (
            [],
            ["--renew", "a", "--hostname", "b"],
            ["--request", "a"],
            ["--hostname", "a", "--email", "b@c"],
            ["--hostname", "a.example", "--days", "900"],
            ["--hostname", "a.example", "--key", "rsa-2048", "--same-key"],
            ["--hostname", "a.example", "--key", "rsa-1024"],
        ):
            self.assertIn("Error: ", self.fail_with(2, "issue", self.certs, *arguments))
        for arguments in (
            ["--client", "../x"],
            ["--client", ".x"],
            ["--hostname", "ca"],
            ["--renew", "no"],
            ["--renew", "../.."],
        ):
            self.fail_with(1, "issue", self.certs, *arguments)
        self.assertIn(
            "there is no private CA", self.fail_with(1, "issue", self.folder / "no", "--hostname", "a.example")
        )


class RequestTests(MakeCase):
    """`certs request` and `certs import` of the answer."""

    def answer(self, request: Path) -> Path:
        """What a public CA of two levels, made with `openssl`, sends: PKCS#7, in the wrong order, with its root."""
        at = self.folder
        (at / "ca.ext").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
        (at / "leaf.ext").write_text("subjectAltName=DNS:new.example.org\nextendedKeyUsage=serverAuth\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl("req", "-x509", *key, "-keyout", at / "root.key", "-subj", "/CN=Public Root", "-out", at / "root.pem")
        openssl(
            "req", "-new", *key, "-keyout", at / "mid.key", "-subj", "/CN=Public Intermediate", "-out", at / "mid.csr"
        )
        sign = ("x509", "-req", "-CAcreateserial", "-days", "90")
        by_root = ("-CA", at / "root.pem", "-CAkey", at / "root.key", "-extfile", at / "ca.ext")
        by_middle = ("-CA", at / "mid.pem", "-CAkey", at / "mid.key", "-extfile", at / "leaf.ext")
        openssl(*sign, "-in", at / "mid.csr", *by_root, "-out", at / "mid.pem")
        openssl(*sign, "-in", request, *by_middle, "-out", at / "leaf.pem")
        files = [each for name in ("root", "mid", "leaf") for each in ("-certfile", at / f"{name}.pem")]
        openssl("crl2pkcs7", "-nocrl", *files, "-outform", "DER", "-out", at / "answer.p7b")
        return at / "answer.p7b"

    def test_from_request_to_certificate(self) -> None:
        """The key waits beside what is in use; the answer finds it, the chain is put in order, the server takes it."""
        out = json.loads(self.succeed("request", self.certs, "--hostname", "new.example.org", "--json"))
        folder = self.certs / "new.example.org"
        self.assertEqual(self.modes(folder), {"request.key": 0o600, "request.pem": 0o644})
        self.assertIn("verify OK", openssl("req", "-verify", "-noout", stdin=out["request"].encode()))
        self.assertIn("a request waits", self.fail_with(1, "request", self.certs, "--hostname", "new.example.org"))
        (shown,) = json.loads(self.succeed("show", folder / "request.pem", "--json"))
        self.assertEqual((shown["kind"], shown["names"]), ("request", ["new.example.org"]))
        self.succeed("import", self.certs, self.answer(folder / "request.pem"))
        self.assertEqual(self.modes(folder), {"privkey.pem": 0o600, "fullchain.pem": 0o644})
        chain = folder / "fullchain.pem"
        roots = ("-CAfile", self.folder / "root.pem")
        self.assertIn(
            "OK", openssl("verify", *roots, "-untrusted", chain, "-verify_hostname", "new.example.org", chain)
        )
        self.assertEqual(self.key_of(folder), openssl("x509", "-noout", "-pubkey", "-in", chain))
        self.succeed("verify", self.certs, "--hostname", "new.example.org")
        self.succeed("verify", chain, "--ca", self.folder / "root.pem", "--hostname", "new.example.org")

    def test_an_answer_without_its_key(self) -> None:
        """Nothing is written, and the sentence says what to do."""
        self.succeed("request", self.certs, "--hostname", "new.example.org")
        answer = self.answer(self.certs / "new.example.org" / "request.pem")
        self.succeed("request", self.certs, "--hostname", "new.example.org", "--replace")
        self.assertIn("belongs to these certificates", self.fail_with(1, "import", self.certs, answer))
        self.assertFalse((self.certs / "new.example.org" / "fullchain.pem").exists())

    def test_the_same_key_again(self) -> None:
        """A request for the key in use leaves it where it is; its answer needs --replace and keeps the key."""
        self.succeed("request", self.certs, "--hostname", HOSTNAME, "--same-key")
        folder = self.certs / HOSTNAME
        before = self.key_of(folder)
        self.succeed("issue", self.certs, "--request", folder / "request.pem", "--out", self.folder / "answer.pem")
        self.assertIn("--replace", self.fail_with(1, "import", self.certs, self.folder / "answer.pem"))
        self.succeed("import", self.certs, self.folder / "answer.pem", "--replace")
        self.assertEqual(self.key_of(folder), before)
        self.assertEqual(set(self.modes(folder)), {"privkey.pem", "fullchain.pem"})

    def test_pkcs12_comes_in(self) -> None:
        """Made by `openssl`; a wrong passphrase is a sentence; what the server would refuse is not taken in."""
        self.succeed("issue", self.certs, "--client", "alice")
        for source, name in (
            (self.certs / HOSTNAME, "server.p12"),
            (self.certs / "ca" / "clients" / "alice", "client.p12"),
        ):
            made = ("-inkey", source / "privkey.pem", "-in", source / "fullchain.pem", "-passout", "pass:secret")
            openssl("pkcs12", "-export", *made, "-out", self.folder / name)
        right, wrong, other = self.secret("right", "secret"), self.secret("wrong", "x"), self.folder / "other"
        file = self.folder / "server.p12"
        self.assertIn("does not open", self.fail_with(1, "import", other, file, "--passphrase-file", wrong))
        self.assertIn("needs its passphrase", self.fail_with(1, "import", other, file))
        err = self.fail_with(1, "import", other, self.folder / "client.p12", "--passphrase-file", right, "--name", "x")
        self.assertIn("is not made for servers", err)
        self.assertFalse(other.exists())
        self.succeed("import", other, file, "--passphrase-file", right)
        self.succeed("verify", other, "--hostname", HOSTNAME)


class RevokeTests(MakeCase):
    """`certs revoke`."""

    def test_openssl_believes_the_list(self) -> None:
        """By name, by file and by serial number; a renewed certificate stays good when the old one's file is named."""
        for name in ("alice", "bob", "carol"):
            self.succeed("issue", self.certs, "--client", name)
        clients = self.certs / "ca" / "clients"
        serial = (
            openssl("x509", "-noout", "-serial", "-in", clients / "carol" / "fullchain.pem").strip().partition("=")[2]
        )
        named = ("alice", clients / "bob" / "fullchain.pem")
        self.succeed("revoke", self.certs, *named, "--reason", "key-compromise")
        out = json.loads(self.succeed("revoke", self.certs, serial, "--json"))
        self.assertEqual((out["number"], len(out["revoked"])), (2, 3))
        revoked = self.certs / "ca" / "crl.pem"
        self.assertEqual(stat.S_IMODE(revoked.stat().st_mode), 0o644)
        check = ("verify", "-crl_check", "-CAfile", self.ca, "-CRLfile", revoked)
        for name in ("alice", "bob", "carol"):
            chain = clients / name / "fullchain.pem"
            self.assertRaises(AssertionError, openssl, *check, chain)
            checked = ("verify", chain, "--ca", self.ca, "--purpose", "client", "--crl", revoked)
            self.assertIn("was revoked on", self.run_certs(*checked)[1])
        self.assertIn("OK", openssl(*check, self.certs / HOSTNAME / "fullchain.pem"))
        states = {each["name"]: each["state"] for each in json.loads(self.succeed("list", self.certs, "--json"))}
        self.assertIn("revoked on", states["alice"])
        self.assertEqual(states[HOSTNAME], "good")
        self.succeed("revoke", self.certs)
        self.assertIn("3 certificates", self.succeed("revoke", self.certs))
        self.assertIn("kind", self.succeed("show", revoked, "--json"))

    def test_a_revoked_server_is_a_warning_of_verify(self) -> None:
        """The server would start, and its clients may refuse it."""
        self.succeed("revoke", self.certs, HOSTNAME)
        self.assertIn("was revoked by its CA", self.succeed("verify", self.certs))

    def test_what_cannot_be_revoked(self) -> None:
        """Nobody's name, and another CA's certificate."""
        self.assertIn("is called nobody", self.fail_with(1, "revoke", self.certs, "nobody"))
        other = self.folder / "other"
        self.succeed("init", other, "--hostname", HOSTNAME)
        self.assertIn("only its own CA", self.fail_with(1, "revoke", self.certs, other / HOSTNAME / "fullchain.pem"))
        self.assertFalse((self.certs / "ca" / "crl.pem").exists())


class RemoveTests(MakeCase):
    """`certs remove`."""

    def test_what_is_ours_goes(self) -> None:
        """The certificate, its key, and the folder when nothing else is in it."""
        self.succeed("issue", self.certs, "--hostname", "b.example.org")
        self.succeed("issue", self.certs, "--client", "alice")
        (self.certs / HOSTNAME / "note").write_text("mine")
        for name in (HOSTNAME, "b.example.org", "alice"):
            self.assertIn("Removed", self.succeed("remove", self.certs, name, "--yes"))
        self.assertEqual(sorted(path.name for path in self.certs.iterdir()), ["ca", HOSTNAME])
        self.assertEqual([path.name for path in (self.certs / HOSTNAME).iterdir()], ["note"])
        self.assertEqual(list((self.certs / "ca" / "clients").iterdir()), [])

    def test_what_is_not(self) -> None:
        """certbot's links, the CA, what is not there, and a place outside."""
        live = self.certs / "live.example.org"
        live.mkdir()
        (live / "fullchain.pem").symlink_to(self.ca)
        for name in ("live.example.org", "ca", "nothing", "..", "../certs"):
            self.fail_with(1, "remove", self.certs, name, "--yes")
        self.assertTrue(self.ca.exists())
        self.assertTrue((live / "fullchain.pem").is_symlink())


class RowTests(MakeCase):
    """`--database`: certificates as rows."""

    def run_rows(self, *arguments: str | Path) -> tuple[int, str, str]:
        """`mailsvc certs ...` with a configuration that names a database and a key file."""
        configuration = self.folder / "mailsvc.toml"
        configuration.write_text(
            f'database = "{(self.folder / "mail.db").absolute()}"\n'
            f'[certificates]\nkey_file = "{(self.folder / "rows.key").absolute()}"\n'
        )
        self.patch(os, "environ", {**os.environ, "MAILSVC_CONFIG": str(configuration)})
        return self.run_certs(*arguments)

    def test_in_listed_and_out(self) -> None:
        """The sealing key is made once, 0600; the private key is nowhere in the database; a row needs --replace."""
        status, out, err = self.run_rows("import", "--database", self.certs / HOSTNAME)
        self.assertEqual((status, err), (0, ""))
        self.assertIn("a new key for private keys in the database", out)
        self.assertEqual(stat.S_IMODE((self.folder / "rows.key").stat().st_mode), 0o600)
        secret = b"".join((self.certs / HOSTNAME / "privkey.pem").read_bytes().splitlines()[1:-1])
        stored = b"".join(path.read_bytes() for path in self.folder.glob("mail.db*"))
        self.assertNotIn(secret[:40], stored)
        self.assertIn("--replace", self.run_rows("import", "--database", self.certs / HOSTNAME)[2])
        self.assertEqual(self.run_rows("import", "--database", self.certs / HOSTNAME, "--replace")[0], 0)
        kinds = [each["kind"] for each in json.loads(self.run_rows("list", self.certs, "--json")[1])]
        self.assertEqual(kinds, ["ca", "server", "row"])
        self.assertEqual(self.run_rows("remove", "--database", HOSTNAME, "--yes")[0], 0)
        self.assertIn("there is no certificate", self.run_rows("remove", "--database", HOSTNAME, "--yes")[2])

    def test_staple(self) -> None:
        """A row gets an OCSP response that the server would show, and no other; and loses it again."""
        self.run_rows("import", "--database", self.certs / HOSTNAME)
        (leaf, *_), _ = read_chain(read(self.certs / HOSTNAME / "fullchain.pem"))
        issuer = x509.load_pem_x509_certificate(self.ca.read_bytes())
        signer = Issued(issuer, load_key((self.certs / "ca" / "ca.key").read_bytes()))
        path = self.folder / "ocsp.der"
        path.write_bytes(response(leaf=leaf, issuer=issuer, signer=signer))
        self.assertEqual(
            self.run_rows("staple", HOSTNAME, path)[1],
            f"The certificate {HOSTNAME} in the database has this OCSP response now.\n",
        )
        self.assertEqual(self.staple(), path.read_bytes())
        path.write_bytes(response())
        status, _, err = self.run_rows("staple", HOSTNAME, path)
        self.assertEqual(status, 1)
        self.assertIn("it is about another certificate", err)
        self.assertIsNotNone(self.staple())
        self.assertIn("any more", self.run_rows("staple", HOSTNAME)[1])
        self.assertIsNone(self.staple())
        self.assertIn("there is no certificate", self.run_rows("staple", "other", path)[2])

    def staple(self) -> bytes | None:
        with offline(str(self.folder / "mail.db"), create=False) as txn:
            row = certificate(txn, HOSTNAME)
        assert row is not None
        return row.staple

    def test_without_a_sealing_key(self) -> None:
        """A sentence that says how to give one, and nothing is stored."""
        self.patch(os, "environ", {**os.environ, "MAILSVC_DATABASE": str(self.folder / "mail.db")})
        self.assertIn("key_file", self.fail_with(1, "import", "--database", self.certs / HOSTNAME))
        self.assertFalse((self.folder / "mail.db").exists())


class ListTests(MakeCase):
    """`certs list`."""

    def test_for_people(self) -> None:
        """One line each, with what to look at; without a folder it is the configured one."""
        self.succeed("request", self.certs, "--hostname", "new.example.org")
        out = self.succeed("list", self.certs)
        for fact in ("waits for its CA's answer", "good", HOSTNAME, "ECDSA"):
            self.assertIn(fact, out)
        (self.certs / HOSTNAME / "privkey.pem").unlink()
        (self.certs / "odd").mkdir()
        (self.certs / "odd" / "fullchain.pem").write_bytes(b"hello")
        states = {each["name"]: each["state"] for each in json.loads(self.succeed("list", self.certs, "--json"))}
        self.assertEqual(states[HOSTNAME], "without its privkey.pem")
        self.assertIn("has no certificate in it", states["odd"])
        self.assertIn("no such folder", self.fail_with(1, "list", self.folder / "no"))
        self.assertIn("has signed anything", self.succeed("list", self.certs / "odd", "--issued"))


class VerifyFileTests(MakeCase):
    """`certs verify FILE`."""

    def test_every_finding_and_exit_status_1(self) -> None:
        """Against a CA that is not this one, for a wrong name, with a key that does not fit."""
        other = self.folder / "other"
        self.succeed("init", other, "--hostname", HOSTNAME)
        chain = self.certs / HOSTNAME / "fullchain.pem"
        wrong = ("--ca", other / "ca" / "ca.pem", "--hostname", "x.example", "--key", other / HOSTNAME / "privkey.pem")
        status, out, err = self.run_certs("verify", chain, *wrong)
        self.assertEqual((status, err), (1, ""))
        for fact in ("is not among the CAs in", "does not cover x.example", "does not fit the certificate"):
            self.assertIn(fact, out)
        self.assertIn("3 errors, 0 warnings: a careful client would not accept it.", out)
        self.assertIn("Everything is in order.", self.succeed("verify", chain, "--ca", self.certs / "ca"))
        status, out, _ = self.run_certs("verify", chain, "--ca", self.ca, "--at", "2099-01-01", "--json")
        self.assertEqual((status, json.loads(out)["ok"]), (1, False))

    def test_the_machines_own_list(self) -> None:
        """Without --ca a private CA is unknown."""
        status, out, _ = self.run_certs("verify", self.certs / HOSTNAME / "fullchain.pem")
        self.assertEqual(status, 1)
        self.assertIn("this machine's list of CAs", out)

    def test_options_of_files_are_not_for_folders(self) -> None:
        """Exit status 2."""
        self.assertIn("(FILE)", self.fail_with(2, "verify", self.certs, "--ca", self.ca))
