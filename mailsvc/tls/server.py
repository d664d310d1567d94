"""The one server-side TLS object that every listener shares.

It serves implicit TLS (`mailsvc.wire.implicit.ImplicitTLSFactory`) and STARTTLS or STLS
(`transport.startTLS(server_tls)`) alike: Twisted asks it for a connection, OpenSSL asks it for a certificate by the
client's SNI, and `replace` swaps the whole set of certificates while connections run. Where
credentials come from, and whether they are any good, is left to `tls.sources`.

Listeners differ in what they demand of their clients (`tls.policy.ListenerPolicy`): whether a certificate is asked
for, which roots and revocation lists count, whether sessions may be resumed. Each has a *view* of this object by
its name (`ServerTLS.view`), and all views change together: there is one table.

The hardest idea: a pyOpenSSL `Context` is frozen by its first Connection. So each credential gets a Context
of its own for each policy, complete before anything uses it; a set of them (`_Live`) is never changed, and a new
table is a new set: a connection holds the set that it began with through its context's callback, even when the
ClientHello arrives after a replacement. Tickets of one set mean nothing to another, so that none of a listener that
asks for nothing opens one that does.

Within a set a session belongs to the credential that it was made under, and in TLS 1.2 to the name that was asked for,
too (RFC 6066 section 3; in TLS 1.3 the server need not care for names, RFC 8446 section 4.2.11). OpenSSL would resume
it under any, because it looks at tickets before it looks at names: so where there are tickets, the hello is read before
OpenSSL reads it (`mailsvc.tls.hello`), and the connection gets the context of its name, with a session id context of
its own, in time.

Two facts that look like omissions. Nothing sets the key exchange groups, because OpenSSL's default
(X25519MLKEM768 first, then X25519 and the NIST curves) is what we want and naming a list would freeze it. And
session tickets work while the session cache is off: a cache would keep a session per visitor in memory, a
ticket keeps it at the client (RFC 8446 section 4.6.1).

What is wrong with it: where tickets are off, OpenSSL still sends a TLS 1.3 client two session messages of 79 octets
with numbers of sessions that nobody keeps. They resume nothing; to send none at all needs a call that pyOpenSSL lacks.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from mailsvc.mail.channel import TLSFacts
from mailsvc.tls.credential import Credential
from mailsvc.tls.hello import ClientHello, HelloReader, Unreadable
from mailsvc.tls.ocsp import Staple
from mailsvc.tls.policy import Asking, ListenerPolicy
from mailsvc.tls.table import CredentialTable
from mailsvc.tls.verify import CheckedConnection, ask_clients, client_certificate

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol

CIPHERS_TLS12 = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secret and authenticated encryption only, as Mozilla's "intermediate" list; TLS 1.3
has no other kind."""

OPTIONS = SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE

EXPORTER = b"EXPORTER-Channel-Binding"
"""The label of tls-exporter (RFC 9266 section 2)."""

