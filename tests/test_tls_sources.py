"""A certs folder as the server reads it at its start: one sentence for each mistake, all of them at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued, client_certificate, server_certificate
from mailsvc.certkit.files import Reader
from mailsvc.certkit.inspect import Finding, Passphrase
from mailsvc.certkit.keys import encode_key, new_key
from mailsvc.errors import StartRefused
from mailsvc.tls.sources import FolderSource, load_table, passphrase_source, read_folder
from mailsvc.tls.table import CredentialTable
from tests.pki import HOSTNAME, authority, chain_pem, credential, make_certs

NOW = datetime.now(UTC)


def no_passphrase() -> bytes | None:
    return None


def load_folder(
    certs: Path | str,
    hostname: str,
    passphrase: Passphrase,
    now: datetime,
    *,
    warn: Callable[[Finding], None] = lambda finding: None,
) -> CredentialTable:
    """The table of one folder."""
    return load_table([FolderSource(certs, passphrase, hostname=hostname)], hostname, now, warn=warn)


class FolderCase(SynchronousTestCase):
    """A folder of its own."""

    def setUp(self) -> None:
        self.certs = Path(self.mktemp()) / "certs"
        self.certs.parent.mkdir()

    def put(
        self, name: str, issued: Issued | None = None, *, chain: bytes | None = None, key: bytes | None = None
    ) -> None:
        issued = issued or credential((name,))
        folder = self.certs / name
        folder.mkdir(parents=True)
        (folder / "fullchain.pem").write_bytes(chain_pem(issued) if chain is None else chain)
        (folder / "privkey.pem").write_bytes(encode_key(issued.key) if key is None else key)
        (folder / "privkey.pem").chmod(0o600)

    def refusal(
        self, hostname: str = HOSTNAME, now: datetime = NOW, environ: dict[str, str] | None = None
    ) -> list[str]:
        error = self.assertRaises(
            StartRefused, load_folder, self.certs, hostname, passphrase_source(environ or {}), now
        )
        return list(error.problems)

    def load(self, hostname: str = HOSTNAME, environ: dict[str, str] | None = None) -> CredentialTable:
        return load_folder(self.certs, hostname, passphrase_source(environ or {}), NOW)


class GoodTests(FolderCase):
    """Folders that the server starts with."""

    def test_what_certs_init_lays_out(self) -> None:
        """`ca/` is the private CA's place and no server certificate; `certs` may be text."""
        make_certs(self.certs)
        table = load_folder(str(self.certs), HOSTNAME, no_passphrase, NOW)
        self.assertEqual([each.name for each in table.credentials], [HOSTNAME])
        self.assertEqual(table.default.sources[0], self.certs / HOSTNAME / "fullchain.pem")
        self.assertEqual(len(table.default.chain), 2)

    def test_certbots_live_folder_as_it_is(self) -> None:
        """Links into `archive`, two more files in each folder, and a README beside them."""
        self.put("a.example.org")
        archive = self.certs.parent / "archive" / "a.example.org"
        archive.parent.mkdir()
        (self.certs / "a.example.org").rename(archive)
        live = self.certs / "a.example.org"
        live.mkdir()
        shutil.copy(archive / "fullchain.pem", archive / "cert.pem")
        for name in ("fullchain", "privkey", "cert"):
            (archive / f"{name}.pem").rename(archive / f"{name}3.pem")
            (live / f"{name}.pem").symlink_to(f"../../archive/a.example.org/{name}3.pem")
        (self.certs / "README").write_text("This directory contains your keys and certificates.")
        self.assertEqual(self.load("a.example.org").default.name, "a.example.org")

    def test_a_linked_folder_and_hidden_ones(self) -> None:
        """A folder may be a link; what begins with a dot is nobody's business."""
        self.put("elsewhere")
        (self.certs / "elsewhere").rename(self.certs.parent / "away")
        (self.certs / "linked").symlink_to("../away")
        (self.certs / ".git").mkdir()
        self.assertEqual(self.load("elsewhere").default.name, "linked")

    def test_a_path_that_cannot_be_followed(self) -> None:
        """Whatever the system says of one path (too long here; no permission, a loop): a finding about that one name,
        and the others are taken."""
        self.put(HOSTNAME)
        endless = "x" * 300
        (self.certs / "a").symlink_to(endless)
        (self.certs / "b").symlink_to("b")
        for name, missing in (("c", "fullchain.pem"), ("d", "ocsp.der")):
            self.put(name)
            (self.certs / name / missing).unlink(missing_ok=True)
            (self.certs / name / missing).symlink_to(endless)
        report = read_folder(self.certs, HOSTNAME, no_passphrase, NOW)
        self.assertEqual([each.name for each in report.credentials], ["d", HOSTNAME])
        told = "\n".join(map(str, report.errors))
        for words in (f"{self.certs}/a: is a link to xxx", "cannot be reached", f"{self.certs}/b: is a link to b"):
            self.assertIn(words, told)
        self.assertIn(f"{self.certs}/c/fullchain.pem: ", told)

    def test_several_folders_one_table(self) -> None:
        """The default is the one that covers the hostname, wherever it stands in the order."""
        for name in ("a.example.org", "b.example.org", "c.example.org"):
            self.put(name)
        table = self.load("b.example.org")
        self.assertEqual(table.default.name, "b.example.org")
        self.assertEqual(table.lookup("c.example.org").name, "c.example.org")

    def test_an_encrypted_key_with_its_passphrase(self) -> None:
        """From the file that the environment names, or from systemd's credentials."""
        sealed = encode_key(credential((HOSTNAME,)).key, b"secret", rounds=10)
        self.put(HOSTNAME, key=sealed)
        file = self.certs.parent / "key-passphrase"
        file.write_bytes(b"secret\n")
        file.chmod(0o600)
        for environ in (
            {"MAILSVC_KEY_PASSPHRASE_FILE": str(file)},
            {"CREDENTIALS_DIRECTORY": str(self.certs.parent)},
        ):
            self.assertEqual(self.load(environ=environ).default.name, HOSTNAME)

    def test_warnings_are_passed_on_and_do_not_refuse(self) -> None:
        """Soon expired, a folder that is passed over, a passphrase file and a folder open to others."""
        self.put(HOSTNAME, server_certificate(authority(), [HOSTNAME], NOW, lifetime=timedelta(days=5)))
        (self.certs / "notes").mkdir()
        self.certs.chmod(0o777)
        file = self.certs.parent / "pass"
        file.write_bytes(b"secret")
        file.chmod(0o644)
        warned: list[Finding] = []
        source = passphrase_source({"MAILSVC_KEY_PASSPHRASE_FILE": str(file)})
        load_folder(self.certs, HOSTNAME, source, NOW, warn=warned.append)
        text = "\n".join(map(str, warned))
        for fact in ("expires in 4 days", "notes: holds neither", "(mode 0777); run: chmod o-w", "pass: can be read"):
            self.assertIn(fact, text)
        self.assertEqual(len(warned), 4)


