"""Certificates as rows, and the sealed keys in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import MailsvcError, NotFound
from mailsvc.storage import certificates
from mailsvc.storage.certificates import CertificateRow
from mailsvc.storage.opening import glancing
from mailsvc.tls.sealing import SealingKey, make_key_file, seal, sealing_key, unseal
from tests.storage_cases import OfflineCase

KEY = SealingKey(bytes(range(32)))
ROW = CertificateRow("mail.example.org", b"-----BEGIN CERTIFICATE-----\n", b"\x01sealed", KEY.name)


class RowTests(OfflineCase):
    """What is put is what comes back."""

    def test_put_get_list_remove(self) -> None:
        """A row of the same name is replaced, and told so."""
        with self.transaction() as txn:
            self.assertFalse(certificates.put_certificate(txn, ROW, 1.0))
            self.assertTrue(certificates.put_certificate(txn, replace(ROW, chain=b"other", staple=b"\x30"), 2.0))
            certificates.put_certificate(txn, replace(ROW, name="a.example.org"), 3.0)
            self.assertEqual([row.name for row in certificates.certificates(txn)], ["a.example.org", ROW.name])
            row = certificates.certificate(txn, ROW.name)
            assert row is not None
            self.assertEqual((row.chain, row.sealed_key, row.staple), (b"other", ROW.sealed_key, b"\x30"))
            self.assertEqual((row.sealed_by, row.changed), (KEY.name, 2.0))
            certificates.remove_certificate(txn, ROW.name)
            self.assertIsNone(certificates.certificate(txn, ROW.name))
            self.assertRaises(NotFound, certificates.remove_certificate, txn, ROW.name)
            self.assertRaises(NotFound, certificates.put_staple, txn, ROW.name, b"", 1.0)

    def test_every_change_changes_the_revisions(self) -> None:
        """Also the same row put again, a staple, and a row that was removed and put back."""
        with self.transaction() as txn:
            seen = [certificates.revisions(txn)]
            certificates.put_certificate(txn, ROW, 1.0)
            seen.append(certificates.revisions(txn))
            self.assertEqual(certificates.revisions(txn), seen[-1])
            certificates.put_certificate(txn, ROW, 1.0)
            seen.append(certificates.revisions(txn))
            certificates.put_staple(txn, ROW.name, b"\x30", 1.0)
            seen.append(certificates.revisions(txn))
            certificates.remove_certificate(txn, ROW.name)
            certificates.put_certificate(txn, ROW, 1.0)
            seen.append(certificates.revisions(txn))
            self.assertEqual(len(set(seen)), 5)

    def test_secrets_are_not_shown(self) -> None:
        """Neither the sealed key nor the sealing key shows in a traceback."""
        self.assertNotIn("sealed'", repr(ROW))
        self.assertNotIn("\\x01", repr(KEY))

    def test_notices(self) -> None:
        """A cause is told once, until it is over."""
        with self.transaction() as txn:
            self.assertFalse(certificates.was_told(txn, "a", "expires 21"))
            for about, cause in (("a", "expires 21"), ("a", "refused x"), ("a", "refused y"), ("b", "refused x")):
                certificates.note_told(txn, about, cause, 1.0)
                certificates.note_told(txn, about, cause, 2.0)
            certificates.forget_told(txn, "a", "refused", but=("refused y",))
            told = [
                (about, cause)
                for about, cause in (("a", "expires 21"), ("a", "refused x"), ("a", "refused y"), ("b", "refused x"))
                if certificates.was_told(txn, about, cause)
            ]
            self.assertEqual(told, [("a", "expires 21"), ("a", "refused y"), ("b", "refused x")])


class SealingTests(SynchronousTestCase):
    """What a copy of the database gives: nothing."""

    @settings(deadline=None)
    @given(st.binary(max_size=5000), st.text(max_size=50))
    def test_round_trip(self, private: bytes, name: str) -> None:
        """What is sealed opens with the same key and name, and never shows in the seal."""
        sealed = seal(KEY, name, private)
        self.assertEqual(unseal(KEY, name, sealed), private)
        self.assertTrue(len(private) < 8 or private not in sealed)
        self.assertNotEqual(seal(KEY, name, private), sealed)

    def test_nothing_else_opens_it(self) -> None:
        """Another key, another row, one changed bit, a cut end, no seal at all."""
        sealed = seal(KEY, "a", b"secret")
        for key, name, octets in (
            (SealingKey(bytes(32)), "a", sealed),
            (KEY, "b", sealed),
            (KEY, "a", sealed[:-1] + bytes([sealed[-1] ^ 1])),
            (KEY, "a", sealed[:-1]),
            (KEY, "a", b"\x02" + sealed[1:]),
            (KEY, "a", b""),
        ):
            error = self.assertRaises(MailsvcError, unseal, key, name, octets)
            self.assertIn("import the certificate again", str(error))

    def test_the_key_file(self) -> None:
        """It is made private and read back; every way in which it can be wrong is a sentence with its path."""
        path = Path(self.mktemp())
        key = make_key_file(path)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(sealing_key(path, {}), key)
        self.assertRaises(MailsvcError, make_key_file, path)
        path.chmod(0o644)
        self.assertIn("chmod 600", str(self.assertRaises(MailsvcError, sealing_key, path, {})))
        path.chmod(0o600)
        path.write_text("too short")
        self.assertIn("64 hexadecimal digits", str(self.assertRaises(MailsvcError, sealing_key, path, {})))
        path.unlink()
        self.assertIn("does not exist", str(self.assertRaises(MailsvcError, sealing_key, path, {})))

    def test_systemds_credential(self) -> None:
        """Taken when no file is named; its mode is systemd's business. Without both there is no key."""
        folder = Path(self.mktemp())
        folder.mkdir()
        environ = {"CREDENTIALS_DIRECTORY": str(folder)}
        self.assertIsNone(sealing_key("", environ))
        self.assertIsNone(sealing_key("", {}))
        key = make_key_file(folder / "certificate-key")
        (folder / "certificate-key").chmod(0o644)
        self.assertEqual(sealing_key("", environ), key)


class GlancingTests(OfflineCase):
    """Looking at rows before the service has opened its database."""

    def test_nothing_is_made_or_upgraded(self) -> None:
        """No database, or one of an older schema: there are no rows, and nothing changes."""
        with glancing(self.path, 8) as txn:
            self.assertIsNone(txn)
        self.assertFalse(Path(self.path).exists())
        with self.transaction() as txn:
            certificates.put_certificate(txn, ROW, 1.0)
        with glancing(self.path, 8) as txn:
            assert txn is not None
            self.assertEqual(len(certificates.certificates(txn)), 1)
        with glancing(self.path, 10_000) as txn:
            self.assertIsNone(txn)
