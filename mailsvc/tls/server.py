"""The one server-side TLS object that every listener shares.

It serves implicit TLS (`TLSMemoryBIOFactory(server_tls, False, factory)`) and STARTTLS or STLS
(`transport.startTLS(server_tls)`) alike: Twisted asks it for a connection, OpenSSL asks it for a certificate
by the client's SNI, and `replace` swaps the whole set of certificates while connections run. Where
credentials come from, and whether they are any good, is left to `tls.sources`.

The hardest idea: a pyOpenSSL `Context` is frozen by its first Connection. So each credential gets a Context
of its own that is complete before anything uses it, a set of them (`_Live`) is never changed, and a new table
is a new set: a connection holds the set that it began with through its context's callback, even when the
ClientHello arrives after a replacement.

Two facts that look like omissions. Nothing sets the key exchange groups, because OpenSSL's default
(X25519MLKEM768 first, then X25519 and the NIST curves) is what we want and naming a list would freeze it. And
session tickets work while the session cache is off: a cache would keep a session per visitor in memory, a
ticket keeps it at the client (RFC 8446 section 4.6.1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from mailsvc.mail.channel import TLSFacts
from mailsvc.tls.credential import Credential
from mailsvc.tls.ocsp import Staple
from mailsvc.tls.table import CredentialTable

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol

CIPHERS_TLS12 = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secret and authenticated encryption only, as Mozilla's "intermediate" list; TLS 1.3
has no other kind."""

OPTIONS = SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE

EXPORTER = b"EXPORTER-Channel-Binding"
"""The label of tls-exporter (RFC 9266 section 2)."""

_HOST_NAME = re.compile(rb"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True)
class _Live:
    """One table and the contexts made from it; the first connection freezes them all, so nothing here ever
    changes."""

    table: CredentialTable
    default: SSL.Context
    contexts: Mapping[int, SSL.Context]

    def context_for(self, server_name: str | None) -> SSL.Context:
        return self.contexts[id(self.table.lookup(server_name))]


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """What `startTLS` and `TLSMemoryBIOFactory` take. Raises OpenSSL.SSL.Error when OpenSSL refuses a
    credential."""

    def __init__(self, table: CredentialTable) -> None:
        self._live = _make_live(table)

    @property
    def table(self) -> CredentialTable:
        """The table that new connections use."""
        return self._live.table

    def replace(self, table: CredentialTable) -> None:
        """Use this table from the next connection on; those that run keep theirs.

        All contexts are made first, so that an error (OpenSSL.SSL.Error) leaves everything as it was.
        """
        self._live = _make_live(table)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection that begins with the default certificate; SNI may choose another (Twisted's
        interface)."""
        return SSL.Connection(self._live.default, None)


def openssl_refuses(credential: Credential) -> str:
    """Why OpenSSL would not serve with this credential, "" when it would: asked before a table goes live."""
    try:
        _make_context(credential)
    except SSL.Error as error:
        reasons = [entry[-1] for entry in error.args[0]] if error.args and error.args[0] else []
        return f"OpenSSL refuses it ({', '.join(map(str, reasons)) or 'it says not why'}); make one with a usual key"
    return ""


def tls_facts(transport: object) -> TLSFacts | None:
    """What the handshake on this transport negotiated; None before it has finished, without TLS, or after the
    connection ended.

    Takes the `transport` of a protocol that was wrapped by `TLSMemoryBIOFactory` or upgraded by `startTLS`.
    """
    get_handle: Callable[[], object] | None = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    if not isinstance(handle, SSL.Connection):
        return None
    cipher, bits = handle.get_cipher_name(), handle.get_cipher_bits()
    # OpenSSL knows the cipher as soon as it has chosen one; `get_finished` tells that the handshake went to
    # its end.
    if cipher is None or bits is None or handle.get_peer_finished() is None:
        return None
    return TLSFacts(handle.get_protocol_version_name(), cipher, bits, handle.get_group_name(), _server_name(handle))


def keying_material(transport: object, label: bytes, length: int) -> bytes | None:
    """Keying material that both ends of the TLS session under ``transport`` can derive (RFC 5705); None without TLS."""
    get_handle = getattr(transport, "getHandle", None)
    connection = get_handle() if get_handle is not None else None
    if not isinstance(connection, SSL.Connection):
        return None
    # RFC 9266 section 2 wants an empty context, which is not the same as none before TLS 1.3.
    return connection.export_keying_material(label, length, b"")


def can_bind(facts: TLSFacts | None) -> bool:
    """Whether tls-exporter holds: RFC 9266 section 4.2 wants the extended master secret for TLS 1.2, and pyOpenSSL does
    not tell whether it was negotiated; without it two sessions could be made to share their keying material."""
    return facts is not None and facts.version == "TLSv1.3"


def channel_binding(transport: object) -> bytes | None:
    """What binds a login to the TLS session under ``transport`` (tls-exporter, RFC 9266); None where nothing can."""
    return keying_material(transport, EXPORTER, 32) if can_bind(tls_facts(transport)) else None


def _make_live(table: CredentialTable) -> _Live:
    contexts: dict[int, SSL.Context] = {}
    live = _Live(table, _make_context(table.default), contexts)
    contexts[id(table.default)] = live.default
    for credential in table.credentials:
        if credential is not table.default:
            contexts[id(credential)] = _make_context(credential)

    def choose(connection: SSL.Connection) -> None:
        # An exception in here would only be printed by cffi and the handshake would go on: nothing below can
        # fail.
        chosen = live.context_for(_server_name(connection))
        if chosen is not live.default:
            connection.set_context(chosen)

    live.default.set_tlsext_servername_callback(choose)
    return live


def _make_context(credential: Credential) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS_TLS12)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # A session belongs to the certificate that it was made under: after a replacement a full handshake shows
    # the new one.
    context.set_session_id(credential.fingerprint)
    # Without a callback Twisted's servers abort a client that offers ALPN; no mail protocol of ours has an
    # ALPN name in use, so the answer is always that none fits, and the handshake goes on (RFC 7301 section
    # 3.2 allows both).
    context.set_alpn_select_callback(lambda connection, offered: SSL.NO_OVERLAPPING_PROTOCOLS)
    context.use_certificate(credential.leaf)
    for certificate in credential.chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(credential.key)
    context.check_privatekey()
    if credential.staple is not None:
        # Asked at each handshake of a client that wants it: what was good when it was read may have ended since.
        context.set_ocsp_server_callback(_staple, credential.staple)
    return context


def _staple(connection: SSL.Connection, staple: Staple | None) -> bytes:
    # An exception in here would only be printed by cffi: nothing can fail.
    return b"" if staple is None else staple.current(time.time())


def _server_name(connection: SSL.Connection) -> str | None:
    name = connection.get_servername()
    if name is None or len(name) > 253 or not _HOST_NAME.fullmatch(name):
        return None
    return name.decode("ascii").lower()
