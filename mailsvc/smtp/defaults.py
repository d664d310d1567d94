"""One of each of `mailsvc.smtp.seams` that decides as little as possible: what a small installation or a test needs.

`OpenGate` lets everybody in and ends a session after too many errors; `AccountDirectory` knows accounts and no aliases;
`PasswordAuthenticator` knows PLAIN and LOGIN; `AnySender` trusts whoever has logged in; `NoMemory` remembers
nothing; `LogJournal` writes the log.
"""

from __future__ import annotations

from twisted.cred.portal import Portal
from twisted.python.failure import Failure

from mailsvc import maillog
from mailsvc.accounts.authenticator import Authenticator
from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.reply import Reply
from mailsvc.smtp.authentication import SaslAuthenticator
from mailsvc.smtp.recipients import RecipientFacts, judgement
from mailsvc.smtp.seams import Client, Destination, LoginFailed, Machine
from mailsvc.storage import accounts
from mailsvc.storage.rows import Cursor
from mailsvc.storage.store import Store


class AccountDirectory:
    """Accounts, and nothing else, get mail."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def resolve(self, address: Address, client: Client, size: int = 0) -> Destination:
        """See `mailsvc.smtp.seams.Directory`."""
        facts = await self._store.read(recipient_facts, address)
        answer = judgement(facts, authenticated=client.is_ours)
        if answer.is_error or facts.account is None:
            return Destination(refusal=answer)
        return Destination((facts.account,))


def recipient_facts(txn: Cursor, address: Address) -> RecipientFacts:
    """`RecipientFacts` of ``address``, from the tables."""
    account = accounts.account(txn, address.key)
    if account is not None:
        return RecipientFacts(domain_is_local=True, account=account.id, disabled=account.disabled)
    return RecipientFacts(domain_is_local=accounts.domain_exists(txn, address.domain), account=None)


class OpenGate:
    """Admits everybody."""

    def admit(self, client: Client) -> OpenGuard:
        """See `mailsvc.smtp.seams.Gate`."""
        return OpenGuard()


class OpenGuard:
    """Lets everything pass."""

    async def greeting(self, client: Client) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        return None

    def spoke_early(self, client: Client, octets: int) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        return None

    async def command(self, client: Client, verb: str, argument: str) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        return None

    async def recipient(self, client: Client, address: Address) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        return None

    def answered(self, client: Client, verb: str, answer: Reply) -> Reply | None:
        """See `mailsvc.smtp.seams.Guard`."""
        return None

    def ended(self, client: Client) -> None:
        """See `mailsvc.smtp.seams.Guard`."""


class PasswordAuthenticator(SaslAuthenticator):
    """PLAIN and LOGIN inside TLS, checked by a twisted.cred portal; see `mailsvc.accounts.authenticator`."""

    def __init__(self, portal: Portal) -> None:
        super().__init__(Authenticator(portal))


class AnySender:
    """Whoever has logged in may send as anybody."""

    async def at_mail(self, client: Client, reverse_path: Address | None) -> Reply | None:
        """See `mailsvc.smtp.seams.Senders`."""
        return None

    async def at_end(self, client: Client, header: bytes) -> Reply | None:
        """See `mailsvc.smtp.seams.Senders`."""
        return None


class NoMachines:
    """Everybody logs in."""

    async def recognise(self, client: Client) -> Machine | None:
        """See `mailsvc.smtp.seams.Machines`."""
        return None


class NoMemory:
    """Remembers nothing."""

    async def at_mail(self, client: Client, reverse_path: Address | None) -> Reply | None:
        """See `mailsvc.smtp.seams.ChannelMemory`."""
        return None

    def accepted(self, client: Client, reverse_path: Address | None) -> None:
        """See `mailsvc.smtp.seams.ChannelMemory`."""


class LogJournal:
    """Each event as a line of the log; see `mailsvc.smtp.seams.Journal`."""

    def connected(self, client: Client) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.connected(client.listener, client.peer)

    def turned_away(self, client: Client, why: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.refused_connection(client.listener, client.peer, why)

    def secured(self, client: Client) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        if client.tls is not None:
            maillog.secured(client.listener, client.peer, client.tls)

    def handshake_failed(self, client: Client, why: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.refused(client.listener, client.peer, "TLS handshake", why)

    def disconnected(self, client: Client, why: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.disconnected(client.listener, client.peer, why)

    def injection(self, client: Client, octets: int) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.injection(client.listener, client.peer, octets)

    def logged_in(self, client: Client, mechanism: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.logged_in(client.listener, client.peer, str(client.login), client.tls)

    def login_failed(self, client: Client, mechanism: str, failed: LoginFailed) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.login_failed(client.listener, client.peer, failed.name)

    def recipient_refused(self, client: Client, sender: str, address: Address, answer: Reply) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.refused(client.listener, client.peer, f"recipient <{address}>", str(answer))

    def message_refused(self, client: Client, envelope: Envelope, size: int, answer: Reply) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.refused(client.listener, client.peer, "message", str(answer))

    def refused(self, client: Client, what: str, why: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.refused(client.listener, client.peer, what, why)

    def answered(self, client: Client, verb: str, answer: Reply) -> None:
        """See `mailsvc.smtp.seams.Journal`."""

    def noted(self, client: Client, text: str) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.noted(client.listener, client.peer, text)

    def accepted(self, client: Client, envelope: Envelope, trace_id: str, size: int) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        recipients = [str(recipient) for recipient in envelope.recipients]
        maillog.accepted(trace_id, client.peer, envelope.sender, recipients, size, client.tls)

    def unavailable(self, client: Client, what: str, error: Exception) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.unavailable(client.listener, client.peer, what, error)

    def defect(self, client: Client, error: BaseException) -> None:
        """See `mailsvc.smtp.seams.Journal`."""
        maillog.defect(client.listener, client.peer, Failure(error, type(error), error.__traceback__))
