"""`mailsvc certs init|verify|show` as people and scripts meet it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.keys import encode_key
from mailsvc.cli.main import main
from tests.pki import HOSTNAME, chain_pem, credential, make_certs, openssl


class CommandCase(SynchronousTestCase):
    """The command in a folder of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.certs = self.folder / "certs"

    def run_certs(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit status, standard output, standard error of `mailsvc certs ...`."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["certs", *map(str, arguments)])
        return status, out.getvalue(), err.getvalue()

    def succeed(self, *arguments: str | Path) -> str:
        status, out, err = self.run_certs(*arguments)
        self.assertEqual((status, err), (0, ""))
        return out

    def fail_with(self, status: int, *arguments: str | Path) -> str:
        got, out, err = self.run_certs(*arguments)
        self.assertEqual((got, out), (status, ""))
        self.assertNotIn("Traceback", err)
        return err


class InitTests(CommandCase):
    """`certs init`."""

    def test_the_form_that_scripts_rely_on(self) -> None:
        """`mailsvc certs init certs/ --hostname NAME` asks nothing and writes certs/ca/ca.pem."""
        out = self.succeed("init", f"{self.certs}/", "--hostname", HOSTNAME)
        for name in ("ca/ca.pem", "ca/ca.key", f"{HOSTNAME}/fullchain.pem", f"{HOSTNAME}/privkey.pem"):
            self.assertTrue((self.certs / name).is_file(), name)
            self.assertIn(str(self.certs / name), out)
        self.assertIn("0600  the private CA's key, not encrypted", out)
        self.assertIn("The private CA's key is NOT encrypted", out)
        self.assertIn(f"Next: twistd -n mailsvc --certs {self.certs}/ --hostname {HOSTNAME}", out)
        leaf = self.certs / HOSTNAME / "fullchain.pem"
        self.assertIn("OK", openssl("verify", "-CAfile", self.certs / "ca" / "ca.pem", leaf))

    def test_names_are_those_given(self) -> None:
        """Each --hostname is one more name, the first names the folder."""
        self.succeed("init", self.certs, "--hostname", HOSTNAME, "--hostname", "localhost", "--hostname", "::1")
        text = openssl("x509", "-noout", "-ext", "subjectAltName", "-in", self.certs / HOSTNAME / "fullchain.pem")
        self.assertIn(f"DNS:{HOSTNAME}, DNS:localhost, IP Address:0:0:0:0:0:0:0:1", text)

    def test_a_passphrase_file_encrypts_the_ca_key(self) -> None:
        """The output says so, and `openssl` needs the same file; the passphrase is not printed."""
        file = self.folder / "pass"
        file.write_bytes(b"correct horse\n")
        out = self.succeed("init", self.certs, "--hostname", HOSTNAME, "--passphrase-file", file)
        self.assertIn("0600  the private CA's key, encrypted with the passphrase", out)
        self.assertIn("The private CA's key is encrypted", out)
        self.assertNotIn("correct horse", out)
        openssl("pkey", "-in", self.certs / "ca" / "ca.key", "-passin", f"file:{file}", "-noout")

    def test_a_second_run_says_that_there_is_nothing_to_do(self) -> None:
        """Exit status 0, so that `make run` may call it every time."""
        self.succeed("init", self.certs, "--hostname", HOSTNAME)
        self.assertIn("Nothing to do", self.succeed("init", self.certs, "--hostname", HOSTNAME))

    def test_json(self) -> None:
        """The same facts for programs."""
        arguments = ("init", self.certs, "--hostname", HOSTNAME, "--json")
        first = json.loads(self.succeed(*arguments))
        self.assertEqual([each["mode"] for each in first["written"]], ["0600", "0644", "0600", "0644", "0644"])
        self.assertEqual(
            (first["names"], first["ca_key_encrypted"], first["ca"]),
            ([HOSTNAME], False, str(self.certs / "ca" / "ca.pem")),
        )
        self.assertEqual(json.loads(self.succeed(*arguments))["written"], [])

    def test_what_cannot_be_done_is_one_sentence_and_exit_status_1(self) -> None:
        """No traceback, nothing written."""
        empty = self.folder / "empty"
        empty.write_bytes(b"\n")
        for arguments, fact in (
            (["--hostname", "a b"], "'a b' is not a host name"),
            (["--hostname", HOSTNAME, "--passphrase-file", str(self.folder / "no")], "no: does not exist"),
            (["--hostname", HOSTNAME, "--passphrase-file", str(empty)], "its first line is empty"),
        ):
            err = self.fail_with(1, "init", self.certs, *arguments)
            self.assertTrue(err.startswith("mailsvc: ") and err.count("\n") == 1, err)
            self.assertIn(fact, err)
        self.assertFalse(self.certs.exists())

    def test_wrong_usage_is_exit_status_2(self) -> None:
        """No folder, no hostname, a file where the folder should be."""
        self.fail_with(2, "init")
        self.assertIn("--hostname", self.fail_with(2, "init", self.certs))
        (self.folder / "file").write_bytes(b"")
        self.fail_with(2, "init", self.folder / "file", "--hostname", HOSTNAME)


class VerifyTests(CommandCase):
    """`certs verify`."""

    def test_a_good_folder(self) -> None:
        """Says what is there and that all is well; exit status 0."""
        make_certs(self.certs)
        out = self.succeed("verify", self.certs, "--hostname", HOSTNAME)
        self.assertIn(f"ok       {self.certs / HOSTNAME}: covers {HOSTNAME}, localhost, 127.0.0.1; ECDSA", out)
        self.assertIn("(396 days)", out)
        self.assertTrue(out.endswith("Everything is in order.\n"))

    def test_every_finding_and_exit_status_1(self) -> None:
        """The findings are the answer, so they are on standard output."""
        make_certs(self.certs)
        (self.certs / HOSTNAME / "privkey.pem").chmod(0o644)
        (self.certs / "odd").mkdir()
        status, out, err = self.run_certs("verify", self.certs, "--hostname", "other.example")
        self.assertEqual((status, err), (1, ""))
        self.assertIn(f"error    {self.certs / HOSTNAME}/privkey.pem: can be read", out)
        self.assertIn("covers the hostname other.example", out)
        self.assertIn(f"warning  {self.certs / 'odd'}: holds neither", out)
        self.assertTrue(out.endswith("2 errors, 1 warning: the server would not start.\n"))

    def test_json(self) -> None:
        """A list of findings and the certificates that are good."""
        make_certs(self.certs)
        good = json.loads(self.succeed("verify", self.certs, "--json"))
        self.assertEqual((good["ok"], good["findings"], len(good["certificates"])), (True, [], 1))
        (self.certs / HOSTNAME / "privkey.pem").unlink()
        status, out, _ = self.run_certs("verify", self.certs, "--json")
        bad = json.loads(out)
        self.assertEqual((status, bad["ok"], bad["certificates"]), (1, False, []))
        self.assertEqual(bad["findings"][0]["severity"], "error")

    def test_a_missing_folder_names_the_command(self) -> None:
        """As at the server's start."""
        status, out, _ = self.run_certs("verify", self.certs)
        self.assertEqual(status, 1)
        self.assertIn(f"mailsvc certs init {self.certs}/ --hostname NAME", out)

    def test_an_encrypted_key(self) -> None:
        """With --passphrase-file, or where the environment says."""
        folder, file = self.certs / HOSTNAME, self.folder / "pass"
        folder.mkdir(parents=True)
        issued = credential()
        (folder / "fullchain.pem").write_bytes(chain_pem(issued))
        (folder / "privkey.pem").write_bytes(encode_key(issued.key, b"secret", rounds=10))
        (folder / "privkey.pem").chmod(0o600)
        file.write_bytes(b"secret\n")
        file.chmod(0o600)
        self.assertEqual(self.run_certs("verify", self.certs)[0], 1)
        self.succeed("verify", self.certs, "--passphrase-file", file)
        self.patch(os, "environ", {**os.environ, "MAILSVC_KEY_PASSPHRASE_FILE": str(file)})
        self.succeed("verify", self.certs)


class ShowTests(CommandCase):
    """`certs show`."""

    def test_the_fingerprints_are_openssls(self) -> None:
        """SHA-256 of the certificate in openssl's form, and of the public key in that of TLSA records."""
        made = make_certs(self.certs)
        leaf = self.certs / HOSTNAME / "fullchain.pem"
        out = self.succeed("show", leaf)
        fingerprint = openssl("x509", "-noout", "-fingerprint", "-sha256", "-in", leaf).partition("=")[2].strip()
        self.assertIn(fingerprint, out)
        public = openssl("x509", "-noout", "-pubkey", "-in", leaf).encode()
        (self.folder / "spki").write_bytes(b"")
        openssl("pkey", "-pubin", "-outform", "DER", "-out", self.folder / "spki", stdin=public)
        digest = openssl("dgst", "-sha256", self.folder / "spki").rpartition("=")[2].strip()
        self.assertIn(digest, out)
        for fact in (f"names         {HOSTNAME}, localhost, 127.0.0.1", "certificate 2 of 2", "(a CA)", "ECDSA"):
            self.assertIn(fact, out)
        self.assertIn("certificate 1 of 1", self.succeed("show", made.ca))

    def test_a_folder_shows_each_certificate_once(self) -> None:
        """A certs folder, one of its folders, and any folder of certificates."""
        make_certs(self.certs)
        for folder, count in ((self.certs, 3), (self.certs / HOSTNAME, 2), (self.certs / "ca", 1)):
            self.assertEqual(len(json.loads(self.succeed("show", folder, "--json"))), count)
        other = self.folder / "other"
        other.mkdir()
        (other / "x.crt").write_bytes(credential().certificate.public_bytes(Encoding.PEM))
        (shown,) = json.loads(self.succeed("show", other, "--json"))
        self.assertEqual((shown["names"], shown["authority"]), ([HOSTNAME], False))
        self.assertEqual(shown["serial"], f"{credential().certificate.serial_number:x}")

    def test_other_things_than_certificates_in_pem(self) -> None:
        """DER and PKCS#7 too; of a private key only what is public of it, of an encrypted one nothing."""
        make_certs(self.certs)
        leaf, key = self.certs / HOSTNAME / "fullchain.pem", self.certs / HOSTNAME / "privkey.pem"
        for arguments in (("x509", "-in", leaf), ("crl2pkcs7", "-nocrl", "-certfile", leaf)):
            openssl(*arguments, "-outform", "DER", "-out", self.folder / "der")
            self.assertIn("good for      TLS server", self.succeed("show", self.folder / "der"))
        out = self.succeed("show", key)
        (of_leaf, _) = json.loads(self.succeed("show", leaf, "--json"))
        self.assertIn(of_leaf["spki_sha256"], out)
        self.assertNotIn(key.read_text().splitlines()[1][:20], out)
        key.write_bytes(encode_key(credential().key, b"secret", rounds=10))
        (shown,) = json.loads(self.succeed("show", key, "--json"))
        self.assertEqual(shown, {"file": str(key), "kind": "private key", "encrypted": True})

    def test_what_is_no_certificate(self) -> None:
        """A missing file, an empty one, an empty folder: one sentence, exit status 1."""
        empty = self.folder / "empty.pem"
        empty.write_bytes(b"")
        self.assertIn("it is empty", self.fail_with(1, "show", empty))
        self.assertIn("does not exist", self.fail_with(1, "show", self.folder / "no"))
        (self.folder / "empty").mkdir()
        self.assertIn("there is no certificate in this folder", self.fail_with(1, "show", self.folder / "empty"))