class BadTests(FolderCase):
    """Folders that refuse the start; the cure is in each sentence."""

    def test_a_missing_or_empty_folder_names_the_command(self) -> None:
        """One sentence, with the hostname already in it."""
        cure = f"mailsvc certs init {self.certs}/ --hostname {HOSTNAME}"
        (missing,) = self.refusal()
        self.assertIn("does not exist", missing)
        self.assertTrue(missing.endswith(cure), missing)
        self.certs.mkdir()
        (self.certs / "README").write_text("certificates go here")
        (self.certs / "ca").mkdir()
        (self.certs / "empty").mkdir()
        (empty,) = self.refusal()
        self.assertIn("holds no certificate", empty)
        self.assertTrue(empty.endswith(cure), empty)

    def test_a_path_that_is_slightly_wrong(self) -> None:
        """A file instead of the folder, and one folder too deep."""
        make_certs(self.certs)
        self.certs = self.certs / HOSTNAME
        (deep,) = self.refusal()
        self.assertIn(f"give the folder above it, {self.certs.parent.absolute()}", deep)
        self.certs = self.certs / "privkey.pem"
        (file,) = self.refusal()
        self.assertIn("is not a folder", file)

    def test_every_mistake_of_every_folder_is_told_at_once(self) -> None:
        """Nobody has to start the server once per mistake."""
        self.put("a", key=encode_key(new_key()))
        (self.certs / "a" / "privkey.pem").chmod(0o644)
        self.put("b", chain=b"nothing")
        self.put("c")
        (self.certs / "c" / "privkey.pem").unlink()
        self.put("d", key=encode_key(credential(("d",)).key, b"secret", rounds=10))
        self.put("e", server_certificate(authority(), ["e"], NOW - timedelta(days=500), lifetime=timedelta(days=90)))
        (self.certs / "f").symlink_to("gone")
        (self.certs / "ca").mkdir()
        (self.certs / "ca" / "ca.key").write_bytes(b"")
        (self.certs / "ca" / "ca.key").chmod(0o644)
        problems = self.refusal()
        expected = (
            ("ca/ca.key", "can be read or changed by other users"),
            ("a/privkey.pem", "can be read or changed by other users"),
            ("a/privkey.pem", "does not fit the certificate"),
            ("b/fullchain.pem", "has no certificate in it"),
            ("c/privkey.pem", "does not exist"),
            ("d/privkey.pem", "is encrypted and there is no passphrase"),
            ("e/fullchain.pem", "expired on"),
            ("f", "is a link to gone"),
        )
        self.assertEqual(len(problems), len(expected), problems)
        for problem, (name, fact) in zip(problems, expected, strict=True):
            self.assertTrue(problem.startswith(f"{self.certs / name}: {fact}"), problem)
            self.assertNotIn("\n", problem)

    def test_a_hostname_that_nothing_covers(self) -> None:
        """The names that are there stand in the sentence; a common name does not count."""
        self.put("a.example.org")
        self.put("b.example.org")
        (problem,) = self.refusal("mail.example.org")
        self.assertIn("covers the hostname mail.example.org (they cover: a.example.org, b.example.org)", problem)
        self.assertEqual(read_folder(self.certs, None, no_passphrase, NOW).errors, ())

    def test_a_passphrase_source_that_fails(self) -> None:
        """The key and the file that should open it are both named."""
        self.put(HOSTNAME, key=encode_key(credential((HOSTNAME,)).key, b"secret", rounds=10))
        (problem,) = self.refusal(environ={"MAILSVC_KEY_PASSPHRASE_FILE": "/nowhere/pass"})
        self.assertIn("privkey.pem: is encrypted and its passphrase could not be had: /nowhere/pass: does not", problem)
        self.assertNotIn("secret", problem)

    def test_one_file_for_both_must_be_private(self) -> None:
        """A key that was appended to fullchain.pem is as secret there."""
        issued = credential((HOSTNAME,))
        self.put(HOSTNAME, chain=chain_pem(issued) + encode_key(issued.key))
        (self.certs / HOSTNAME / "fullchain.pem").chmod(0o644)
        (problem,) = self.refusal()
        self.assertIn("fullchain.pem: can be read or changed by other users (mode 0644)", problem)

    def test_a_client_certificate_does_not_serve(self) -> None:
        """A mix-up of the two is found before any client does."""
        self.put("a", client_certificate(authority(), "a", NOW))
        self.assertIn("lacks serverAuth", " ".join(self.refusal("a")))

    def test_a_group_that_is_ours_may_read(self) -> None:
        """Debian's ssl-cert: somebody else's file, 0640, one of our groups."""
        make_certs(self.certs)
        key = self.certs / HOSTNAME / "privkey.pem"
        key.chmod(0o640)
        status = key.stat()
        for reader, errors in (
            (Reader(status.st_uid + 1, frozenset({status.st_gid})), 0),
            (Reader(status.st_uid + 1, frozenset()), 0 if (status.st_uid, status.st_gid) == (0, 0) else 1),
        ):
            report = read_folder(self.certs, HOSTNAME, no_passphrase, NOW, reader=reader)
            self.assertEqual(len(report.errors), errors)

    def test_a_folder_that_cannot_be_read(self) -> None:
        """Root reads everything, so the attempt is another user's."""
        make_certs(self.certs)
        self.certs.chmod(0)
        self.addCleanup(self.certs.chmod, 0o700)
        if os.geteuid() != 0:
            self.assertIn("this folder cannot be read", self.refusal()[0])
            return
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgid(65534)
                os.setuid(65534)
                (problem,) = read_folder(self.certs, HOSTNAME, no_passphrase, NOW).errors
                status = "this folder cannot be read" not in problem.text
            finally:
                os._exit(status)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def test_the_certificate_is_the_one_on_disk(self) -> None:
        """What the table holds is what the file says."""
        made = make_certs(self.certs)
        (leaf, issuer) = self.load().default.chain
        pem = (made.folder / HOSTNAME / "fullchain.pem").read_bytes()
        self.assertEqual(leaf.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM), pem)
