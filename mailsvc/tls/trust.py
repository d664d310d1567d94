"""What each listener demands of its clients, read from the settings and their files, now and again.

Roots and revocation lists are files that change: a CA signs a new list every month or every day. So they are looked at
like certificates are, on SIGHUP and every few seconds, and when something cannot be read or is no such thing the last
good ones stay and the log says why, once. Which files those are is `mailsvc.config`'s, what a policy does
`mailsvc.tls.verify`'s.

The hardest idea: everything is read here, in a thread, into values (`OnlyThese`). When a renewed certificate of our own
makes new contexts, no file of anybody's roots is opened, and a folder that is not mounted just then cannot stop it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mailsvc.certkit.files import read
from mailsvc.certkit.revocation import list_problems, read_lists
from mailsvc.config import Configuration
from mailsvc.errors import MailsvcError, StartRefused
from mailsvc.mail.channel import safe_text
from mailsvc.tls.chain import label
from mailsvc.tls.policy import Asking, ClientCertificatePolicy, ListenerPolicy
from mailsvc.tls.recheck import spki_digest
from mailsvc.tls.reload import Threads
from mailsvc.tls.roots import NoRoots, OnlyThese, RootsFile, RootsFolder, Trust
from mailsvc.tls.server import ServerTLS
from mailsvc.tls.verify import read_roots

LIST_SUFFIXES = frozenset({".pem", ".crl"})


@dataclass(frozen=True, slots=True)
class Demand:
    """What the settings say of one listener; ``roots`` and ``crls`` are files or folders, None for none."""

    asking: Asking = Asking.OFF
    roots: Path | None = None
    crls: Path | None = None
    tickets: bool = True


@dataclass(frozen=True, slots=True)
class Trusted:
    """What was read: the listeners' policies, and the CAs (SPKI SHA-256) that may vouch for mail addresses."""

    policies: Mapping[str, ListenerPolicy] = field(default_factory=dict)
    vouching: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TrustSource:
    """The settings of all listeners; ``vouching``: the file or folder of the CAs that may vouch, None for nobody."""

    demands: Mapping[str, Demand]
    vouching: Path | None = None

    def state(self) -> object:
        """Another value after any change of the files; blocks."""
        paths = {path for each in self.demands.values() for path in (each.roots, each.crls) if path is not None}
        if self.vouching is not None:
            paths.add(self.vouching)
        return {path: _state(path) for path in paths}

    def read(self) -> Trusted:
        """Everything, from the files; blocks.  Raises `StartRefused` with all that is wrong."""
        problems: list[str] = []
        policies: dict[str, ListenerPolicy] = {}
        for name, demand in self.demands.items():
            try:
                policies[name] = ListenerPolicy(_policy(demand), demand.tickets)
            except MailsvcError as error:
                problems.append(f"client_certificates.{name}: {error}")
        vouching: frozenset[str] = frozenset()
        try:
            if self.vouching is not None:
                vouching = frozenset(map(spki_digest, _roots(self.vouching)))
        except MailsvcError as error:
            problems.append(f"accounts.certificate_cas: {error}")
        if problems:
            raise StartRefused(problems)
        return Trusted(policies, vouching)


def trust_source(configuration: Configuration) -> TrustSource:
    """What the listeners demand of their clients, as the settings say it."""
    demands = {
        each.name: Demand(Asking(wanted.mode), wanted.roots, wanted.crls, wanted.tickets)
        for each in fields(configuration.client_certificates)
        for wanted in [getattr(configuration.client_certificates, each.name)]
    }
    if configuration.listen.recipients:
        # Backup servers are known by their keys, whoever has signed them; what is not known gets nothing there.
        demands["recipients"] = Demand(Asking.ASK, tickets=False)
    return TrustSource(demands, configuration.accounts.certificate_cas)


def list_remarks(trust: Trust, now: datetime) -> list[tuple[Literal["error", "warning"], str]]:
    """What is wrong with the revocation lists of a policy that was read, or soon will be, each with its CA."""
    roots = trust.roots.certificates if isinstance(trust.roots, OnlyThese) else ()
    found: list[tuple[Literal["error", "warning"], str]] = []
    for each in trust.crls:
        issuers = [root for root in roots if root.subject == each.issuer]
        for issuer in issuers[:1]:
            found += [(how, f"the list of {label(issuer)} {text}") for how, text in list_problems(each, issuer, now)]
        if not issuers:
            called = safe_text(each.issuer.rfc4514_string())
            found.append(
                ("warning", f"the list of {called} is of a CA that is not among the roots; it changes nothing")
            )
    return found