_HOST_NAME = re.compile(rb"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


NAMED_LIMIT = 100
"""Names that have a context of their own for clients that speak TLS 1.2 only: 26 KB each. For a further one, and for
one that no certificate has exactly, such a client gets no ticket."""

DEFAULT_POLICY = ListenerPolicy()
"""Of a listener of which nothing was said: it asks for no certificate, and sessions may be resumed."""


@dataclass(frozen=True)
class _Live:
    """One table and the contexts made from it for one policy; the first connection freezes them all, so nothing here
    ever changes, but that contexts for names are made when they are first asked for.

    `default` is for those who ask for no name; `contexts` by credential for the others, `named` by name for those of
    them who speak TLS 1.2.
    """

    table: CredentialTable
    policy: ListenerPolicy
    default: SSL.Context
    contexts: Mapping[int, SSL.Context]
    named: dict[str, SSL.Context] = field(default_factory=dict)

    def context_for(self, server_name: str | None) -> SSL.Context:
        return self.default if server_name is None else self.contexts[id(self.table.lookup(server_name))]

    def context_of_name(self, server_name: str) -> SSL.Context | None:
        """For TLS 1.2: a context whose sessions are resumed under this name only; None when there is none."""
        context = self.named.get(server_name)
        if context is None and server_name in self.table.by_name and len(self.named) < NAMED_LIMIT:
            credential = self.table.by_name[server_name]
            context = self.named[server_name] = _make_context(credential, self.policy, server_name)
        return context


class _ServerConnection(CheckedConnection):
    """A connection that gets the context of the name that its client asks for before OpenSSL looks at tickets."""

    live: _Live
    hello: HelloReader | None = None

    def bio_write(self, buf: bytes | bytearray | memoryview) -> int:
        """Take octets of the client (pyOpenSSL's method, called by Twisted)."""
        if self.hello is not None:
            found = self.hello.feed(bytes(buf))
            if found is not None:
                self.hello = None
                self._heard(found)
        return super().bio_write(buf)

    def _heard(self, hello: ClientHello | Unreadable) -> None:
        if isinstance(hello, Unreadable):
            self.set_options(SSL.OP_NO_TICKET)
            return
        if hello.server_name is None:
            return
        name = _host_name(hello.server_name)
        context = None
        if not hello.tls_1_3 and name is not None:
            try:
                context = self.live.context_of_name(name)
            except SSL.Error:  # it was made of the same credential before: no memory, at most
                context = None
        if context is None and not hello.tls_1_3:
            self.set_options(SSL.OP_NO_TICKET)
        self.set_context(context or self.live.context_for(name or ""))


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """What `startTLS` and `TLSMemoryBIOFactory` take, for a listener without a policy of its own; `view` for others.

    `policies` by the listeners' names. Raises OpenSSL.SSL.Error when OpenSSL refuses a credential.
    """

    def __init__(self, table: CredentialTable, policies: Mapping[str, ListenerPolicy] | None = None) -> None:
        self._table = table
        self._policies = dict(policies or {})
        self._lives = _make_lives(table, self._policies)

    @property
    def table(self) -> CredentialTable:
        """The table that new connections use."""
        return self._table

    @property
    def policies(self) -> Mapping[str, ListenerPolicy]:
        """The policies that new connections are held to."""
        return self._policies

    def view(self, listener: str) -> ListenerTLS:
        """The same for one listener, held to its policy as it is at each connection."""
        return ListenerTLS(self, listener)

    def replace(self, table: CredentialTable) -> None:
        """Use this table from the next connection on, on all listeners; those that run keep theirs.

        All contexts are made first, so that an error (OpenSSL.SSL.Error) leaves everything as it was.
        """
        self._lives = _make_lives(table, self._policies)
        self._table = table

    def demand(self, policies: Mapping[str, ListenerPolicy]) -> None:
        """Hold the listeners to these policies from the next connection on; as `replace` otherwise."""
        self._lives = _make_lives(self._table, policies)
        self._policies = dict(policies)

    def connection(self, listener: str) -> SSL.Connection:
        """A connection for this listener that begins with the default certificate; SNI may choose another."""
        live = self._lives.get(listener) or self._lives[""]
        connection = _ServerConnection(live.default, None)
        connection.live = live
        if live.policy.tickets and live.policy.clients.asking is Asking.OFF:
            connection.hello = HelloReader()
        return connection

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `connection` (Twisted's interface)."""
        return self.connection("")


@implementer(IOpenSSLServerConnectionCreator)
class ListenerTLS:
    """One listener's view of the shared object."""

    def __init__(self, shared: ServerTLS, listener: str) -> None:
        self._shared = shared
        self._listener = listener

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `ServerTLS.connection` (Twisted's interface)."""
        return self._shared.connection(self._listener)


def openssl_refuses(credential: Credential) -> str:
    """Why OpenSSL would not serve with this credential, "" when it would: asked before a table goes live."""
    try:
        _make_context(credential, DEFAULT_POLICY)
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
    client = client_certificate(handle, datetime.now(UTC))
    group = handle.get_group_name()
    return TLSFacts(handle.get_protocol_version_name(), cipher, bits, group, _server_name(handle), client)


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


def _make_lives(table: CredentialTable, policies: Mapping[str, ListenerPolicy]) -> dict[str, _Live]:
    """The contexts of each listener; those with equal policies share them."""
    lives = {"": _make_live(table, DEFAULT_POLICY)}
    for listener, policy in policies.items():
        same = (live for live in lives.values() if live.policy == policy)
        lives[listener] = next(same, None) or _make_live(table, policy)
    return lives


def _make_live(table: CredentialTable, policy: ListenerPolicy) -> _Live:
    contexts = {id(each): _make_context(each, policy, "*") for each in (table.default, *table.credentials)}
    live = _Live(table, policy, _make_context(table.default, policy), contexts)

    def choose(connection: SSL.Connection) -> None:
        # An exception in here would only be printed by cffi and the handshake would go on: nothing below can
        # fail.
        if connection.get_context() is live.default and connection.get_servername() is not None:
            connection.set_context(live.context_for(_server_name(connection) or ""))

    live.default.set_tlsext_servername_callback(choose)
    return live


def _make_context(credential: Credential, policy: ListenerPolicy, name: str = "") -> SSL.Context:
    """A context for the clients that ask for ``name``: "" for those without one, "*" for any."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS_TLS12)
    ask_clients(context, policy.clients)
    if not policy.tickets:
        context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # A session belongs to the certificate that it was made under: after a replacement a full handshake shows
    # the new one. OpenSSL takes 32 octets.
    context.set_session_id(hashlib.sha256(credential.fingerprint + name.encode("ascii")).digest())
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
    return None if name is None else _host_name(name)


def _host_name(name: bytes) -> str | None:
    if len(name) > 253 or not _HOST_NAME.fullmatch(name):
        return None
    return name.decode("ascii").lower()
