"""ServerTLS in real handshakes: OpenSSL on both sides, in memory, and once over loopback with STARTTLS."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, replace
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet import defer, endpoints, protocol, task
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from mailsvc.certkit.keys import new_key
from mailsvc.mail.channel import TLSFacts
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.server import ServerTLS, tls_facts
from mailsvc.tls.table import CredentialTable, make_table
from tests.pki import authority, credential


def made(*names: str) -> Credential:
    issued = credential(names)
    return make_credential(names[0], (issued.certificate, authority().certificate), issued.key)


def table(*credentials: Credential) -> CredentialTable:
    return make_table(credentials, "mail.example.org")


MAIL, POP, WILD = made("mail.example.org"), made("pop.example.org"), made("*.wild.example.org")


@implementer(IOpenSSLClientConnectionCreator)
class Client:
    """A client that trusts the test CA and asks for `name`."""

    def __init__(self, name: bytes | None = None, *, context: SSL.Context | None = None) -> None:
        self.name = name
        self.session: SSL.Session | None = None
        self.context = context or SSL.Context(SSL.TLS_CLIENT_METHOD)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self.context, None)
        if self.name is not None:
            connection.set_tlsext_host_name(self.name)
        if self.session is not None:
            connection.set_session(self.session)
        return connection


class Recorder(protocol.Protocol):
    """Keeps what arrives and why it ended."""

    def __init__(self) -> None:
        self.received = b""
        self.reason: BaseException | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.reason = getattr(reason, "value", None)


@dataclass
class Talk:
    """Both ends of one connection in memory."""

    server: TLSMemoryBIOProtocol
    client: TLSMemoryBIOProtocol
    server_end: Recorder
    client_end: Recorder
    clock: task.Clock
    pump: iosim.IOPump | None = None

    def begin(self) -> Talk:
        ends = iosim.FakeTransport(self.server, True), iosim.FakeTransport(self.client, False)
        self.pump = iosim.connect(self.server, ends[0], self.client, ends[1])
        return self.flush()

    def flush(self) -> Talk:
        assert self.pump is not None
        self.clock.advance(1)
        self.pump.flush()
        return self

    def shown(self) -> str | None:
        """The folder whose certificate the client got; None when there is no connection."""
        handle = self.client.getHandle()
        leaf = handle.get_peer_certificate(as_cryptography=True) if handle is not None else None
        return None if leaf is None else {each.leaf: each.name for each in (MAIL, POP, WILD)}[leaf]

    def exchange(self, data: bytes) -> bytes:
        """What the client sends, as the server's protocol gets it."""
        assert self.client_end.transport is not None
        self.client_end.transport.write(data)
        self.flush()
        return self.server_end.received


def talk(server: ServerTLS, client: Client) -> Talk:
    clock = task.Clock()
    inner = Recorder(), Recorder()
    ends = []
    creators: tuple[ServerTLS | Client, ...] = (server, client)
    for creator, end in zip(creators, inner, strict=True):
        factory = protocol.Factory()
        factory.buildProtocol = lambda addr, end=end: end  # type: ignore[method-assign, misc]
        ends.append(TLSMemoryBIOFactory(creator, creator is client, factory, clock).buildProtocol(None))
    return Talk(ends[0], ends[1], *inner, clock)