class LiveTrust:
    """Keeps the policies of ``tls`` as the files are, between `start` and `stop`.

    ``look``: seconds between two looks.  ``in_thread`` runs what blocks.
    """

    _log = Logger()

    def __init__(
        self,
        source: TrustSource,
        trusted: Trusted,
        tls: ServerTLS,
        clock: IReactorTime,
        in_thread: Threads,
        *,
        look: float = 10.0,
    ) -> None:
        self.vouching = trusted.vouching
        self._source = source
        self._tls = tls
        self._clock = clock
        self._in_thread = in_thread
        self._pace = look
        self._state: object = None
        self._told = ""
        self._running = False
        self._timer: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._wanted = False

    def start(self) -> None:
        """The reactor runs: begin.  A first look follows at once."""
        self._running = True
        self._look_by_itself()

    def stop(self) -> Deferred[None]:
        """Fires when no look is under way any more."""
        self._running = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._looking is None:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._looking.addBoth(lambda _: done.callback(None))
        return done

    def reload(self) -> None:
        """Look now, whether anything seems changed or not, and say again what is wrong."""
        self._state, self._told = None, ""
        self._look()

    def _look_by_itself(self) -> None:
        self._timer = self._clock.callLater(self._pace, self._look_by_itself)
        if self._looking is None:
            self._look()

    def _look(self) -> None:
        if not self._running:
            return
        if self._looking is not None:
            self._wanted = True
            return
        self._looking = Deferred()
        Deferred.fromCoroutine(self._look_once()).addBoth(self._ended)

    def _ended(self, result: object) -> None:
        done, self._looking = self._looking, None
        assert done is not None
        done.callback(None)
        wanted, self._wanted = self._wanted, False
        if wanted:
            self._look()

    async def _look_once(self) -> None:
        try:
            # Asked before the reading: a change in between makes another look follow.
            state = await self._in_thread(self._source.state)
            if state == self._state:
                return
            trusted: Trusted = await self._in_thread(self._source.read)
            if self._running:
                self._take(trusted)
                self._state, self._told = state, ""
        except (MailsvcError, SSL.Error) as error:
            self._tell(str(error))
        except Exception:
            self._log.failure("a defect: the CAs of clients could not be looked at; the last good ones stay in use")

    def _take(self, trusted: Trusted) -> None:
        self.vouching = trusted.vouching
        if trusted.policies != self._tls.policies:
            self._tls.demand(trusted.policies)
            self._log.info("the CAs and revocation lists for clients' certificates have changed, and are in use")

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            self._log.error("the CAs of clients stay as they are: {why}", why=why)


def _policy(demand: Demand) -> ClientCertificatePolicy:
    if demand.asking is Asking.OFF:
        return ClientCertificatePolicy()
    roots = NoRoots() if demand.roots is None else OnlyThese(_roots(demand.roots))
    crls = () if demand.crls is None else _lists(demand.crls)
    return ClientCertificatePolicy(demand.asking, Trust(roots, crls))


def _roots(path: Path) -> tuple[x509.Certificate, ...]:
    return read_roots(Trust(RootsFolder(path) if os.path.isdir(path) else RootsFile(path)))


def _lists(path: Path) -> tuple[x509.CertificateRevocationList, ...]:
    if not os.path.isdir(path):
        return read_lists(read(path))
    files = _files(path, LIST_SUFFIXES)
    if not files:
        # A folder that is not mounted just now must not make good what was revoked.
        raise MailsvcError(f"{path}: this folder of revocation lists has no *.pem or *.crl in it; put them there")
    return tuple(each for file in files for each in read_lists(read(file)))


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    except OSError as error:
        raise MailsvcError(f"{folder}: this folder cannot be read ({error.strerror}); check the path") from error


def _state(path: Path) -> object:
    """What changes when the file changes, or a file in the folder."""
    try:
        files = sorted(path.iterdir()) if os.path.isdir(path) else [path]
    except OSError as error:
        return error.errno
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> object:
    try:
        status = file.stat()
    except OSError as error:
        return str(file), error.errno
    return str(file), status.st_ino, status.st_size, status.st_mtime_ns
