"""Clients with certificates, and a mail host that asks for them: what the tests of identities share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IProtocolFactory

from mailsvc.accounts.authenticator import Authenticator
from mailsvc.accounts.certificates import CertificateOwners
from mailsvc.accounts.realm import portal as make_portal
from mailsvc.journal import Journal
from mailsvc.mail.address import Address
from mailsvc.pop3.admission import Admission
from mailsvc.pop3.rules import Helpers as POP3Helpers
from mailsvc.pop3.rules import Rules as POP3Rules
from mailsvc.pop3.server import POP3Factory
from mailsvc.sasl.base64 import encode
from mailsvc.smtp.authentication import SaslAuthenticator
from mailsvc.smtp.journal import SMTPJournal
from mailsvc.smtp.machines import RelayClients
from mailsvc.smtp.modes import SUBMISSION, Mode
from mailsvc.smtp.ownership import OwnSenders
from mailsvc.smtp.rules import Rules as SMTPRules
from mailsvc.smtp.server import SMTPFactory
from mailsvc.storage import identities
from mailsvc.storage.senders import is_name_of
from mailsvc.tls.policy import Asking, ClientCertificatePolicy, ListenerPolicy
from mailsvc.tls.recheck import spki_digest
from mailsvc.tls.roots import OnlyThese, Trust
from mailsvc.tls.server import ServerTLS
from mailsvc.wire.implicit import ImplicitTLSFactory
from tests.bad_certificates import Made, make, root, san
from tests.memory import ALICE, HOSTNAME, PEER, Client, MailHost, Wire, server_tls


def person(name: str = "alice", *emails: str, issuer: Made | None = None, alone: bool = False, **how: Any) -> Made:
    """A client certificate for this common name and these addresses; `alone`: it signs itself."""
    names = san(raw=[x509.RFC822Name(email) for email in emails]) if emails else None
    return make(None if alone else issuer or root(), name, names=names, **how)


def expired(name: str = "alice", **how: Any) -> Made:
    """One that ended yesterday."""
    return person(name, start=timedelta(days=-30), end=timedelta(days=-1), **how)


def key_of(made: Made) -> str:
    """The fingerprint of its key."""
    return spki_digest(made.certificate)


def showing(made: Made | None, *, newest: int = SSL.TLS1_3_VERSION) -> SSL.Context:
    """A client's context that shows this certificate when it is asked for one."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(newest)
    if made is not None:
        context.use_certificate(made.certificate)
        context.use_privatekey(made.key)
    return context


def asking(
    how: Asking = Asking.ASK, *roots: Made, crls: tuple[x509.CertificateRevocationList, ...] = ()
) -> ListenerPolicy:
    """A policy with these roots."""
    trusted = tuple(each.certificate for each in roots or (root(),))
    return ListenerPolicy(ClientCertificatePolicy(how, Trust(OnlyThese(trusted), crls)))


class AskingHost(MailHost):
    """A `MailHost` whose servers ask for certificates, with the authenticator and the journal of the service.

    ``vouching`` are the CAs that may vouch for addresses.
    """

    def __init__(self, policies: Mapping[str, ListenerPolicy] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        names = ("smtp", "submission", "submissions", "lmtp", "pop3", "pop3s")
        self.tls = ServerTLS(server_tls().table, policies or dict.fromkeys(names, asking()))
        self.vouching: frozenset[str] = frozenset()
        self.journal = Journal(self.store, self.reactor)
        owners = CertificateOwners(self.store, self.reactor, lambda: self.vouching)

        def acts_as(account: Any, address: Address) -> Any:
            return self.store.read(is_name_of, account.id, address)

        self.engine = Authenticator(make_portal(self.checker), certificates=owners, acts_as=acts_as)
        self.helpers = replace(
            self.helpers,
            authenticator=SaslAuthenticator(self.engine),
            senders=OwnSenders(self.store, self.reactor),
            machines=RelayClients(self.store, self.reactor),
            journal=SMTPJournal(self.journal),
        )

    def know(self, made: Made, address: str = ALICE, label: str = "laptop") -> None:
        """`mailsvc user certificate add`."""
        self.store.now(identities.add_certificate, address, label, key_of(made), "", 0.0)

    def events(self) -> list[tuple[Any, ...]]:
        """(kind, state of the certificate, subject, issuer, key, reasons) of what was noted."""
        self.journal.start()
        self.reactor.pass_time(5)
        rows = self.store.connection.execute(
            "SELECT kind, client_certificate, client_subject, client_issuer, client_spki, client_reasons FROM event"
            " ORDER BY id"
        ).fetchall()
        self.journal.stop()
        return [tuple(row) for row in rows]

    def meet(self, factory: IProtocolFactory, listener: str, *, implicit: bool) -> Client:
        """A connection to a factory of this listener."""
        if implicit:
            factory = ImplicitTLSFactory(self.tls.view(listener), False, factory, self.reactor)
        protocol = factory.buildProtocol(PEER)
        assert protocol is not None
        wire = Wire(self.reactor, PEER)
        client = Client(self.reactor, wire, self.cut)
        self.clients.append(client)
        wire.begin(protocol)
        client.settle()
        return client

    def shake(self, client: Client, context: SSL.Context) -> None:
        """The handshake of a client that shows what its context has."""
        client.begin_handshake(context)
        for _ in range(4):
            client.settle()

    def sender(self, made: Made | None, mode: Mode = SUBMISSION, *, context: SSL.Context | None = None) -> Client:
        """An SMTP client that shows this certificate and has said EHLO inside TLS."""
        rules = SMTPRules(mode, HOSTNAME, self.body, self.patience)
        view = self.tls.view(mode.name)
        factory = SMTPFactory(rules, self.helpers, view, self.reactor, self.sessions)
        client = self.meet(factory, mode.name, implicit=mode.implicit_tls)
        if not mode.implicit_tls:
            client.ask(b"STARTTLS")
        self.shake(client, context or showing(made))
        client.take()
        self.greeting = client.ask(b"LHLO client.example.net" if mode.lmtp else b"EHLO client.example.net")
        return client

    def fetcher(self, made: Made | None) -> Client:
        """A POP3 client that shows this certificate and has done STLS."""
        rules = POP3Rules("pop3", False, HOSTNAME, self.patience)
        helpers = POP3Helpers(self.maildrops, self.engine, Admission())
        factory = POP3Factory(rules, helpers, self.tls.view("pop3"), self.reactor, self.sessions, self.journal)
        client = self.meet(factory, "pop3", implicit=False)
        client.ask(b"STLS")
        self.shake(client, showing(made))
        client.take()
        return client


def external(authzid: str = "") -> bytes:
    """The command AUTH EXTERNAL with its initial response."""
    return b"AUTH EXTERNAL " + (encode(authzid.encode()).encode() if authzid else b"=")


def mail(client: Client, sender: str = ALICE, to: str = ALICE, text: bytes = b"Subject: x\r\n\r\nbody\r\n") -> bytes:
    """Hand in a message; the last reply."""
    for line in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{to}>", "DATA"):
        answer = client.ask(line.encode())
        if answer[:1] not in (b"2", b"3"):
            return answer
    client.put(text)
    return client.ask(b".")