class HandshakeTests(SynchronousTestCase):
    """What is negotiated."""

    def setUp(self) -> None:
        self.server = ServerTLS(table(MAIL, POP, WILD))

    def test_sni_picks_the_certificate(self) -> None:
        """Exact, wildcard, in any case; an unknown name and no name get the default."""
        for name, folder in (
            (b"pop.example.org", "pop.example.org"),
            (b"POP.Example.org", "pop.example.org"),
            (b"a.wild.example.org", "*.wild.example.org"),
            (b"unknown.example", "mail.example.org"),
            (b"-_-", "mail.example.org"),
            (b"\xff\xfe not a name", "mail.example.org"),
            (None, "mail.example.org"),
        ):
            self.assertEqual(talk(self.server, Client(name)).begin().shown(), folder, name)

    def test_the_chain_is_sent_and_verifies(self) -> None:
        """A client that trusts the CA and checks gets through, and the CA's certificate came along (for every
        SNI)."""
        for name in (b"mail.example.org", b"pop.example.org"):
            client = Client(name)
            store = client.context.get_cert_store()
            assert store is not None
            store.add_cert(X509.from_cryptography(authority().certificate))
            client.context.set_verify(SSL.VERIFY_PEER)
            done = talk(self.server, client).begin()
            chain = done.client.getHandle().get_peer_cert_chain(as_cryptography=True)
            self.assertEqual(chain[1], authority().certificate)
            self.assertEqual(done.exchange(b"hello"), b"hello")

    def test_the_facts_of_tls_1_3(self) -> None:
        """Version, cipher, bits, the post-quantum group, and the name asked for, in lower case."""
        done = talk(self.server, Client(b"POP.example.org")).begin()
        expected = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "X25519MLKEM768", "pop.example.org")
        self.assertEqual(tls_facts(done.server), expected)
        self.assertEqual(tls_facts(done.server_end.transport), expected)

    def test_the_facts_of_tls_1_2(self) -> None:
        """Forward secrecy and authenticated encryption, whatever else the client would take."""
        client = Client()
        client.context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client.context.set_cipher_list(
            b"ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
        )
        facts = tls_facts(talk(self.server, client).begin().server)
        assert facts is not None
        self.assertEqual((facts.version, facts.cipher), ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"))
        self.assertEqual((facts.bits, facts.server_name), (256, None))

    def test_a_client_with_old_ciphers_only_is_refused(self) -> None:
        """CBC suites are not offered, nor is a handshake without forward secrecy."""
        for ciphers in (b"ECDHE-ECDSA-AES128-SHA", b"AES128-GCM-SHA256"):
            client = Client()
            client.context.set_max_proto_version(SSL.TLS1_2_VERSION)
            client.context.set_cipher_list(ciphers)
            done = talk(self.server, client).begin()
            self.assertIsNone(tls_facts(done.server))
            self.assertIsInstance(done.server_end.reason, SSL.Error)

    def test_offering_alpn_does_not_abort(self) -> None:
        """Twisted's own server options would; here the handshake goes on without a protocol, for every
        SNI."""
        for name in (b"mail.example.org", b"pop.example.org"):
            client = Client(name)
            client.context.set_alpn_protos([b"smtp", b"h2"])
            done = talk(self.server, client).begin()
            self.assertEqual(done.exchange(b"hello"), b"hello")
            self.assertEqual(done.client.getHandle().get_alpn_proto_negotiated(), b"")

    def test_tls_1_1_and_older_are_refused_with_the_right_alert(self) -> None:
        """A ClientHello for SSL 3.0 to TLS 1.1, byte by byte, gets the fatal alert protocol_version (70)."""
        for minor in (0, 1, 2):
            body = bytes([3, minor]) + b"r" * 32 + b"\x00" + b"\x00\x06\xc0\x09\xc0\x13\x00\x2f" + b"\x01\x00"
            hello = b"\x01" + len(body).to_bytes(3, "big") + body
            answer = self.answer(b"\x16\x03\x01" + len(hello).to_bytes(2, "big") + hello)
            self.assertEqual((answer[:1], answer[-2:]), (b"\x15", b"\x02\x46"), (minor, answer))

    def test_plain_text_instead_of_a_handshake_ends_the_connection(self) -> None:
        """An HTTP or SMTP client that talks plainly gets nothing but an alert."""
        for line in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"EHLO client\r\n"):
            answer = self.answer(line)
            self.assertTrue(answer == b"" or answer[:1] == b"\x15", answer)

    def answer(self, data: bytes) -> bytes:
        """What the server sends for these bytes; the connection must be closing then."""
        end = TLSMemoryBIOFactory(self.server, False, protocol.Factory.forProtocol(Recorder), task.Clock())
        server, transport = end.buildProtocol(None), StringTransport()
        server.makeConnection(transport)
        server.dataReceived(data)
        self.assertTrue(transport.disconnecting)
        answer: bytes = transport.value()
        return answer

    def test_a_client_cannot_renegotiate(self) -> None:
        """In TLS 1.2 it could make the server compute for ever; the request is declined."""
        client = Client()
        client.context.set_max_proto_version(SSL.TLS1_2_VERSION)
        done = talk(self.server, client).begin()
        handle = done.server.getHandle()
        done.client.getHandle().renegotiate()
        done.exchange(b"x")
        self.assertEqual(handle.total_renegotiations(), 0)

    def test_a_ticket_resumes_the_session(self) -> None:
        """The second handshake is much shorter, because no certificate is sent."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            client = Client(b"pop.example.org")
            client.context.set_max_proto_version(version)
            first = talk(self.server, client).begin()
            first.exchange(b"x")
            client.session = first.client.getHandle().get_session()
            full = len(self.server_bytes(Client(b"pop.example.org", context=client.context)))
            self.assertLess(len(self.server_bytes(client)), full - 800)

    def test_a_session_is_resumed_under_its_name_only(self) -> None:
        """RFC 6066 section 3: in TLS 1.2 a session is not resumed under another name, nor with a name when it had
        none, even when both names have one certificate; in TLS 1.3, where names are not part of a session (RFC 8446
        section 4.2.11), it is not resumed under another certificate.

        Rule: A session is not resumed under another server name
        """
        two = made("one.example.org", "two.example.org")
        self.server = ServerTLS(table(MAIL, POP, WILD, two))
        mail, pop, one, other = b"mail.example.org", b"pop.example.org", b"one.example.org", b"two.example.org"
        old, new = SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION
        for first, second, resumed in (
            (mail, mail, {old, new}),
            (None, None, {old, new}),
            (pop, b"POP.example.org", {old, new}),
            (mail, pop, set()),
            (pop, mail, set()),
            (None, pop, set()),
            (pop, None, set()),
            (None, mail, set()),
            (mail, None, set()),
            (mail, b"unknown.example", {new}),
            (b"unknown.example", mail, {new}),
            (one, other, {new}),
            (other, other, {old, new}),
            (b"a.wild.example.org", b"b.wild.example.org", {new}),
        ):
            for version in (old, new):
                checks: list[int] = []
                client = Client(first)
                client.context.set_max_proto_version(version)
                # Asked in full handshakes only.
                client.context.set_verify(SSL.VERIFY_PEER, lambda *call, checks=checks: not checks.append(1))
                done = talk(self.server, client).begin()
                done.exchange(b"x")
                client.session = done.client.getHandle().get_session()
                checks.clear()
                client.name = second
                done = talk(self.server, client).begin()
                self.assertEqual(done.exchange(b"x"), b"x")
                self.assertEqual(not checks, version in resumed, (first, second, version))
                facts = tls_facts(done.server)
                assert facts is not None
                self.assertEqual(facts.server_name, None if second is None else second.decode("ascii").lower())

    def test_a_hello_in_pieces(self) -> None:
        """The name counts however TCP cuts the hello: octet by octet it is the same certificate, and resumed."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            client = Client(b"pop.example.org")
            client.context.set_max_proto_version(version)
            first = talk(self.server, client).begin()
            first.exchange(b"x")
            client.session = first.client.getHandle().get_session()
            whole = len(self.server_bytes(client))
            self.assertEqual(len(self.server_bytes(client, at_once=1)), whole)

    def test_names_are_bounded(self) -> None:
        """Whatever names clients of TLS 1.2 ask for, contexts of their own are for names that certificates have."""
        for number in range(5):
            for name in (b"%d.wild.example.org" % number, b"%d.example" % number, b"pop.example.org"):
                client = Client(name)
                client.context.set_max_proto_version(SSL.TLS1_2_VERSION)
                self.assertIsNotNone(talk(self.server, client).begin().shown())
        self.assertEqual(list(self.server._lives[""].named), ["pop.example.org"])

    def server_bytes(self, client: Client, at_once: int = 1 << 20) -> bytes:
        """All that the server sends for a handshake, when it gets so many octets at a time."""
        both = talk(self.server, client)
        sent = StringTransport()
        there = StringTransport()
        both.client.makeConnection(there)
        both.server.makeConnection(sent)
        total = b""
        while there.value():
            data = there.value()
            there.clear()
            for place in range(0, len(data), at_once):
                both.server.dataReceived(data[place : place + at_once])
            total += sent.value()
            if sent.value():
                both.client.dataReceived(sent.value())
            sent.clear()
        self.assertIsNotNone(tls_facts(both.server))
        # A connection that is thrown away without close_notify takes its session with it, whenever that may be.
        self.addCleanup(lambda: both)
        return total


