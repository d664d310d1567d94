"""A host whose logins go through the real engine, and a client of it: what the tests of AUTH in SMTP and POP3 share."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, ClassVar

from mailsvc.accounts.authenticator import Authenticator
from mailsvc.accounts.guard import Guard
from mailsvc.accounts.proofs import ProofChecker
from mailsvc.accounts.realm import portal
from mailsvc.accounts.throttle import Throttle
from mailsvc.sasl.scram import Salting, make_verifier, salt_of
from mailsvc.smtp.authentication import SaslAuthenticator
from mailsvc.storage import credentials
from tests.memory import ALICE, PASSWORD, Client, MailCase, MailHost
from tests.scram_client import ScramClient

CHEAPEST = 4096
"""Iterations of SCRAM: the fewest that there may be."""


def b64(data: bytes) -> bytes:
    """``data`` as a line of AUTH."""
    return base64.b64encode(data)


class AuthCase(MailCase):
    """A host with one engine for SMTP and POP3; alice has a verifier of her password."""

    goes_on: ClassVar[bytes] = b"334 "
    """How a reply begins that is a challenge."""

    def auth_host(self, **settings: Any) -> MailHost:
        """The host; ``settings`` are those of `MailHost`."""
        host = self.host(**settings)
        self.guard = Guard(Throttle(), host.reactor)
        self.guard.start()
        proofs = ProofChecker(host.store, self.guard, host.reactor, iterations=CHEAPEST)
        engine = Authenticator(portal(host.checker), proofs=proofs)
        host.readers = replace(host.readers, authenticator=engine)
        host.helpers = replace(host.helpers, authenticator=SaslAuthenticator(engine))
        key = host.store.now(credentials.salt_key, b"k" * 32)
        verifier = make_verifier(PASSWORD, Salting(salt_of(key, ALICE), CHEAPEST)).to_text()
        host.store.now(credentials.add_verifier, ALICE, PASSWORD, verifier, 1.0)
        return host

    def binding(self, client: Client) -> bytes:
        """What the client sees of the channel."""
        assert client.tls is not None
        return client.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def challenge(self, answer: bytes) -> bytes:
        """What a challenge says."""
        self.assertTrue(answer.startswith(self.goes_on) and answer.endswith(b"\r\n"), answer)
        return base64.b64decode(answer[len(self.goes_on) : -2])

    def scram(self, client: Client, who: ScramClient, mechanism: bytes = b"SCRAM-SHA-256") -> bytes:
        """The reply to the end of an exchange; a server that proves itself is checked."""
        server_first = self.challenge(client.ask(b"AUTH " + mechanism + b" " + b64(who.first)))
        answer = client.ask(b64(who.final(server_first)))
        if answer.startswith(self.goes_on):
            self.assertTrue(who.believes(self.challenge(answer)))
            answer = client.ask(b"")
        return answer
