"""Where the passphrase of a key is looked for."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.files import Reader, Source
from mailsvc.certkit.passphrase import PassphraseSource, first_line, passphrase_source
from mailsvc.errors import MailsvcError


class SourceTests(SynchronousTestCase):
    """`passphrase_source`: the environment is an argument."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.file = self.folder / "pass"
        self.file.write_bytes(b"from the file\n")
        self.credential = self.folder / "key-passphrase"

    def test_no_source_is_none(self) -> None:
        """Also when systemd gives the unit other credentials only, or the variable is empty."""
        for environ in ({}, {"MAILSVC_KEY_PASSPHRASE_FILE": ""}, {"CREDENTIALS_DIRECTORY": str(self.folder)}):
            self.assertIsNone(passphrase_source(environ)())

    def test_the_variable_wins_over_the_credential(self) -> None:
        """It is the more deliberate of the two."""
        self.credential.write_bytes(b"from systemd")
        environ = {"CREDENTIALS_DIRECTORY": str(self.folder)}
        self.assertEqual(passphrase_source(environ)(), b"from systemd")
        environ["MAILSVC_KEY_PASSPHRASE_FILE"] = str(self.file)
        self.assertEqual(passphrase_source(environ)(), b"from the file")

    def test_the_passphrase_itself_is_never_taken_from_the_environment(self) -> None:
        """The variable's value is a path; a passphrase in it is a file that does not exist."""
        source = passphrase_source({"MAILSVC_KEY_PASSPHRASE_FILE": "hunter2"})
        self.assertIn("hunter2: does not exist", str(self.assertRaises(MailsvcError, source)))

    def test_the_first_line_counts(self) -> None:
        """As for `openssl -passin file:`; spaces belong to it."""
        for data, passphrase in ((b"a b \n", b"a b "), (b"a\r\nb\n", b"a"), (b"a", b"a"), ("ä".encode(), "ä".encode())):
            self.assertEqual(first_line(Source(self.file, data)), passphrase)
        for data in (b"", b"\n", b"\r\n", b"\nsecond"):
            self.assertRaises(MailsvcError, first_line, Source(self.file, data))

    def test_a_file_that_others_can_read_is_a_warning(self) -> None:
        """But not systemd's, whose mode shows an access list's mask."""
        self.file.chmod(0o644)
        reader = Reader(self.file.stat().st_uid, frozenset())
        (finding,) = PassphraseSource(self.file).findings(reader)
        self.assertEqual(finding.severity, "warning")
        self.assertEqual(PassphraseSource(self.file, guarded=True).findings(reader), [])
        self.assertEqual(PassphraseSource(None).findings(reader), [])
