"""`certs init` without the command: what `layout.create` writes, leaves alone, and refuses."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import NameProblem
from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import read_chain
from mailsvc.certkit.keys import encode_key, new_key
from mailsvc.certkit.layout import create
from mailsvc.errors import AlreadyExists, MailsvcError
from tests.pki import chain_pem, credential, openssl

NOW = datetime.now(UTC)


class CreateTests(SynchronousTestCase):
    """A folder that does not exist yet."""

    def setUp(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        self.certs = Path(self.mktemp()) / "deep" / "certs"

    def tree(self) -> dict[str, int]:
        return {
            str(path.relative_to(self.certs)): stat.S_IMODE(path.stat().st_mode)
            for path in (self.certs, *sorted(self.certs.rglob("*")))
        }

    def test_files_and_modes_under_umask_000(self) -> None:
        """Exactly these, and keys are for their owner alone."""
        created = create(self.certs, ["mail.example.org", "localhost", "127.0.0.1"], None, NOW)
        (issued,) = (self.certs / "ca" / "issued").iterdir()
        self.assertEqual(
            self.tree(),
            {
                ".": 0o755,
                "ca": 0o700,
                "ca/ca.key": 0o600,
                "ca/ca.pem": 0o644,
                "ca/issued": 0o700,
                f"ca/issued/{issued.name}": 0o644,
                "mail.example.org": 0o700,
                "mail.example.org/fullchain.pem": 0o644,
                "mail.example.org/privkey.pem": 0o600,
            },
        )
        self.assertEqual(
            {each.path: each.mode for each in created.written},
            {self.certs / name: mode for name, mode in self.tree().items() if (self.certs / name).is_file()},
        )
        self.assertEqual(str(created.names), "mail.example.org, localhost, 127.0.0.1")
        self.assertFalse(created.authority_encrypted)

    def test_openssl_verifies_every_file(self) -> None:
        """The chain against the CA, the keys as such, and that they belong together."""
        create(self.certs, ["mail.example.org"], None, NOW)
        ca, leaf = self.certs / "ca", self.certs / "mail.example.org"
        self.assertIn("OK", openssl("verify", "-x509_strict", "-CAfile", ca / "ca.pem", ca / "ca.pem"))
        check: list[str | Path] = ["-verify_hostname", "mail.example.org", "-purpose", "sslserver"]
        chain = leaf / "fullchain.pem"
        self.assertIn(
            "OK", openssl("verify", "-x509_strict", "-CAfile", ca / "ca.pem", *check, "-untrusted", chain, chain)
        )
        for key, certificate in ((ca / "ca.key", ca / "ca.pem"), (leaf / "privkey.pem", chain)):
            openssl("pkey", "-in", key, "-check", "-noout")
            self.assertEqual(
                openssl("pkey", "-in", key, "-pubout"), openssl("x509", "-in", certificate, "-noout", "-pubkey")
            )
        text = openssl("x509", "-in", ca / "ca.pem", "-noout", "-text")
        for fact in ("CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "Subject: CN = mailsvc private CA"):
            self.assertIn(fact, text)

    def test_a_passphrase_encrypts_the_ca_key_and_not_the_servers(self) -> None:
        """`openssl pkey` opens the one with it only, the other without."""
        created = create(self.certs, ["mail.example.org"], b"correct horse", NOW)
        self.assertTrue(created.authority_encrypted)
        key = self.certs / "ca" / "ca.key"
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        openssl("pkey", "-in", key, "-passin", "pass:correct horse", "-noout")
        self.assertRaises(AssertionError, openssl, "pkey", "-in", key, "-passin", "pass:wrong", "-noout")
        openssl("pkey", "-in", self.certs / "mail.example.org" / "privkey.pem", "-passin", "pass:", "-noout")

    def test_a_second_time_changes_nothing(self) -> None:
        """The same names, or some of them, are there already, and that is said."""
        create(self.certs, ["mail.example.org", "localhost"], None, NOW)
        before = {path: path.read_bytes() for path in self.certs.rglob("*.*") if path.is_file()}
        again = create(self.certs, ["mail.example.org"], None, NOW)
        self.assertEqual(again.written, ())
        self.assertEqual(str(again.names), "mail.example.org, localhost")
        self.assertEqual(before, {path: path.read_bytes() for path in self.certs.rglob("*.*") if path.is_file()})

    def test_what_is_in_the_way_is_refused(self) -> None:
        """Other names, an expired certificate, half a certificate: each is named, and nothing is written."""
        create(self.certs, ["mail.example.org"], None, NOW)
        folder = self.certs / "mail.example.org"
        for names, now, fact in (
            (["mail.example.org", "more.example.org"], NOW, "for other names (mail.example.org)"),
            (["mail.example.org"], NOW + timedelta(days=398), "which expired on"),
        ):
            error = self.assertRaises(AlreadyExists, create, self.certs, names, None, now)
            self.assertIn(fact, str(error))
            self.assertIn(f"move the folder {folder} away and run this again", str(error))
        (folder / "privkey.pem").unlink()
        error = self.assertRaises(AlreadyExists, create, self.certs, ["mail.example.org"], None, NOW)
        self.assertIn("holds no complete certificate", str(error))

    def test_an_existing_ca_issues_again(self) -> None:
        """A second host, and renewal after the folder was moved away, keep the CA that clients know."""
        first = create(self.certs, ["a.example.org"], None, NOW)
        ca = first.authority.read_bytes()
        create(self.certs, ["b.example.org"], None, NOW)
        (self.certs / "a.example.org").rename(self.certs.parent / "away")
        create(self.certs, ["a.example.org"], None, NOW + timedelta(days=300))
        self.assertEqual(first.authority.read_bytes(), ca)
        for name in ("a.example.org", "b.example.org"):
            chain, _ = read_chain(read(self.certs / name / "fullchain.pem"))
            chain[0].verify_directly_issued_by(chain[1])
            self.assertEqual(chain[1].public_bytes(Encoding.PEM), ca)

    def test_an_existing_ca_that_cannot_issue_is_named(self) -> None:
        """Encrypted without or with a wrong passphrase, gone, foreign, no CA, expired."""
        create(self.certs, ["a.example.org"], b"secret", NOW)
        key, certificate = self.certs / "ca" / "ca.key", self.certs / "ca" / "ca.pem"
        sealed, public = key.read_bytes(), certificate.read_bytes()

        def refused(fact: str, passphrase: bytes | None = b"secret", now: datetime = NOW) -> None:
            error = self.assertRaises(MailsvcError, create, self.certs, ["b.example.org"], passphrase, now)
            self.assertIn(fact, str(error))
            self.assertFalse((self.certs / "b.example.org").exists())

        refused("is encrypted; give its passphrase with --passphrase-file FILE", None)
        refused("the passphrase given does not open it; give the right one with --passphrase-file", b"wrong")
        refused("the private CA is not valid now", now=NOW + timedelta(days=3700))
        key.write_bytes(encode_key(new_key()))
        refused("does not fit")
        key.unlink()
        refused("ca.key: does not exist")
        key.write_bytes(encode_key(credential().key))
        certificate.write_bytes(chain_pem(credential()))
        refused("is not a CA's certificate")
        key.write_bytes(sealed)
        certificate.write_bytes(public)
        create(self.certs, ["b.example.org"], b"secret", NOW)

    def test_names_that_make_no_folder(self) -> None:
        """A wildcard's folder is its domain; `ca` is taken; nonsense never becomes a path."""
        created = create(self.certs, ["*.example.org"], None, NOW)
        self.assertEqual(created.folder.name, "example.org")
        self.assertRaises(MailsvcError, create, self.certs, ["ca"], None, NOW)
        self.assertRaises(MailsvcError, create, self.certs, [], None, NOW)
        for name in ("../../etc", "/etc", "a/b", ".."):
            self.assertRaises(NameProblem, create, self.certs, [name], None, NOW)
