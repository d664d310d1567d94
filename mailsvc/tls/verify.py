"""Recording every error of a certificate check while the handshake runs, for clients and servers alike; and the
server's half of it: asking clients for a certificate.

`Record` belongs to one connection. The verify callback writes down each certificate and each error and lets
OpenSSL go on, so that nothing hides behind the first mistake; only at the end of the check is it decided
whether the handshake may finish. What the errors mean is left to `mailsvc.tls.chain`, the client's half to
`mailsvc.tls.client`.

Facts about OpenSSL and pyOpenSSL that shape this module. Once a callback has let an error pass, OpenSSL's
verdict looks fine: only the record knows. The callback's last call without an error is for depth 0, behind
signatures and dates; name constraints come later still, with an error of their own. A resumed session calls
nothing at all, so an empty record beside a peer's certificate *means* resumption (RFC 8446 section 2.2).
A refusal ends the handshake with an alert that says why (`mailsvc.tls.alerts`), and `do_handshake` raises it
here: so `HandshakeRefused` is an `SSL.Error`, and Twisted hands it to `connectionLost`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto

from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import read_chain
from mailsvc.certkit.names import Names, names_of
from mailsvc.errors import MailsvcError
from mailsvc.mail.channel import NO_CERTIFICATE, NOT_ASKED, ClientCertificate, Failed, Resumed, Verified, safe_text
from mailsvc.tls.alerts import OTHER, JudgedConnection, error_for, verifying
from mailsvc.tls.chain import ChainFinding, briefly, explain, finding, merged
from mailsvc.tls.policy import Asking, ClientCertificatePolicy
from mailsvc.tls.recheck import Purpose, check_again, is_pinned, spki_digest
from mailsvc.tls.roots import OnlyThese, RootsFile, RootsFolder, SystemRoots, Trust

DEPTH_LIMIT = 10
"""Intermediate CAs in a chain; each certificate costs a signature check, and real chains have three."""

ERROR_LIMIT = 50
"""Errors that are kept of one check."""

ROOT_SUFFIXES = frozenset({".pem", ".crt", ".cer"})


class HandshakeRefused(MailsvcError, SSL.Error):
    """We ended a handshake because of the peer's certificate; `str(error)` is every reason, a sentence each.

    ``kinds``: those of the findings, for the alert."""

    def __init__(self, reasons: Iterable[str], kinds: Iterable[str] = ()) -> None:
        self.reasons = tuple(reasons)
        self.error = error_for(kinds)
        # The form of OpenSSL's own errors: Twisted looks into it to tell this from an early end of the stream.
        super().__init__([("mailsvc", "", str(self))])

    def __str__(self) -> str:
        return "; ".join(self.reasons)


@contextmanager
def checking(whom: str) -> Iterator[None]:
    """Turns any exception in here into a refusal. A mistake of ours must end the handshake, not the process or the
    check."""
    try:
        yield
    except HandshakeRefused:
        raise
    except Exception as error:
        text = f"the {whom}'s certificate could not be checked ({type(error).__name__}: {error}), so it is refused"
        raise HandshakeRefused([safe_text(f"{text}; please report this mistake")]) from error


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a full handshake saw: the chain that OpenSSL built (the peer's certificate first, its root last), the
    one that the peer sent, and OpenSSL's errors. It is what a resumed session is judged by."""

    chain: tuple[x509.Certificate, ...] = ()
    sent: tuple[x509.Certificate, ...] = ()
    errors: tuple[ChainFinding, ...] = ()

    def findings(self, trust: Trust, purpose: Purpose, now: datetime) -> tuple[ChainFinding, ...]:
        """OpenSSL's errors, those of the second look now, and what the pins say; never empty without a chain."""
        if not self.chain:
            text = "the peer's certificate was not checked in this session, so it proves nothing"
            return merged([*self.errors, finding("unverifiable", 0, text)])
        # Where both looks found the same, the second says more about it.
        again = check_again(self.chain, purpose, now)
        return merged([*again, *self.errors, *pin_findings(self.chain[0], trust)])