class FactsTests(SynchronousTestCase):
    """`tls_facts` where there is nothing to tell."""

    def test_no_tls_no_facts(self) -> None:
        """A plain transport, one without a handle, and none at all."""
        for transport in (StringTransport(), object(), None):
            self.assertIsNone(tls_facts(transport))

    def test_no_facts_before_the_handshake_and_after_the_end(self) -> None:
        """Nothing is claimed that was not negotiated to the end."""
        server = ServerTLS(table(MAIL))
        both = talk(server, Client())
        hello, answer = StringTransport(), StringTransport()
        both.client.makeConnection(hello)
        both.server.makeConnection(answer)
        self.assertIsNone(tls_facts(both.server))
        both.server.dataReceived(hello.value())
        self.assertNotEqual(answer.value(), b"")
        self.assertIsNone(tls_facts(both.server), "the client's Finished has not come")
        done = talk(server, Client()).begin()
        done.client.abortConnection()
        done.flush()
        self.assertIsNone(tls_facts(done.server))

    def test_a_name_that_could_forge_a_header_is_not_repeated(self) -> None:
        """SNI is the client's text: what is no host name stays out of headers and logs."""
        server = ServerTLS(table(MAIL))
        for name in (b"a\r\nReceived: forged", b"a b", b"(comment)", b"x" * 254, b"a..b", b"\xc3\xa4.example"):
            facts = tls_facts(talk(server, Client(name)).begin().server)
            self.assertIsNone(facts and facts.server_name, name)


