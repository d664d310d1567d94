"""The certificates of a running service: their sources, as the configuration names them, and what keeps them right.

The folder first, then the rows: a file on this machine is nearer than a row that several machines may share, and a
postmaster with a broken database can always put a file in front of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from mailsvc.config import Configuration
from mailsvc.storage.certificates import CertificateRow, certificates, revisions
from mailsvc.storage.opening import glancing
from mailsvc.tls.credential import Credential
from mailsvc.tls.gate import CredentialSource
from mailsvc.tls.published import Fit, check, local_lookup
from mailsvc.tls.reload import Hearer, Pace, Reloader
from mailsvc.tls.sealing import sealing_key
from mailsvc.tls.server import ServerTLS
from mailsvc.tls.sources import FolderSource, RowSource, passphrase_source
from mailsvc.tls.watching import FolderWatch

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


class LiveCertificates:
    """A `Reloader` with everything that it needs of the real world: threads, inotify, the local resolver."""

    def __init__(
        self,
        configuration: Configuration,
        sources: Sequence[CredentialSource],
        tls: ServerTLS,
        hearer: Hearer,
        reactor: Any,
    ) -> None:
        hostname = configuration.hostname

        def fits(credential: Credential) -> Fit:
            # The resolver may be another one than at the start.
            return check(credential, hostname, local_lookup(), datetime.now(UTC))

        self._watch = FolderWatch(reactor, configuration.certs, lambda: self.reloader.touched())
        self.reloader = Reloader(
            sources,
            tls,
            hostname,
            reactor,
            lambda work: deferToThreadPool(reactor, reactor.getThreadPool(), work),
            hearer,
            fits=fits,
            pace=Pace(look=configuration.certificates.look_seconds),
            watch=self._watch.look_again,
        )

    def start(self) -> None:
        """The reactor runs: begin."""
        self.reloader.start()

    def stop(self) -> Deferred[None]:
        """Fires when nothing is under way any more."""
        self._watch.stop()
        return self.reloader.stop()
