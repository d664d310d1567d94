"""TLS towards servers: what the relay, `mailsvc send`, the probe and every HTTPS fetch connect with.

How to use it::

    client = ClientTLS(ServerPolicy(Level.NAME, Trust(SystemRoots())), sessions=SessionStore(now))
    creator = client.to("mail.example.org", 25)          # one destination; any number of connections
    transport.startTLS(creator)                          # STARTTLS; or wrapClientTLS(creator, endpoint)
    identity = server_identity(transport)                # in handshakeCompleted(): a ServerIdentity, or None
    keep_session(transport)                              # before the connection is closed: resume it next time

A server that proves less than the policy requires never sees an octet of the application: `connectionLost`
gets a `ServerRefused`, which says every reason and holds the `ServerIdentity`. What is wrong below the
requirement is recorded, reported and tolerated. Every check is made twice: by OpenSSL while the handshake
runs, and by `mailsvc.tls.recheck` (with `service_identity` for the name) on what was recorded. Any exception
of a check refuses.

The hardest idea is *when* to refuse. At the end of OpenSSL's chain check, inside its callback, the handshake
can still end with an alert (RFC 8446 section 6.2) and before our own certificate is shown; there all is
decided that is known there. What is known only later (the certificates that were sent, for DANE; that a
session was resumed, which calls no callback at all) is decided when the handshake is done. Two facts about
Twisted: an exception in OpenSSL's info callback is only printed and the connection goes on, so nothing may
escape from it; and `handshakeCompleted` is called even after `failVerification`, so whoever acts there asks
`server_identity(...).verdict.met` first. What it writes is dropped in any case.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.certkit.names import normal
from mailsvc.errors import MailsvcError
from mailsvc.mail.channel import safe_text
from mailsvc.tls.alerts import OTHER, JudgedConnection, verifying
from mailsvc.tls.chain import finding
from mailsvc.tls.dane import TLSARecord, match_tlsa
from mailsvc.tls.levels import Level, observed
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.recheck import Purpose, check_name, is_pinned
from mailsvc.tls.roots import NoRoots
from mailsvc.tls.sessions import KeptSession, SessionKey, SessionStore
from mailsvc.tls.verify import Evidence, HandshakeRefused, Record, checking, fill_store

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol

CIPHERS_VERIFIED = b"ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
"""For TLS 1.2 where a server must be verified: forward secret, authenticated encryption."""

CIPHERS_ANY = b"DEFAULT:!aNULL:!eNULL:@SECLEVEL=1"
"""For TLS 1.2 where any encryption is better than none: an old server's weak key is reported, not refused."""

_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")

OPTIONS = SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION


class ServerRefused(HandshakeRefused):
    """The server proved less than the policy requires. `identity` tells everything that was seen."""

    def __init__(self, identity: ServerIdentity) -> None:
        self.identity = identity
        super().__init__(identity.reasons, [each.kind for each in identity.findings])


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ClientTLS:
    """One policy for servers, with the OpenSSL context that is made from it once.

    `sessions` keeps sessions for resumption; without it every handshake is a full one. `staples`: ask servers for
    an OCSP response, which `server_staple` gives; no check depends on it. Make a new ClientTLS to read roots or a
    credential again. Raises MailsvcError when the roots cannot be read, OpenSSL.SSL.Error when OpenSSL refuses the
    credential.
    """

    def __init__(
        self,
        policy: ServerPolicy,
        *,
        sessions: SessionStore | None = None,
        staples: bool = False,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.policy = policy
        self._sessions = sessions
        self._staples = staples
        self._now = now
        self._context = _make_context(policy)

    def to(
        self,
        server_name: str,
        port: int,
        *,
        host: str | None = None,
        tlsa: Sequence[TLSARecord] = (),
        tlsa_names: Sequence[str] = (),
    ) -> Destination:
        """A server to connect to. `server_name`, a host name or an IP address, is what its certificate must
        name, and the SNI. `host`: where the connection really goes, when that is another name or address.

        `tlsa`: its TLSA records, from a DNSSEC-validating resolver; `tlsa_names`: further names that a
        certificate under DANE-TA may cover (the next-hop domain, RFC 7672 section 3.2.2). Raises MailsvcError for
        a `server_name` that is neither a host name nor an address.
        """
        name = normal(server_name.strip("[]"))
        if not _is_address(name) and (len(name) > 253 or not _HOST_NAME.fullmatch(name)):
            raise MailsvcError(f"{safe_text(server_name)} is not a host name or an IP address; give the server's name")
        key = SessionKey(host or name, port, name, self.policy)
        return Destination(self, key, tuple(tlsa), (name, *tlsa_names))

    def _connect(self, destination: Destination, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = _ClientConnection(self._context, None)
        kept = self._sessions.take(destination.key) if self._sessions is not None else None
        if kept is not None and kept.context is not self._context:
            kept = None  # it was checked against roots that are not ours any more
        connection.attempt = _Attempt(destination, Record(self.policy.trust), kept, self._now, protocol, self._sessions)
        name = destination.key.server_name
        if not _is_address(name):
            connection.set_tlsext_host_name(name.encode("ascii"))
        if kept is not None:
            connection.set_session(kept.session)
        if self._staples:
            connection.request_ocsp()
        return connection


@implementer(IOpenSSLClientConnectionCreator)
@dataclass(frozen=True, slots=True)
class Destination:
    """One server; what `startTLS`, `TLSMemoryBIOFactory` and `wrapClientTLS` take. Made by `ClientTLS.to`."""

    client: ClientTLS
    key: SessionKey
    tlsa: tuple[TLSARecord, ...]
    names: tuple[str, ...]

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection that checks as the policy says (Twisted's interface)."""
        return self.client._connect(self, tlsProtocol)


def server_identity(transport: object) -> ServerIdentity | None:
    """What is known of the server at the other end; None before the handshake has finished, without TLS, or after
    the connection ended. Takes what `mailsvc.tls.server.tls_facts` takes."""
    attempt = _attempt_of(transport)
    return None if attempt is None else attempt.identity


def server_staple(transport: object) -> bytes:
    """The OCSP response (DER) that the server showed in its handshake, not checked; b"" for none (RFC 6066)."""
    attempt = _attempt_of(transport)
    return b"" if attempt is None else attempt.staple


def keep_session(transport: object) -> bool:
    """Keep the session of this connection for the next one to the same place. True when something was kept.

    Call it when the conversation is over, before `loseConnection`: with TLS 1.3 the ticket comes behind the
    handshake, with or before the first octets of the server. OpenSSL spoils the session of a connection that ends
    without a close_notify of either side; the next handshake is then a full one.
    """
    attempt = _attempt_of(transport)
    connection = _connection_of(transport)
    if attempt is None or connection is None or attempt.sessions is None:
        return False
    identity, session = attempt.identity, connection.get_session()
    if identity is None or session is None or not identity.verdict.met:
        return False
    first = attempt.kept.first if identity.resumed and attempt.kept is not None else attempt.began
    kept = KeptSession(session, connection.get_context(), attempt.evidence, first)
    attempt.sessions.keep(attempt.destination.key, kept)
    return True


@dataclass(slots=True)
class _Attempt:
    """One connection: what is wanted, what the check recorded, and in the end what it all means."""

    destination: Destination
    record: Record
    kept: KeptSession | None
    now: Callable[[], datetime]
    protocol: TLSMemoryBIOProtocol
    sessions: SessionStore | None
    began: datetime = field(init=False)
    evidence: Evidence = field(default_factory=Evidence)
    identity: ServerIdentity | None = None
    staple: bytes = b""

    def __post_init__(self) -> None:
        self.began = self.now()

    def check(self, connection: SSL.Connection, evidence: Evidence, *, resumed: bool) -> ServerIdentity:
        """Everything that is known now, judged."""
        policy, now = self.destination.client.policy, self.now()
        trust, name = policy.trust, self.destination.key.server_name
        chain_findings = evidence.findings(trust, Purpose.SERVER, now)
        name_findings = check_name(evidence.chain[0], name) if evidence.chain else ()
        # A weak key may be another's by now, whoever vouches for it.
        sound = bool(evidence.chain) and all((each.kind, each.depth) != ("weak-key", 0) for each in chain_findings)
        pinned = sound and bool(trust.pins) and is_pinned(evidence.chain[0], trust.pins)
        alone = pinned and isinstance(trust.roots, NoRoots)
        dane = None
        if self.destination.tlsa:
            dane = match_tlsa(evidence.sent, self.destination.tlsa, self.destination.names, now)
        level = observed(
            encrypted=True,
            chain=alone or not chain_findings,
            name=alone or (bool(evidence.chain) and not name_findings),
            dane=sound and dane is not None and dane.matched and (pinned or not trust.pins),
        )
        return ServerIdentity(
            server_name=name,
            required=policy.required,
            level=level,
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name(),
            bits=connection.get_cipher_bits(),
            group=connection.get_group_name(),
            chain=evidence.chain,
            sent=evidence.sent,
            chain_findings=chain_findings,
            name_findings=name_findings,
            pinned=pinned,
            dane=dane,
            resumed=resumed,
        )

    def finish(self, connection: SSL.Connection) -> None:
        """The handshake is done: judge it by what was recorded now, or when the session was new. Raises
        ServerRefused."""
        resumed = not self.record.called
        if not resumed:
            self.evidence = self.record.evidence(_sent(connection))
        elif self.kept is not None:
            self.evidence = self.kept.evidence
        # The certificate of the session and the one that was checked are the same, or nothing was checked.
        if self.evidence.chain and _sent(connection)[:1] != self.evidence.chain[:1]:
            text = "the server's certificate is not the one that was checked"
            self.evidence = Evidence(errors=(finding("unverifiable", 0, text),))
        self.identity = self.check(connection, self.evidence, resumed=resumed)
        if not self.identity.verdict.met:
            raise ServerRefused(self.identity)


class _ClientConnection(JudgedConnection):
    """A connection that knows its attempt. (`set_app_data` is not ours: Twisted puts its protocol there.)"""

    attempt: _Attempt


def _make_context(policy: ServerPolicy) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS_VERIFIED if policy.required >= Level.CHAIN else CIPHERS_ANY)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # ours is `SessionStore`
    fill_store(context, policy.trust)
    if (credential := policy.credential) is not None:
        context.use_certificate(credential.leaf)
        for certificate in credential.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(credential.key)
        context.check_privatekey()
    verifying(context, SSL.VERIFY_PEER, _on_certificate)
    context.set_info_callback(_on_progress)
    context.set_ocsp_client_callback(_on_staple)
    return context


def _on_certificate(connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, ok: bool) -> int:
    """OpenSSL's verify callback. What it answers, when that is not 0, ends the handshake with an alert."""
    if not isinstance(connection, _ClientConnection):
        return OTHER  # nobody else has our contexts
    attempt = connection.attempt
    attempt.record.note(certificate, number, depth, ok)
    # With TLSA records the certificates that were sent decide, and OpenSSL knows them only later.
    if not attempt.record.settled or attempt.destination.tlsa:
        return 0
    try:
        with checking("server"):
            identity = attempt.check(connection, attempt.record.evidence(), resumed=False)
            if not identity.verdict.met:
                raise ServerRefused(identity)
    except HandshakeRefused as refused:
        connection.refused = refused
        return refused.error
    return 0


def _on_progress(connection: SSL.Connection, where: int, ret: int) -> None:
    """OpenSSL's info callback. Nothing may escape from here: it would be printed and forgotten."""
    if not where & SSL.SSL_CB_HANDSHAKE_DONE:
        return
    attempt = _attempt(connection)
    try:
        with checking("server"):
            attempt.finish(connection)
    except BaseException:
        attempt.protocol.failVerification(Failure())


def _on_staple(connection: SSL.Connection, staple: bytes, _: object) -> bool:
    """OpenSSL's callback for the OCSP response. It is only kept."""
    _attempt(connection).staple = staple
    return True


def _sent(connection: SSL.Connection) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(connection.get_peer_cert_chain(as_cryptography=True) or ())
    except ValueError:
        return ()


def _connection_of(transport: object) -> SSL.Connection | None:
    get_handle: Callable[[], object] | None = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    return handle if isinstance(handle, SSL.Connection) else None


def _attempt_of(transport: object) -> _Attempt | None:
    connection = _connection_of(transport)
    return connection.attempt if isinstance(connection, _ClientConnection) else None


def _attempt(connection: SSL.Connection) -> _Attempt:
    if not isinstance(connection, _ClientConnection):  # nobody else has our contexts
        raise HandshakeRefused(["this connection was not made by ClientTLS"])
    return connection.attempt


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