class ReplaceTests(SynchronousTestCase):
    """`replace`: atomic, and only for what comes after."""

    def test_new_connections_get_the_new_certificate_running_ones_keep_theirs(self) -> None:
        """A session goes on undisturbed, with its facts."""
        server = ServerTLS(table(MAIL))
        old = talk(server, Client()).begin()
        server.replace(table(POP))
        self.assertEqual(talk(server, Client()).begin().shown(), "pop.example.org")
        self.assertEqual((old.shown(), old.exchange(b"still here")), ("mail.example.org", b"still here"))
        self.assertEqual(server.table.default, POP)

    def test_a_connection_that_waits_for_its_hello_keeps_the_table_it_began_with(self) -> None:
        """Accepted before, handshake after: all from the old table, never half of each."""
        server = ServerTLS(table(MAIL, WILD))
        waiting = talk(server, Client(b"a.wild.example.org"))
        waiting.server.makeConnection(iosim.FakeTransport(waiting.server, True))
        handle = waiting.server.getHandle()
        server.replace(table(POP))
        self.assertIsNot(handle.get_context(), server.serverConnectionForTLS(waiting.server).get_context())
        pinned = Pinned(handle)
        done = talk(pinned, Client(b"a.wild.example.org")).begin()
        self.assertEqual(done.shown(), "*.wild.example.org")

    def test_a_session_of_the_old_certificate_shows_the_new_one(self) -> None:
        """Resumption does not keep a replaced certificate alive."""
        server, client = ServerTLS(table(MAIL)), Client()
        first = talk(server, client).begin()
        first.exchange(b"x")
        client.session = first.client.getHandle().get_session()
        server.replace(table(POP))
        self.assertEqual(talk(server, client).begin().shown(), "pop.example.org")

    def test_a_table_that_openssl_refuses_changes_nothing(self) -> None:
        """All contexts are made before the first is used."""
        server = ServerTLS(table(MAIL))
        broken = replace(POP, key=new_key())
        self.assertRaises(SSL.Error, server.replace, table(MAIL, broken))
        self.assertEqual(server.table.credentials, (MAIL,))
        self.assertEqual(talk(server, Client(b"pop.example.org")).begin().shown(), "mail.example.org")

    def test_replaced_contexts_are_freed(self) -> None:
        """A server that reloads for years does not grow."""
        server = ServerTLS(table(MAIL, POP))
        connection = server.serverConnectionForTLS(talk(server, Client()).server)
        old = weakref.ref(connection.get_context())
        del connection
        server.replace(table(POP))
        gc.collect()
        self.assertIsNone(old())


class Pinned(ServerTLS):
    """Gives out one connection that was made earlier."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._connection


@implementer(IHandshakeListener)
class Upgrading(protocol.Protocol):
    """Either end of a plain conversation that turns to TLS after one line."""

    transport: Any

    def __init__(self, creator: object, done: defer.Deferred[TLSFacts | None], first: bytes = b"") -> None:
        self.creator, self.done, self.first = creator, done, first

    def connectionMade(self) -> None:
        if self.first:
            self.transport.write(self.first)

    def dataReceived(self, data: bytes) -> None:
        if not self.first:
            self.transport.write(b"220 go ahead\r\n")
        self.transport.startTLS(self.creator)

    def handshakeCompleted(self) -> None:
        self.done.callback(tls_facts(self.transport))


class LoopbackTests(TestCase):
    """`transport.startTLS` needs a real transport."""

    async def test_starttls_over_loopback(self) -> None:
        """The same object upgrades a running TCP connection, and both ends know the same facts."""
        from twisted.internet import reactor

        server_done: defer.Deferred[TLSFacts | None] = defer.Deferred()
        client_done: defer.Deferred[TLSFacts | None] = defer.Deferred()
        server = Upgrading(ServerTLS(table(MAIL, POP)), server_done)
        client = Upgrading(Client(b"pop.example.org"), client_done, b"STARTTLS\r\n")
        factory = protocol.Factory()
        factory.buildProtocol = lambda addr: server  # type: ignore[method-assign]
        port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        there = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        await endpoints.connectProtocol(there, client)
        facts, seen = await server_done, await client_done
        assert facts is not None and seen is not None
        self.assertEqual(facts, TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "X25519MLKEM768", "pop.example.org"))
        self.assertEqual((seen.cipher, seen.group), (facts.cipher, facts.group))
        ended: defer.Deferred[None] = defer.Deferred()
        server.connectionLost = lambda reason=None: ended.callback(None)  # type: ignore[method-assign]
        client.transport.loseConnection()
        await ended