@dataclass(slots=True)
class Record:
    """What the check of one connection's peer has found so far.

    `called`: the check has begun. `settled`: OpenSSL has checked all signatures and dates, so that now is the
    time to decide; whatever comes later is an error that decides alone.
    """

    trust: Trust
    certificates: dict[int, x509.Certificate] = field(default_factory=dict)
    errors: list[ChainFinding] = field(default_factory=list)
    called: bool = False
    settled: bool = False

    def note(self, certificate: crypto.X509, number: int, depth: int, ok: bool) -> None:
        """Take one call of OpenSSL's verify callback. Never raises."""
        self.called = True
        self.settled = self.settled or (ok and depth == 0)
        parsed: x509.Certificate | None
        try:
            parsed = certificate.to_cryptography()
            self.certificates[depth] = parsed
        except Exception:  # what OpenSSL can read and cryptography cannot is not to be trusted
            parsed, ok = None, False
        if ok or len(self.errors) >= ERROR_LIMIT:
            return
        try:
            found = None if self._no_list(number, parsed) else explain(number, depth, parsed)
        except Exception:  # the parts of a certificate are parsed when they are asked for
            found = explain(number, depth, None)
        if found is not None:
            self.errors.append(found)

    def evidence(self, sent: tuple[x509.Certificate, ...] = ()) -> Evidence:
        """The record as a value."""
        chain: list[x509.Certificate] = []
        while len(chain) in self.certificates:
            chain.append(self.certificates[len(chain)])
        return Evidence(tuple(chain), sent, tuple(self.errors))

    def _no_list(self, number: int, certificate: x509.Certificate | None) -> bool:
        """Whether this says only that there is no revocation list of a CA for which nobody gave one."""
        if number != SSL.X509VerificationCodes.ERR_UNABLE_TO_GET_CRL or certificate is None:
            return False
        return all(each.issuer != certificate.issuer for each in self.trust.crls)


class CheckedConnection(JudgedConnection):
    """A connection with room for its record. (`set_app_data` is not ours: Twisted puts its protocol there.)"""

    record: Record | None = None


def pin_findings(certificate: x509.Certificate, trust: Trust) -> tuple[ChainFinding, ...]:
    """What the pins have against a certificate: nothing when there are none."""
    if not trust.pins or is_pinned(certificate, trust.pins):
        return ()
    text = "the certificate's public key is not one that is pinned; ask its owner whether the key was changed"
    return (finding("pin", 0, text),)


def fill_store(context: SSL.Context, trust: Trust) -> None:
    """Make a fresh context trust these roots, with these revocation lists.

    Reads files. Raises MailsvcError when a file or folder with roots cannot be read or has none.
    """
    context.set_verify_depth(DEPTH_LIMIT)
    store = context.get_cert_store()
    if store is None:  # OpenSSL makes one with every context
        raise MailsvcError("OpenSSL has no memory for trusted certificates; give the process more")
    if isinstance(trust.roots, SystemRoots):
        context.set_default_verify_paths()
    else:
        for certificate in dict.fromkeys(read_roots(trust)):
            store.add_cert(crypto.X509.from_cryptography(certificate))
        # Roots that somebody named are trusted whatever they are: an intermediate CA, or one server's certificate.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    if trust.crls:
        for crl in trust.crls:
            store.add_crl(crl)
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)


def read_roots(trust: Trust) -> tuple[x509.Certificate, ...]:
    """The certificates of roots that somebody named; none for the system's. Raises MailsvcError."""
    roots = trust.roots
    if isinstance(roots, OnlyThese):
        return roots.certificates
    if isinstance(roots, RootsFile):
        return _read_file(roots.path)
    if isinstance(roots, RootsFolder):
        return tuple(certificate for path in _files(roots.path) for certificate in _read_file(path))
    return ()


def _files(folder: Path) -> Iterator[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in ROOT_SUFFIXES)
    except OSError as error:
        text = f"{folder}: this folder of trusted roots cannot be read ({error.strerror}); check the path"
        raise MailsvcError(text) from error
    if not paths:
        raise MailsvcError(f"{folder}: this folder of trusted roots has no *.pem, *.crt or *.cer in it; put them there")
    yield from paths


