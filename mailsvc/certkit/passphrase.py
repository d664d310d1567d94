"""Where the passphrase of an encrypted key comes from: a file, never the command line or a prompt.

The environment is an argument. It may *name* a file (`MAILSVC_KEY_PASSPHRASE_FILE`, or systemd's
`CREDENTIALS_DIRECTORY` with a credential `key-passphrase` in it) and never holds the passphrase, because
every child process and `/proc` would show it. The first line counts, as for `openssl -passin file:`; a file
that an editor closed with a newline works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mailsvc.certkit.files import Reader, Source, read
from mailsvc.certkit.inspect import Finding, check_private
from mailsvc.errors import MailsvcError

VARIABLE = "MAILSVC_KEY_PASSPHRASE_FILE"
CREDENTIALS = "CREDENTIALS_DIRECTORY"
CREDENTIAL = "key-passphrase"

AUTHORITY_VARIABLE = "MAILSVC_CA_PASSPHRASE_FILE"
AUTHORITY_CREDENTIAL = "ca-passphrase"
"""The same for the private CA's key, which the service never opens: a passphrase of its own."""


@dataclass(frozen=True, slots=True)
class PassphraseSource:
    """The file that holds the keys' passphrase, if there is one. Calling it reads the file: None when there
    is none.

    `guarded` says that systemd keeps the file: its mode shows an access list's mask there, and is not judged.
    """

    path: Path | None
    guarded: bool = False

    def __call__(self) -> bytes | None:
        return None if self.path is None else first_line(read(self.path))

    def findings(self, reader: Reader) -> list[Finding]:
        """A warning when others can read the file; an error it is not, because it opens nothing without the
        key."""
        if self.path is None or self.guarded:
            return []
        return [replace(finding, severity="warning") for finding in check_private(read(self.path), reader)]


def passphrase_source(
    environ: Mapping[str, str], variable: str = VARIABLE, credential: str = CREDENTIAL
) -> PassphraseSource:
    """The file that the environment names for the keys' passphrase. A file that is named need not exist until
    it is needed."""
    if named := environ.get(variable):
        return PassphraseSource(Path(named))
    if folder := environ.get(CREDENTIALS):
        path = Path(folder) / credential
        # systemd sets the variable for any credential of the unit; only one of this name is meant for us.
        return PassphraseSource(path if path.exists() else None, guarded=True)
    return PassphraseSource(None)


def first_line(source: Source) -> bytes:
    """The passphrase in a file. Raises MailsvcError when the file cannot be read or its first line is
    empty."""
    if source.data is None:
        raise MailsvcError(f"{source.path}: {source.problem}")
    line = source.data.partition(b"\n")[0].removesuffix(b"\r")
    if not line:
        raise MailsvcError(f"{source.path}: its first line is empty; write the passphrase there")
    return line
