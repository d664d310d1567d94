"""The sources of this service's certificates, as its configuration names them: for the service and for `doctor`.

The folder first, then the rows: a file on this machine is nearer than a row that several machines may share, and a
postmaster with a broken database can always put a file in front of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailsvc.config import Configuration
from mailsvc.storage.certificates import CertificateRow, certificates, revisions
from mailsvc.storage.opening import glancing
from mailsvc.tls.gate import CredentialSource
from mailsvc.tls.sealing import sealing_key
from mailsvc.tls.sources import FolderSource, RowSource, passphrase_source

SCHEMA = 8
"""The first that has the rows."""


def certificate_sources(configuration: Configuration, environ: Mapping[str, str]) -> tuple[CredentialSource, ...]:
    """All sources, in the order of their precedence."""
    name = configuration.database

    def rows() -> list[CertificateRow]:
        # A database with an obstacle is reported by whoever opens it.
        with glancing(name, SCHEMA) as txn:
            return [] if txn is None else certificates(txn)

    def state() -> object:
        with glancing(name, SCHEMA) as txn:
            return None if txn is None else revisions(txn)

    return (
        FolderSource(configuration.certs, passphrase_source(environ), hostname=configuration.hostname),
        RowSource(rows, state, lambda: sealing_key(configuration.certificates.key_file, environ)),
    )