def _read_file(path: Path) -> tuple[x509.Certificate, ...]:
    chain, findings = read_chain(read(path))
    if findings:
        raise MailsvcError("; ".join(str(each) for each in findings))
    return chain


def _utc_now() -> datetime:
    return datetime.now(UTC)


def ask_clients(context: SSL.Context, policy: ClientCertificatePolicy, now: Callable[[], datetime] = _utc_now) -> None:
    """Make a fresh server context ask its clients for a certificate, as the policy says.

    Every context that SNI may choose needs this: OpenSSL takes the trusted roots from the chosen one, the rest
    from the first. Connections must be `CheckedConnection(context, None)`. Tickets are switched off unless the
    policy is OFF, because a resumed session is not checked. Reads the files of the roots; raises MailsvcError.
    """
    if policy.asking is Asking.OFF:
        context.set_verify(SSL.VERIFY_NONE)
        return
    fill_store(context, policy.trust)
    # The list in the CertificateRequest helps a client to choose one (RFC 8446 section 4.2.4). Roots of a whole
    # system would only make the handshake long.
    for certificate in read_roots(policy.trust)[:20]:
        context.add_client_ca(certificate)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)

    def check(connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, ok: bool) -> int:
        if not isinstance(connection, CheckedConnection):
            return OTHER  # it has no room for what is found
        record = connection.record = connection.record or Record(policy.trust)
        record.note(certificate, number, depth, ok)
        if policy.asking is not Asking.REQUIRE or not record.settled:
            return 0
        try:
            with checking("client"):
                seen = _seen(record, now())
                if isinstance(seen, Failed):
                    raise HandshakeRefused(seen.reasons, seen.kinds)
        except HandshakeRefused as refused:
            connection.refused = refused
            return refused.error
        return 0

    mode = SSL.VERIFY_PEER
    if policy.asking is Asking.REQUIRE:
        mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    verifying(context, mode, check)


def client_certificate(connection: SSL.Connection, now: datetime) -> ClientCertificate:
    """What is known of the client's certificate on a server's connection whose handshake has finished."""
    if connection.get_verify_mode() == SSL.VERIFY_NONE:
        return NOT_ASKED
    if isinstance(connection, CheckedConnection) and connection.record is not None:
        return _seen(connection.record, now)
    certificate = connection.get_peer_certificate()
    if certificate is None:
        return NO_CERTIFICATE
    try:
        parsed = certificate.to_cryptography()
        return Resumed(parsed.subject.rfc4514_string(), spki_digest(parsed))
    except Exception:
        return Resumed()


def _seen(record: Record, now: datetime) -> Verified | Failed:
    """The value for a certificate that was checked in this session."""
    evidence = record.evidence()
    findings, chain = evidence.findings(record.trust, Purpose.CLIENT, now), evidence.chain
    try:
        leaf = chain[0]
        subject, issuer = leaf.subject.rfc4514_string(), leaf.issuer.rfc4514_string()
        names, digest = names_of(leaf), spki_digest(leaf)
    except Exception:
        text = "the certificate is malformed and cannot be read"
        found = findings or (finding("malformed", 0, text),)
        return Failed(tuple(each.text for each in found), kinds=tuple(each.kind for each in found))
    if findings:
        reasons, kinds = tuple(each.text for each in findings), tuple(each.kind for each in findings)
        brief = dict.fromkeys(
            briefly(each, chain[each.depth] if each.depth < len(chain) else None) for each in findings
        )
        lists = bool(record.trust.crls)
        return Failed(reasons, subject, issuer, _texts(names), digest, kinds, tuple(brief), lists)
    return Verified(subject, issuer, _texts(names), digest, names.emails, spki_digest(chain[-1]))


def _texts(names: Names) -> tuple[str, ...]:
    return (*names.hosts, *map(str, names.addresses), *names.emails)
